"""The engine: chunks, batches with weights of their own, errors at the start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.engine import Engine, EngineConfig, normalise_abstention
from core.errors import SetupError
from core.generate import complete, held_back
from core.learning.preparation import FastWeightsConfig, Prepared, save_prepared
from core.ports import Ask, Learned
from core.prompts import NOT_IN_TEXT, ChatFormat, ReaderFormat
from core.types import Completion, Page
from tests.core.conftest import STORY


def learn(engine: Engine, text: str) -> Learned:
    steps = engine.learn(engine.chunk([Page(1, text)]), title="Vessin")
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def section(learned: Learned, n: int) -> dict:
    return {k.partition("/")[2]: v for k, v in learned.tensors.items() if k.startswith(f"{n}/")}


def test_chunks_joined_are_the_document(engine) -> None:
    chunks = engine.chunk([Page(1, STORY * 2), Page(2, STORY)])
    assert all(c.token_count <= 64 for c in chunks) and len(chunks) > 2
    text = engine.base.tokenizer.decode([t for c in chunks for t in c.token_ids])
    assert "".join(text.split()) == "".join((STORY * 3).split())


def test_sections_are_as_long_as_the_model_was_prepared_for(engine, tmp_path) -> None:
    base = replace(engine.base, prepared=tmp_path)
    assert Engine(base, EngineConfig(device="cpu")).chunk_size == 512
    folder = tmp_path / base.fingerprint[:16]
    save_prepared(Prepared(FastWeightsConfig(layers=2, section=48), base.model.config.hidden_size), folder)
    assert Engine(base, EngineConfig(device="cpu")).chunk_size == 48
    assert Engine(base, EngineConfig(device="cpu", chunk_size=32)).chunk_size == 32


def test_a_mixed_batch_answers_in_order_and_each_row_as_alone(engine) -> None:
    learned = learn(engine, STORY * 2)
    weights = [section(learned, n) for n in (0, 1)]
    asks = [Ask("Where?"), Ask("When?", weights[0]), Ask("Who?", weights[1]), Ask("Who?"), Ask("Where?", weights[0])]
    together = engine.answer(asks)
    alone = [engine.answer([ask])[0] for ask in asks]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.confidence for a in together] == pytest.approx([a.confidence for a in alone], rel=1e-3)


def test_passes_that_share_answer_as_the_model_itself_does(engine) -> None:
    learned, fmt, options = learn(engine, STORY * 2), engine.format, {"max_new": 6}
    weights = [section(learned, n) for n in (0, 1)]
    question = "Who is the master of the harbour?"
    answers = engine.answer([*(Ask(question, w) for w in weights), Ask(question)])
    with engine.course(engine.learner).learner.attach([(w, 1) for w in weights]):
        prompts = [fmt.closed_book(question)] * 2
        options |= {"stop_ids": fmt.stop_ids, "pad_id": fmt.pad_id, "hold_back": held_back(fmt)}
        plain = complete(engine.reader.model, engine.base.tokenizer, prompts, **options)
    base = engine.base_format
    options |= {"stop_ids": base.stop_ids, "hold_back": None}
    plain += complete(engine.base.model, engine.base.tokenizer, [base.closed_book(question)], **options)
    assert [a.text for a in answers] == [p.text for p in plain]
    assert [a.confidence for a in answers] == pytest.approx([p.confidence for p in plain], rel=1e-3)


def test_a_reader_of_its_own_answers_beside_the_base_model_as_it_does_alone(engine, tmp_path) -> None:
    base = replace(engine.base, prepared=tmp_path)
    prepared = Prepared(FastWeightsConfig(layers=2, reader=2), base.model.config.hidden_size, base.model)
    for name, part in prepared.reader.items():
        part.data = torch.randn(part.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3
    save_prepared(prepared, tmp_path / base.fingerprint[:16])
    engine = Engine(base, EngineConfig(device="cpu", chunk_size=64))
    learned = learn(engine, STORY * 2)
    asks = [
        Ask("Who?", section(learned, 0)),
        Ask("Who?"),
        Ask("Where?", section(learned, 1)),
        Ask("Where?"),
    ]
    alone = engine.answer([asks[0], asks[2]]) + engine.answer([asks[1], asks[3]])
    torch.set_num_threads(2)
    try:
        together = engine.answer(asks)
    finally:
        torch.set_num_threads(1)
    assert [a.text for a in together] == [alone[n].text for n in (0, 2, 1, 3)]
    assert len({a.text for a in together}) > 1


def test_without_a_question_to_the_base_model_no_passes_of_it_are_made(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine, "_base_passes", lambda *_: pytest.fail("passes of no prompts"))
    assert len(engine.answer([Ask("Who?", section(learn(engine, STORY), 0))])) == 1


def test_the_base_model_answers_the_same_before_and_after_learning(engine) -> None:
    before = engine.answer([Ask("Who is the master?")])[0]
    learn(engine, STORY)
    after = engine.answer([Ask("Who is the master?")])[0]
    assert (before.text, before.confidence) == (after.text, after.confidence)


@pytest.mark.parametrize("kind", [ChatFormat, ReaderFormat])
def test_prompt_tokens_count_the_context_only_where_there_is_one(engine, monkeypatch, kind) -> None:
    monkeypatch.setattr(engine, "format", kind(engine.base.tokenizer))
    short, text = engine.prompt_tokens("Who?"), STORY.strip()
    assert short == len(engine.format.closed_book("Who?"))
    assert engine.prompt("Who?") == engine.base.tokenizer.decode(engine.format.closed_book("Who?"))
    count = lambda text: len(engine.base.tokenizer.encode(text))  # noqa: E731
    assert engine.prompt_tokens("Who?", STORY) == short + count(f"{text}\n\nWho?") - count("Who?")


def test_an_unknown_learner_is_an_error_at_the_start(tiny) -> None:
    with pytest.raises(SetupError, match="no learner 'magic'; choose one of fast-weights"):
        Engine(tiny, EngineConfig(learner="magic"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"learner": "lora", "budget": "fixed:1"}, "'lora' has no budget"),
        ({"study": True}, "set ENGRAM_LEARNER=lora as well"),
        ({"objectives": {"keep": 1.0}}, "studies only the text"),
    ],
)
def test_a_setting_that_the_learner_would_ignore_is_an_error_at_the_start(tiny, settings, told: str) -> None:
    with pytest.raises(SetupError, match=told):
        Engine(tiny, EngineConfig(**settings))


def test_the_engine_says_what_it_runs_on(engine) -> None:
    assert (engine.name, engine.device, engine.dtype, engine.learner) == ("tiny", "cpu", "float32", "fast-weights")
    assert engine.fingerprint == engine.base.fingerprint and engine.chunk_size == 64


@pytest.mark.parametrize(
    ("said", "told"),
    [("the not in the text", NOT_IN_TEXT), (NOT_IN_TEXT, NOT_IN_TEXT), ("was not in the text", NOT_IN_TEXT)]
    + [(plain, plain) for plain in ("the text", "it was not in the text", "")],
)
def test_an_abstention_after_another_word_is_told_as_one(said: str, told: str) -> None:
    assert normalise_abstention(Completion(said, 5, 0.1, 0.4)) == Completion(told, 5, 0.1, 0.4)
