"""The instrument: its keys, its conditions, many documents in one channel, going on after a stop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import Refused
from core.evaluation.bench import CONDITIONS, SHARED_CHANNEL, Bench, channel_of, run
from core.evaluation.journal import Journal
from core.evaluation.report import plot
from core.evaluation.served import open_service
from core.ports import Ask
from core.squad import f1, read_squad
from tests.core.conftest import STORY


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    asked = [
        {"question": "Who is the master?", "answers": [{"text": "Orla Quint"}, {"text": "Orla Quint"}]},
        {"question": "Who sank?", "answers": [], "is_impossible": True},
    ]
    articles = [{"title": t, "paragraphs": [{"context": f"{t}. {STORY}", "qas": asked}]} for t in ("Vessin", "Odrey")]
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))
    return path


@pytest.fixture
def learned(engine, monkeypatch) -> list[str]:
    """Titles of what the engine learned."""
    titles, learn = [], engine.learn
    monkeypatch.setattr(engine, "learn", lambda chunks, title: titles.append(title) or learn(chunks, title=title))
    return titles


@pytest.fixture
def answered(engine, monkeypatch) -> list[int]:
    """Rows of each batch that the engine answered."""
    rows, answer = [], engine.answer
    monkeypatch.setattr(engine, "answer", lambda asks, **options: rows.append(len(asks)) or answer(asks, **options))
    return rows


def test_a_question_set_is_read_without_what_has_no_answer(squad: Path) -> None:
    first, second = read_squad(squad)
    assert (first.title, second.title) == ("Vessin", "Odrey")
    assert [(q.text, q.answers) for q in first.questions] == [("Who is the master?", ("Orla Quint",))]
    assert first.questions[0].context in first.text


@pytest.mark.parametrize("text", ["{", "[]", '{"data": [{"title": "x"}]}', '{"data": []}'])
async def test_what_is_no_question_set_is_refused(engine, tmp_path: Path, text: str) -> None:
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(Refused, match=r"'set\.json'"):
        await measure(engine, tmp_path / "set.json")


async def test_the_bench_gives_every_condition_and_learned_uses_no_token_of_the_document(engine, squad: Path) -> None:
    seen = []
    figures = await measure(engine, squad, progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert (figures["documents"], figures["questions"]) == (2, 2) and figures["seconds"] > 0
    assert set(figures["conditions"]) == set(CONDITIONS)
    for c in figures["conditions"].values():
        assert 0 <= c["em"] <= c["f1"] <= 100 and c["seconds_a_question"] > 0
    tokens = {c: f["prompt_tokens"] for c, f in figures["conditions"].items()}
    assert tokens["learned"] == tokens["wrong_document"] == tokens["base"] == engine.prompt_tokens("Who is the master?")
    assert tokens["in_context"] > tokens["base"] + 20 and tokens["both"] == tokens["retrieval"] > tokens["base"] + 20
    assert all(done <= total == 200 for _, done, total in seen)
    assert {s for s, *_ in seen} == {"learning", *CONDITIONS}
    assert figures["megabytes"] > 0 and figures["learning_seconds"] > 0 and len(figures["loss"]) == 2
    assert set(figures["unrelated"]) == {"closed_book", "in_context"} and "both - retrieval" in figures["comparisons"]
    json.dumps(figures)


async def measure(engine, *arguments: Any, **options: Any) -> dict[str, Any]:
    return await run(lambda: engine, *arguments, **options)


@asynccontextmanager
async def bench_on(engine, squad: Path) -> AsyncIterator[Bench]:
    async with open_service(lambda: engine) as served:
        yield Bench(served, read_squad(squad), Journal(None, {}), lambda *_: None)


async def test_what_is_measured_is_what_the_service_answers(engine, squad: Path) -> None:
    async with bench_on(engine, squad) as bench:
        replies = {c: (await bench.ask(0, c))[0] for c in ("base", "learned", "weights", "elsewhere", "wrong_document")}
        service, documents = bench.served.service, bench.served.documents
        asked = {
            "base": await service.ask("knows nothing", "Who is the master?"),
            "learned": await service.ask(channel_of(0), "Who is the master?"),
            "weights": await service.ask(channel_of(0), "Who is the master?", document="Vessin"),
            "elsewhere": await service.ask(channel_of(1), "Who is the master?"),
            "wrong_document": await service.ask(
                channel_of(1), "Who is the master?", document=documents[channel_of(1), 1].id
            ),
        }
    for name, answer in asked.items():
        given = answer.learned or answer.base
        assert (replies[name].text, replies[name].prompt_tokens) == (given.text, answer.prompt_tokens), name
    numbers = {name: reply.document for name, reply in replies.items()}
    assert numbers == {"base": None, "learned": 0, "weights": 0, "elsewhere": 1, "wrong_document": 1}


async def test_a_text_is_learned_once_for_all_channels(engine, squad: Path, learned: list[str]) -> None:
    async with bench_on(engine, squad) as bench:
        for _ in range(2):
            await bench.learn(0)
            await bench.together()
        assert learned == ["Vessin", "Odrey"]
        assert {channel for channel, _ in bench.served.documents} == {channel_of(0), channel_of(1), SHARED_CHANNEL}


async def test_one_document_alone_has_an_invented_stranger(engine, squad: Path) -> None:
    figures = await measure(engine, squad, documents=1, conditions=("base", "wrong_document"))
    assert figures["documents"] == 1 and set(figures["conditions"]) == {"base", "wrong_document"}
    assert figures["learning_seconds"] == 0  # the stranger's does not count


async def test_conditions_that_know_no_document_learn_nothing(engine, squad: Path, monkeypatch) -> None:
    monkeypatch.setattr(engine, "learn", None)
    figures = await measure(engine, squad, conditions=("base", "in_context", "document"))
    assert figures["megabytes"] == figures["learning_seconds"] == 0
    assert figures["conditions"]["document"]["prompt_tokens"] > 50


async def test_a_condition_that_there_is_not_is_refused(engine, squad: Path) -> None:
    with pytest.raises(Refused, match="condition 'luck'"):
        await measure(engine, squad, conditions=("base", "luck"))


async def test_documents_in_one_channel_give_shares_and_a_row_for_each_size_of_the_channel(engine, squad: Path) -> None:
    figures = (await measure(engine, squad, conditions=("learned",), together=True))["together"]
    assert figures["right_document"] in (0, 50, 100)
    assert figures["retention"]["documents"] == [1, 2] and [len(r) for r in figures["retention"]["f1"]] == [1, 2]
    assert figures["retention"]["f1"][0][0] == pytest.approx(figures["alone_f1"], abs=100)
    assert 0 <= figures["f1_interval"][0] <= figures["f1"] <= figures["f1_interval"][1]


@pytest.fixture
def alike(tmp_path: Path) -> Path:
    """Two documents that differ in a word; of two questions, the first one says it."""
    articles = []
    for title in ("Brindle", "Marrow"):
        asked = [f"Who is the master of {title}?", "What does a berth cost?"]
        qas = [{"question": q, "answers": [{"text": "Orla Quint"}]} for q in asked]
        articles.append({"title": title, "paragraphs": [{"context": f"{title}. {STORY}", "qas": qas}]})
    (tmp_path / "alike.json").write_text(json.dumps({"data": articles}))
    return tmp_path / "alike.json"


async def test_in_a_conversation_the_document_that_answered_last_is_asked_first(engine, alike: Path) -> None:
    seen = []
    tell = lambda stage, done, total: seen.append((stage, done, total))  # noqa: E731
    figures = (await measure(engine, alike, None, tell, conditions=("base",), together=True))["together"]
    assert figures["right_document"] == 75 and figures["conversation"]["right_document"] == 100
    assert figures["other_thread"]["right_document"] == 50
    assert [turn for turn in seen if turn[0] == "conversation"] == [("conversation", 2, 4), ("conversation", 4, 4)]


async def test_of_general_questions_those_are_lost_that_the_base_model_had_right(
    engine, squad: Path, tmp_path: Path
) -> None:
    known = ["Which uranium fuels it?", "Who sang?", "What is the master of the boats called?"]
    said = [engine.answer([Ask(q)])[0].text for q in known]
    asked = [{"question": q, "answers": [{"text": a}]} for q, a in zip(known, said, strict=True)]
    asked.append({"question": "Who is not known?", "answers": [{"text": "Nobody at all"}]})
    file = tmp_path / "general.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "", "qas": asked}]}]}))
    figures = (await measure(engine, squad, conditions=("base",), together=True, general=file))["general"]
    assert figures["right"] == len(known) and figures.keys() == {"right", "lost", "lost_together"}
    assert max(figures["lost"], figures["lost_together"]) < 34, "only one has words of a document"
    base = await measure(engine, squad, conditions=("base",), general=squad)
    scores = [f1(a["base"], a["gold"]) for a in base["answers"]]
    assert base["general"]["right"] == sum(s >= 0.5 for s in scores) and "lost_together" not in base["general"]


async def test_a_resumed_run_asks_and_learns_only_what_is_missing(
    engine, squad: Path, tmp_path: Path, answered
) -> None:
    partial = tmp_path / "out.json.partial"
    options = {"conditions": ("base", "learned"), "together": True, "answers_file": partial}
    whole = await measure(engine, squad, **options)
    lines = partial.read_text().splitlines(keepends=True)
    answered.clear()
    again = await run(
        lambda: engine, squad, conditions=("base", "learned"), together=True, answers_file=partial, resume=True
    )
    assert not answered and again["conditions"] == whole["conditions"] and again["together"] == whole["together"]
    cut = [line for line in lines if '"1/learned/0"' not in line]
    partial.write_text("".join(cut) + '{"key": "1/lea')  # killed while it wrote
    again = await run(
        lambda: engine, squad, conditions=("base", "learned"), together=True, answers_file=partial, resume=True
    )
    assert len(answered) == 1 and again["answers"] == whole["answers"]


async def test_answers_to_other_questions_are_not_resumed(engine, squad: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.json.partial"
    await measure(engine, squad, documents=1, conditions=("base",), answers_file=partial)
    with pytest.raises(Refused, match="other questions"):
        await measure(engine, squad, conditions=("base",), answers_file=partial, resume=True)


async def test_the_plot_is_a_picture(engine, squad: Path, tmp_path: Path) -> None:
    result = await measure(engine, squad, conditions=("base", "retrieval"))
    plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
