"""The instrument: its keys, its conditions, its intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import Refused
from core.evaluation.bench import CONDITIONS, interval, read_squad, run
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


def test_a_question_set_is_read_without_what_has_no_answer(squad: Path) -> None:
    first, second = read_squad(squad)
    assert (first.title, second.title) == ("Vessin", "Odrey")
    assert [(q.text, q.answers) for q in first.questions] == [("Who is the master?", ("Orla Quint",))]
    assert first.questions[0].context in first.text


@pytest.mark.parametrize("text", ["{", "[]", '{"data": [{"title": "x"}]}', '{"data": []}'])
def test_what_is_no_question_set_is_refused(engine, tmp_path: Path, text: str) -> None:
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(Refused, match=r"'set\.json'"):
        run(engine, tmp_path / "set.json")


def test_the_bench_gives_every_condition_and_learned_uses_no_token_of_the_document(engine, squad: Path) -> None:
    seen = []
    figures = run(engine, squad, progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert (figures["documents"], figures["questions"]) == (2, 2) and figures["seconds"] > 0
    assert set(figures["conditions"]) == set(CONDITIONS)
    for c in figures["conditions"].values():
        assert 0 <= c["em"] <= c["f1"] <= 100 and c["seconds_a_question"] > 0
    tokens = {c: f["prompt_tokens"] for c, f in figures["conditions"].items()}
    assert tokens["learned"] == tokens["wrong_document"] == tokens["base"] == engine.prompt_tokens("Who is the master?")
    assert tokens["in_context"] > tokens["base"] + 20 and tokens["both"] == tokens["retrieval"] > tokens["base"] + 20
    assert all(done <= total == 200 for _, done, total in seen) and {s for s, *_ in seen} == {"learning", *CONDITIONS}
    json.dumps(figures)


def test_one_document_alone_has_an_invented_stranger(engine, squad: Path) -> None:
    figures = run(engine, squad, documents=1, conditions=("base", "wrong_document"))
    assert figures["documents"] == 1 and set(figures["conditions"]) == {"base", "wrong_document"}


def test_an_interval_holds_the_mean_and_widens_with_the_difference_between_documents() -> None:
    low, high = interval([[10, 20, 30]] * 5)
    assert low == high == pytest.approx(20)
    low, high = interval([[0, 0], [100, 100], [0, 0], [100, 100]])
    assert 0 <= low < 50 < high <= 100 and high - low > 50
    assert interval([[0, 100] * 50])[0] > 35
    assert interval([[1, 2], [3]]) == interval([[1, 2], [3]])
