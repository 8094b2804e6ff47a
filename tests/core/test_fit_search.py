"""Fitting the numbers of the search: what is recorded replays as the service answers, and a better number is found."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from core.engine import Engine
from core.evaluation import fit_search
from core.evaluation.bench import EMPTY_CHANNEL
from core.evaluation.fit_search import (
    CHOICE,
    TRUST,
    Case,
    Recorded,
    changes,
    fit,
    fit_all,
    record,
    replay,
    shown_f1,
    table,
    trust,
    widest,
)
from core.evaluation.served import open_service
from core.search.parameters import RankingParameters, load_parameters
from core.search.ranking import groups_to_ask
from core.squad import Article, Question, f1
from core.types import Completion
from tests.core.conftest import STORY
from tests.core.search.test_ranking import hit

NOW = RankingParameters()
ASKED = ("Who is the master of {}?", "What does a berth cost?", "Which uranium fuels the reactor?")
ARTICLES = [
    Article(name, (f"{name}. {STORY}",), tuple(Question(q.format(name), ("Orla Quint",), STORY) for q in ASKED))
    for name in ("Brindle", "Marrow")
]


async def test_what_was_recorded_replays_as_the_service_answers(engine) -> None:
    async with open_service(lambda: engine) as served:
        cases = await record(served, ARTICLES, [Question("Who sang?", ("Nobody",), "")])
        assert len(cases) == 6 * 4 + 2 and {case.is_fitted for case in cases} == {True, False}
        own_channel = {document.id: channel for (channel, _), document in served.documents.items()}
        for case in [case for case in cases if case.setting in ("alone", "together")]:
            answer = await served.service.ask(own_channel[case.document], case.question)
            outcome, shown = replay(case, NOW), answer.learned or answer.base
            assert outcome.document == (answer.document.id if answer.document else None)
            assert (outcome.certainty, outcome.f1) == (answer.certainty, 100 * f1(shown.text, ("Orla Quint",)))
        base = await served.service.ask(EMPTY_CHANNEL, "Who sang?")
        assert cases[-1].base_f1 == 100 * f1(base.base.text, ("Nobody",)) and cases[-1].document is None


async def test_every_section_that_any_numbers_ask_is_recorded(engine) -> None:
    async with open_service(lambda: engine) as served:
        cases = await record(served, ARTICLES)
    for case in cases:
        for name, values in CHOICE.items():
            for value in values:
                replay(case, replace(NOW, **{name: value}))  # KeyError, were one missing


async def test_what_was_written_down_is_not_asked_again(engine, tmp_path, monkeypatch) -> None:
    unanswered = Question("What does the crane weigh?", (), STORY)
    articles = [replace(ARTICLES[0], questions=(*ARTICLES[0].questions[:1], unanswered)), ARTICLES[1]]
    first = await fit_search.run(engine, articles, answers_file=tmp_path / "answers.jsonl")
    monkeypatch.setattr(Engine, "answer", None)  # TypeError, were it called
    again = await fit_search.run(engine, articles, answers_file=tmp_path / "answers.jsonl")

    def recorded(cases: list[Case]) -> list[tuple[str, str, list[Recorded]]]:
        return [(case.setting, case.question, [*case.recorded.values()]) for case in cases]

    assert recorded(again[1]) == recorded(first[1]) and again[0] == first[0]
    [case] = [case for case in again[1] if case.question == unanswered.text]
    assert (case.setting, case.document, case.base_f1) == ("not answered", None, 0)


def test_the_tried_numbers_ask_for_what_a_narrow_margin_asks() -> None:
    """With a wide margin another document takes the third place, with a narrow one it is the first document's."""
    hits = [hit(chunk=n, score=9.0) for n in range(3)] + [hit("b", score=5.0)]
    asked = {h.key for p in widest(NOW) for group in groups_to_ask(hits, [], p) for h in group}
    assert asked == {("a", 0), ("a", 1), ("a", 2), ("b", 0)}


def case(
    *,
    good: float,
    share: float,
    is_fitted: bool = True,
    sure: float = 0.9,
    evidence: float = 0.8,
    setting: str = "alone",
) -> Case:
    """The section's answer has this F1, the base model's the rest of 100."""
    found = hit(share=share, searched=1)
    recorded = Recorded(
        completion=Completion(text="in 1874", tokens=2, seconds=0.1, confidence=sure),
        pages=(),
        evidence=evidence,
        f1=good,
    )
    return Case(
        setting=setting,
        question="When was it built?",
        is_fitted=is_fitted,
        channel=[found],
        close=None,
        thread=[],
        recorded={found.key: recorded},
        base_f1=100 - good,
        document="a" if setting == "alone" else None,
    )


def test_a_gate_that_shuts_out_right_answers_is_lowered_until_wrong_ones_would_pass() -> None:
    cases = [case(good=100, share=0.17), case(good=100, share=0.3), case(good=0, share=0.07)]
    fitted = fit(cases, NOW, CHOICE, shown_f1)
    assert shown_f1(cases, NOW) == pytest.approx(200 / 3) and shown_f1(cases, fitted) == 100
    assert fit(cases, fitted, CHOICE, shown_f1) == fitted, "what gains nothing stays as it is"


def test_the_gate_is_shut_to_general_questions_and_no_further() -> None:
    """Of forty such questions weights may answer one. None of the base model's answers is right, as those of a model
    that speaks in sentences."""
    asked = [case(good=100, share=share) for share in (0.12, 0.3, 0.9)]
    shares = (0.5, 0.2, *[0.01] * 38)
    general = [case(good=100, share=share, setting="general, alone") for share in shares]
    fitted = fit_all([*asked, *general], NOW)
    assert [replay(c, NOW).document for c in (*asked, *general[:3])] == [None, "a", "a", "a", None, None]
    assert [replay(c, fitted).document for c in (*asked, *general[:3])] == [None, "a", "a", "a", None, None]
    assert fit_all([*asked, *general], NOW, only=("gate_doubt",)).likely_confidence == NOW.likely_confidence
    lower = fit_all([*asked, *general[:1], *general[2:], general[2]], NOW)
    assert [replay(c, lower).document for c in (*asked, *general[:3])] == ["a", "a", "a", "a", "a", None]


def test_likely_needs_more_confidence_where_unsure_answers_are_wrong() -> None:
    cases = [case(good=0, share=1, sure=0.9), case(good=100, share=1, sure=0.98)]
    assert (trust(cases, NOW), trust(cases, fit(cases, NOW, TRUST, trust))) == (-150, 50)


def test_only_the_questions_to_fit_on_are_fitted_on() -> None:
    judged_by = [case(good=100, share=0.0, is_fitted=False) for _ in range(9)]
    assert fit_all([case(good=100, share=0.5), *judged_by], NOW).gate_share == NOW.gate_share


def test_the_table_shows_both_halves_before_and_after() -> None:
    cases = [case(good=100, share=0.17), case(good=0, share=0.07), case(good=100, share=0.3, is_fitted=False)]
    fitted = fit_all(cases, NOW)
    assert "| alone | 2, fitted on | 50.0 -> 100.0 | 0.0 -> 50.0 |" in table(cases, NOW, fitted)
    assert "| alone | 1, judged by | 100.0 -> 100.0 |" in table(cases, NOW, fitted)
    assert "gate_share" in changes(NOW, fitted) and changes(NOW, NOW) == {}


def test_the_command_writes_what_the_model_then_reads(engine, monkeypatch, tmp_path, capsys) -> None:
    asked = [{"question": q.text, "answers": [{"text": "Orla Quint"}]} for q in ARTICLES[0].questions]
    data = [{"title": a.title, "paragraphs": [{"context": a.text[0], "qas": asked}]} for a in ARTICLES]
    (tmp_path / "set.json").write_text(json.dumps({"data": data}))
    monkeypatch.setattr(Engine, "load", lambda config: engine)
    monkeypatch.setattr("sys.argv", ["fit_search", "--squad", str(tmp_path / "set.json"), "--write", str(tmp_path)])
    fit_search.main()
    table, moved = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert "| together |" in table and changes(NOW, load_parameters(tmp_path)).keys() == json.loads(moved).keys()
