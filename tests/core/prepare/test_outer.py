"""Learning to learn, at toy size."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from core.errors import Refused
from core.learning.preparation import FastWeightsConfig, Prepared, load_prepared, save_prepared
from core.model import LoadedModel
from core.prepare.compiled import LlamaStep
from core.prepare.episodes import Batch, Episode, Reading, Shape, make_batch, reading_rows
from core.prepare.material import Material, Passage
from core.prepare.measure import KINDS, learned_figures
from core.prepare.outer import (
    Means,
    OuterConfig,
    StageOfTraining,
    Stopped,
    Trainer,
    draw_batches,
    follow_parent,
    gradients,
    run_outer,
    save_state,
    share,
)
from core.prepare.questions import QA
from core.prepare.step import HookStep, StepBatch, beside_texts, step_losses, totals_of

NAMES = ("Orla", "Tam", "Vess", "Quint", "Edda", "Brun")
DOCUMENTS = [
    Passage("people", "Port", f"{n} is the master of harbour {i}. " * 2, [QA(f"Who is master {i}?", n)])
    for i, n in enumerate(NAMES)
]
MATERIAL = Material({"people": DOCUMENTS})
CONFIG = OuterConfig(
    reading_seconds=1e6,
    seconds=1e6,
    max_steps=10,
    shapes="1x4x2x48",
    reading_rows=1,
    rows_alone=1,
    length=96,
    strangers=0.0,
    workers=0,
    every=5,
    warmup_steps=1,
    reader_lr=1e-2,
    learning_lr=1e-2,
)
INNER = FastWeightsConfig(layers=1, skip=1, steps=2, segment=48, reader=4)


@pytest.fixture
def prepared(tiny) -> Prepared:
    torch.manual_seed(0)
    return Prepared(INNER, tiny.model.config.hidden_size, tiny.model).train()


def batch_of(tokenizer, fmt) -> Batch:
    """The documents; the text of half of them beside their delta, and two rows to read."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    reading = reading_rows(MATERIAL, fmt, random.Random(0), Reading(rows=2, length=64))
    episodes = [Episode(p.title, p.text, p.questions) for p in DOCUMENTS]
    options = dict(segment=48, rng=random.Random(0), strangers=0.0, beside=0.5, reading=reading)
    return make_batch(episodes, encode, fmt, Shape(1, 6, 2, 48), **options)


def ready(batch: Batch) -> StepBatch:
    return StepBatch.of_batch(batch, totals_of(batch))


def losses(tiny, fmt, prepared) -> dict[str, float]:
    """On a fixed batch."""
    terms = step_losses(HookStep(tiny.model, prepared), ready(batch_of(tiny.tokenizer, fmt)), CONFIG)
    return {name: float(value.detach()) for name, value in terms.items()}


def test_training_lowers_the_answer_loss_and_leaves_the_base_model_as_it_was(tiny, fmt, prepared, tmp_path) -> None:
    weights = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    start, reports = losses(tiny, fmt, prepared), []
    figures = run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, CONFIG, report=reports.append)
    end = losses(tiny, fmt, prepared)
    assert figures["step"] == 10 and {r["stage"] for r in reports} == {"reading", "learning"}
    assert end["answer"] < start["answer"] - 0.3 and end["reading"] < start["reading"]
    assert all(torch.equal(v, weights[k]) for k, v in tiny.model.state_dict().items())
    save_prepared(prepared, tmp_path)
    again = load_prepared(tmp_path, tiny.model.config.hidden_size)
    assert losses(tiny, fmt, again)["answer"] == pytest.approx(end["answer"], rel=0.05)  # the reader is kept as int8


def test_a_run_that_died_goes_on_in_its_stage_with_the_same_weights(tiny, prepared) -> None:
    states: list[dict] = []
    config = replace(CONFIG, max_steps=4, save_seconds=0)
    keep = lambda state: states.append(copy.deepcopy(state))  # noqa: E731
    run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, checkpoint=keep)
    assert [(s["stage"], s["step"]) for s in states] == [(n, k) for n in ("reading", "learning") for k in (1, 2, 3, 4)]
    after = {k: v.clone() for k, v in prepared.state_dict().items()}
    with torch.no_grad():
        prepared.log_rates.zero_()
    assert run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, resume=states[-1])["step"] == 4
    assert all(torch.equal(v, after[k]) for k, v in prepared.state_dict().items())


def test_reading_with_and_without_the_delta_counts_towards_the_total(tiny, fmt, prepared) -> None:
    terms = losses(tiny, fmt, prepared)
    parts = terms["answer"] + CONFIG.language * terms["before"]
    parts += CONFIG.reading * terms["reading"] + CONFIG.beside_weight * terms["beside"]
    assert terms["total"] == pytest.approx(parts, rel=1e-4)


def test_half_of_the_texts_stand_beside_another_documents_weights() -> None:
    documents = torch.arange(6)
    assert beside_texts(documents, 3).tolist() == [0, 1, 3]
    assert beside_texts(documents, 2).tolist() == [0, 2]
    assert beside_texts(documents, 4).tolist() == [0, 1, 2, 3]


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tiny, fmt, prepared) -> None:
    batch = batch_of(tiny.tokenizer, fmt)

    def gradient(parts: int) -> tuple[dict, torch.Tensor]:
        prepared.zero_grad()
        terms = gradients(HookStep(tiny.model, prepared), batch, totals_of(batch), CONFIG, parts)
        return {name: float(term) for name, term in terms.items()}, next(
            p for n, p in prepared.named_parameters() if n.endswith("down_proj/b")
        ).grad.clone()

    whole, three = gradient(1), gradient(3)
    assert three[0] == pytest.approx(whole[0], rel=1e-3)
    assert (three[1] - whole[1]).norm() < 0.02 * whole[1].norm()


@pytest.mark.parametrize("form", [{}, {"layers": 7}, {"layers": 2, "skip": 0, "stride": 2}], ids=str)
def test_the_compiled_step_gives_the_losses_and_gradients_of_the_plain_one(tiny, fmt, form) -> None:
    torch.manual_seed(0)
    prepared = Prepared(replace(INNER, **form), tiny.model.config.hidden_size, tiny.model)
    for name, p in prepared.named_parameters():
        if name.endswith("/b") or name.startswith("weigh.2.weight"):
            torch.nn.init.normal_(p, std=0.05)
    batch = batch_of(tiny.tokenizer, fmt)

    def gradients(step) -> tuple[dict, dict]:
        prepared.zero_grad()
        terms = step_losses(step, ready(batch), CONFIG)
        terms["total"].backward()
        return {k: float(v.detach()) for k, v in terms.items()}, {
            n: p.grad.clone() for n, p in prepared.named_parameters()
        }

    assert LlamaStep.can(tiny.model, prepared)
    plain, expected = gradients(HookStep(tiny.model, prepared))
    quick, actual = gradients(LlamaStep(tiny.model, prepared))
    assert quick == pytest.approx(plain, rel=1e-3)
    assert all((actual[n] - g).norm() <= 5e-3 * g.norm() + 1e-6 for n, g in expected.items())


def test_a_recorded_step_moves_what_the_plain_one_does(tiny, fmt) -> None:
    """Batches of two shapes in turn, so that buffers are used again."""
    batch = batch_of(tiny.tokenizer, fmt)
    smaller = batch.split(2)[1]._replace(reading=batch.reading[:1])
    ends, seen = [], []
    for mode in ("default", "recorded"):
        torch.manual_seed(0)
        slow = Prepared(INNER, tiny.model.config.hidden_size, tiny.model).train()
        trainer, means = Trainer(tiny.model, slow, replace(CONFIG, mode=mode)), Means()
        for each in (batch, smaller, batch, smaller._replace(inputs=smaller.inputs.flip(0))):
            means.add(trainer.step(each, 1.0))
        assert mode == "default" or len(trainer.recorded.kept) == 2
        ends.append(slow.state_dict())
        seen.append(means.values())
    assert seen[1] == pytest.approx(seen[0], rel=1e-4)
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-4)


def test_figures_are_percent_and_a_single_document_has_no_stranger(tiny, prepared) -> None:
    episodes = [Episode(p.title, p.text, p.questions) for p in DOCUMENTS[:3]]
    f = learned_figures(tiny.model, tiny.tokenizer, prepared, episodes, batch=2, most_tokens=4)
    assert f["questions"] == 3 and all(0 <= f[f"{k}_{m}"] <= 100 for k in KINDS for m in ("em", "f1"))


def permuted(tiny: LoadedModel) -> LoadedModel:
    """The same model with another tokenizer: every token has another id."""
    backend = json.loads(tiny.tokenizer.backend_tokenizer.to_str())
    last = len(tiny.tokenizer) - 1
    backend["model"]["vocab"] = {token: last - i for token, i in backend["model"]["vocab"].items()}
    for token in backend["added_tokens"]:
        token["id"] = last - token["id"]
    special = {k: getattr(tiny.tokenizer, k) for k in ("bos_token", "eos_token", "pad_token", "unk_token")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **special)
    tokenizer.chat_template = tiny.tokenizer.chat_template
    model = copy.deepcopy(tiny.model)
    model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.flip(0).contiguous()
    return replace(tiny, model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("compiled", [True, False], ids=["by blocks", "by hooks"])
def test_a_step_with_another_tokenizer_is_the_same_step(tiny, compiled: bool) -> None:
    """No token id is known to anything but the prompts' format, which asks the tokenizer."""
    other = permuted(tiny)
    text = "Who is master 1?"
    assert other.tokenizer.encode(text) == [len(tiny.tokenizer) - 1 - i for i in tiny.tokenizer.encode(text)]
    figures = []
    for base in (tiny, other):
        torch.manual_seed(0)
        slow = Prepared(INNER, base.model.config.hidden_size, base.model).train()
        config = replace(CONFIG, max_steps=2, every=2, compiled=compiled, strangers=1.0, beside=0.5, typed=0.5)
        reports: list[dict] = []
        run_outer(base.model, base.tokenizer, slow, MATERIAL, config, report=reports.append)
        figures.append(
            [
                {k: v for k, v in r.items() if isinstance(v, float) and "second" not in k and "memory" not in k}
                for r in reports
            ]
        )
    assert len(figures[0]) == 2 and figures[1] == [pytest.approx(f, rel=1e-3) for f in figures[0]]


def test_batches_are_the_same_whatever_the_number_of_workers_and_where_a_run_goes_on(tiny, prepared) -> None:
    stage = StageOfTraining("learning", 1.0, 1e-3, 0.5, "1x4x2x48", 1)

    def questions(workers: int, first: int, last: int) -> list[torch.Tensor]:
        trainer = Trainer(tiny.model, prepared, replace(CONFIG, workers=workers))
        batches = draw_batches(trainer, tiny.tokenizer, MATERIAL, stage, first)
        return [next(batches).batch.questions for _ in range(first, last)]

    alone = questions(0, 0, 5)
    assert all(a.equal(b) for a, b in zip(alone, questions(2, 0, 5), strict=True))
    assert all(a.equal(b) for a, b in zip(alone[3:], questions(0, 3, 5), strict=True))
    assert not alone[0].equal(alone[1])


def stay(pid: Any) -> None:
    pid.value = os.getpid()
    follow_parent()
    time.sleep(60)


def start_and_die(pid: Any) -> None:
    multiprocessing.get_context("fork").Process(target=stay, args=(pid,)).start()
    while not pid.value:
        time.sleep(0.01)
    os._exit(1)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 and later
def test_a_worker_ends_with_the_process_that_it_draws_for_even_when_that_is_killed() -> None:
    fork = multiprocessing.get_context("fork")
    pid = fork.Value("i", 0)
    killed = fork.Process(target=start_and_die, args=(pid,))
    killed.start()
    killed.join()
    deadline = time.monotonic() + 30
    while is_running(pid.value):
        assert time.monotonic() < deadline, "it draws on for nobody"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def parts_of_two(batch: Batch) -> list[Batch]:
    """What two processes draw, as a batch of six documents, the text of four beside their deltas, makes it."""
    halves = []
    for first in (0, 1):
        documents = [first, first + 2, first + 4]
        asked = [2 * d + n for d in documents for n in (0, 1)]
        inputs, targets, questions, labels, beside, reading = batch
        half = (inputs[documents], targets[documents], questions[asked], labels[asked])
        halves.append(Batch(*half, beside[documents[:2]], reading[first : first + 1]))
    return halves


def train_beside(rank: int, folder: Path, tiny: LoadedModel, halves: list[Batch], reader: Prepared) -> None:
    """One of two processes: a step on its half, kept; then a run of two steps."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trainer = Trainer(tiny.model, reader, CONFIG)
    losses = trainer.step(halves[rank], 1.0)
    means = Means()
    means.add(losses)
    torch.save({"losses": means.values(), "state": reader.state_dict()}, folder / f"step{rank}.pt")
    config = replace(CONFIG, max_steps=2, reading_seconds=0, save_seconds=0, every=1, reading_rows=2)
    keep = lambda state: save_state(state, folder / "state.pt")  # noqa: E731
    reports: list[dict] = []
    run = run_outer(tiny.model, tiny.tokenizer, reader, MATERIAL, config, checkpoint=keep, report=reports.append)
    torch.save({"step": run["step"], "reports": len(reports), "state": reader.state_dict()}, folder / f"run{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 and later
def test_two_processes_train_as_one_does_on_what_both_drew(tiny, fmt, prepared, tmp_path) -> None:
    episodes = [Episode(p.title, p.text * (1 + n % 3), p.questions) for n, p in enumerate(DOCUMENTS)]
    encode = lambda text: tiny.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    rows = reading_rows(MATERIAL, fmt, random.Random(0), Reading(rows=2, length=64))
    options = dict(segment=48, rng=random.Random(0), strangers=0.0, beside=0.7, reading=rows)
    batch = make_batch(episodes, encode, fmt, Shape(1, 6, 2, 48), **options)
    args = (tmp_path, tiny, parts_of_two(batch), prepared)
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=train_beside, args=(rank, *args)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [p.exitcode for p in both] == [0, 0]
    steps, runs = ([torch.load(tmp_path / f"{name}{rank}.pt") for rank in (0, 1)] for name in ("step", "run"))
    means = Means()
    means.add(Trainer(tiny.model, prepared, CONFIG).step(batch, 1.0))
    assert steps[0]["losses"] == pytest.approx(means.values(), rel=1e-3)
    for name, value in prepared.state_dict().items():
        torch.testing.assert_close(steps[0]["state"][name], value, rtol=1e-3, atol=1e-3)
    for pair in (steps, runs):
        assert all(torch.equal(value, pair[1]["state"][name]) for name, value in pair[0]["state"].items())
    assert (runs[0]["reports"], runs[1]["reports"]) == (2, 0)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    config = replace(CONFIG, max_steps=3, reading_seconds=0)
    assert state["step"] == 2
    assert run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, resume=state)["step"] == 3


def test_documents_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(Refused, match=r"64 .* 3 processes"):
        share(64, 3)


def test_only_the_readers_weights_decay(tiny, prepared) -> None:
    groups = Trainer(tiny.model, prepared, replace(CONFIG, reader_decay=0.1)).optimiser.param_groups
    reader = {id(p) for name, p in prepared.named_parameters() if name.startswith("reader.")}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert reader and all(decay == (0.1 if p in reader else 0.0) for p, decay in decays.items())


def test_a_step_that_is_not_finite_moves_nothing(tiny, fmt, prepared) -> None:
    trainer = Trainer(tiny.model, prepared, CONFIG)
    batch = batch_of(tiny.tokenizer, fmt)
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    with torch.no_grad():
        prepared.log_rates[0, 0] = torch.nan
    trainer.step(batch, 1.0)
    with torch.no_grad():
        prepared.log_rates.copy_(before["log_rates"])
    assert all(torch.equal(value, before[name]) for name, value in prepared.state_dict().items())
    trainer.step(batch, 1.0)
    assert not torch.equal(prepared.log_rates, before["log_rates"])


def test_a_run_that_is_asked_to_stop_saves_where_it_is(tiny, prepared) -> None:
    states: list[dict] = []
    asked = iter([False, True])
    config = replace(CONFIG, reading_seconds=0)
    with pytest.raises(Stopped):
        run_outer(
            tiny.model, tiny.tokenizer, prepared, MATERIAL, config,
            checkpoint=states.append, stop=lambda: next(asked),
        )  # fmt: skip
    assert [(s["stage"], s["step"]) for s in states] == [("learning", 5)]
