"""Every stage of the pipeline at toy size: training, reading rows, written questions, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.embedded.corpus import ASK, A, Passage
from core.embedded.export import hf_model, save_folder
from core.embedded.questions import QA
from core.embedded.reading import in_context, reading_rows, widened
from core.embedded.train import TrainConfig, schedule, train
from core.embedded.write_questions import teach, write
from core.model import EMBEDDED

TOKENIZER = EMBEDDED / "tokenizer.json"
SMALL = dict(seconds=1e6, batch=4, length=64, compile=False, warmup_steps=2, width=64, layers=2, heads=1, mlp=128)
PORTS = [
    Passage("Port", f"Berth {n} is kept by Orla Quint.", [QA(f"Who keeps berth {n}?", "Orla Quint")]) for n in range(8)
]


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    np.save(tmp_path / "tokens.npy", np.tile(np.arange(6, 206, dtype=np.uint16), 20))
    (tmp_path / "tokens.ready").touch()
    return str(tmp_path / "tokens.npy")


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("precision")
def test_training_lowers_the_loss_and_goes_on_from_its_checkpoint(tokens: str, tmp_path: Path) -> None:
    first = train(TrainConfig(out=str(tmp_path / "a"), tokens=(tokens,), val=tokens, max_steps=20, **SMALL))
    assert first["step"] == 20 and first["val_loss"] < 9.0  # ln 16384 = 9.7
    checkpoint = str(tmp_path / "a" / "model.pt")
    second = train(
        TrainConfig(out=str(tmp_path / "b"), tokens=(tokens,), val=tokens, max_steps=0, checkpoint=checkpoint, **SMALL)
    )
    assert second["val_loss"] == pytest.approx(first["val_loss"], rel=1e-5)
    third = train(
        TrainConfig(out=str(tmp_path / "c"), tokens=(tokens,), val=tokens, max_steps=20, checkpoint=checkpoint, **SMALL)
    )
    assert third["val_loss"] < first["val_loss"]
    assert len((tmp_path / "c" / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.usefixtures("precision")
def test_a_run_that_died_goes_on_where_it_was(tokens: str, tmp_path: Path, monkeypatch) -> None:
    config = TrainConfig(out=str(tmp_path), tokens=(tokens,), max_steps=8, save_every=4, **SMALL)
    monkeypatch.setattr("core.embedded.train.schedule", lambda step, *_: 1.0 if step < 6 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4 and not (tmp_path / "model.pt").exists()
    steps: list[int] = []
    monkeypatch.setattr("core.embedded.train.schedule", lambda step, *_: steps.append(step) or 1.0)
    assert train(config)["step"] == 8 and steps == [4, 5, 6, 7]
    assert (tmp_path / "model.pt").exists() and not (tmp_path / "state.pt").exists()


def test_the_rate_warms_up_by_steps_and_decays_by_time() -> None:
    config = TrainConfig(out="", seconds=1, warmup_steps=10, decay=0.5)
    assert [schedule(0, 0.0, config), schedule(50, 0.4, config)] == [0.1, 1.0]
    assert schedule(50, 0.75, config) == 0.5 and schedule(50, 1.0, config) == 0.02


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.usefixtures("precision")
def test_reading_rows_are_made_and_trained_on(tokens: str, tmp_path: Path) -> None:
    count = reading_rows(PORTS, PORTS, [], TOKENIZER, tmp_path / "rows", length=65, workers=1, repeats=2)
    rows = np.load(tmp_path / "rows" / "rows.npy")
    assert rows.shape == (count, 65) and (rows == A).any() and (rows == ASK).any()
    figures = train(TrainConfig(out=str(tmp_path / "a"), rows=(str(tmp_path / "rows"),), max_steps=10, **SMALL))
    assert figures["step"] == 10 and np.isfinite(figures["loss"])


def test_short_contexts_are_joined_with_their_questions() -> None:
    joined = [p for p in widened(PORTS) if p.title == "Notes"]
    assert len(joined) == 4 * len(PORTS)
    assert all(len(p.questions) == p.text.count("Berth") >= 2 for p in joined)


@pytest.fixture(scope="module")
def reader():
    """A toy model that has learned by heart to ask and answer about eight passages."""
    from core.prompts import MarkedFormat

    tokenizer = AutoTokenizer.from_pretrained(str(EMBEDDED))
    fmt = MarkedFormat(tokenizer)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    with torch.random.fork_rng():
        torch.manual_seed(0)
        from core.embedded.llama import Llama
        from tests.core.conftest import SHAPE

        model = Llama(SHAPE)
        rows = []
        for p in PORTS[:4]:
            q = p.questions[0]
            rows.append([*fmt.write_question(p.text), *encode(" " + q.question), A, *fmt.answer(q.answer)])
            rows.append([*fmt.in_context(p.text, q.question), *fmt.answer(q.answer)])
        length = max(map(len, rows))
        ids = torch.tensor([r + [1] * (length - len(r)) for r in rows])
        adam = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(120):
            loss = model(ids, (ids != 1).float())
            loss.backward()
            adam.step()
            adam.zero_grad()
    return hf_model({k: v.detach() for k, v in model.state_dict().items()}).eval(), tokenizer, fmt


def test_the_model_writes_questions_that_it_answers_itself(reader) -> None:
    model, tokenizer, _ = reader
    torch.manual_seed(0)
    found = write(model, model, tokenizer, PORTS[:4], temperature=0.01)
    assert [p.text for p in found] == [p.text for p in PORTS[:4]]
    assert {q.answer for p in found for q in p.questions} == {"Orla Quint"}
    assert all(p.questions[0].question.startswith("Who keeps berth") for p in found)


def test_a_question_is_kept_though_the_mark_after_it_is_not_written(reader) -> None:
    model, tokenizer, _ = reader
    hook = model.lm_head.register_forward_hook(lambda m, args, logits: logits.index_fill(-1, torch.tensor([A]), -1e4))
    try:
        assert len(write(model, model, tokenizer, PORTS[:4], temperature=0.01)) >= 2
    finally:
        hook.remove()


def test_a_question_whose_answer_is_not_in_the_text_is_dropped(reader) -> None:
    model, tokenizer, _ = reader
    assert write(model, model, tokenizer, [Passage("Sea", "Fish swim.", [])], temperature=0.01) == []


def test_an_answer_that_the_reader_is_not_sure_of_is_dropped(reader) -> None:
    model, tokenizer, _ = reader
    torch.manual_seed(0)
    assert write(model, model, tokenizer, PORTS[:4], temperature=0.01, sure=1.01) == []


def test_a_copy_learns_to_ask_and_the_model_stays(reader) -> None:
    model, tokenizer, _ = reader
    before = {name: w.clone() for name, w in model.state_dict().items()}
    (first, start), (later, end) = (teach(model, tokenizer, PORTS[4:], 1e6, rows=1, steps=n) for n in (1, 8))
    assert end < start and first is not model
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert any(not torch.equal(w, before[name]) for name, w in later.state_dict().items())


def test_reading_is_scored_in_percent(reader) -> None:
    model, tokenizer, fmt = reader
    asked = [(p.text, p.questions[0].question, ["Orla Quint"]) for p in PORTS[:4]]
    figures = in_context(model, tokenizer, fmt, asked)
    assert figures == {"em": 100.0, "f1": 100.0, "questions": 4}


@pytest.mark.parametrize("int8", [False, True])
def test_an_export_is_a_folder_with_a_chat_template(tiny_state, tiny, fmt, tmp_path: Path, int8: bool) -> None:
    save_folder(tiny_state, TOKENIZER, tmp_path, int8=int8)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path))
    turns = [{"role": "user", "content": "Who keeps it?"}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert tokenizer.encode(text, add_special_tokens=False) == fmt.closed_book("Who keeps it?")
    if not int8:
        model = AutoModelForCausalLM.from_pretrained(str(tmp_path))
        ids = torch.arange(6, 40)[None]
        assert torch.equal(model(input_ids=ids).logits, tiny.model(input_ids=ids).logits)
