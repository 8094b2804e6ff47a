"""Several answers, and what they agree on."""

from __future__ import annotations

import pytest

from core.engine import Engine, EngineConfig
from core.ports import Ask
from core.types import Completion
from core.voting import ballots, paraphrases, vote


def said(text: str, confidence: float) -> Completion:
    return Completion(text, len(text.split()), 0.1, confidence)


def test_the_answer_with_the_most_confidence_behind_it_wins() -> None:
    won = vote([said("Pellin", 0.9), said("the Gull Press", 0.6), said("Gull Press", 0.5)])
    assert won.text == "the Gull Press" and won.confidence == pytest.approx(1.1 / 3)


def test_one_sure_vote_outweighs_two_doubtful_ones() -> None:
    assert vote([said("Pellin", 0.9), said("Hobbin", 0.2), said("Hobbin", 0.3)]).text == "Pellin"


def test_agreement_is_the_confidence() -> None:
    assert vote([said("Pellin", 0.8)] * 3).confidence == pytest.approx(0.8)
    assert vote([said("Pellin", 0.8), said("a", 0.1), said("b", 0.1)]).confidence == pytest.approx(0.8 / 3)


def test_the_first_ballot_is_the_question_itself_and_none_is_cast_twice() -> None:
    question = "Where does Orla live?"
    assert ballots(question, 1) == [(question, 0.0)]
    cast = ballots(question, 7)
    assert len(cast) == 7 and cast[0] == (question, 0.0)
    greedy = [words for words, temperature in cast if not temperature]
    assert len(set(greedy)) == len(greedy) == 5
    assert all(words == question for words, temperature in cast if temperature)
    assert all("rla" in p for p in paraphrases(question))


def test_the_engine_casts_votes_for_every_row(tiny) -> None:
    engine = Engine(tiny, EngineConfig(max_answer_tokens=4, votes=3))
    asks = [Ask("Where does Orla live?"), Ask("Who keeps the boats?")]
    voted = engine.answer(asks)
    single = [engine.answer([Ask(words)], votes=1)[0] for a in asks for words, _ in ballots(a.question, 3)]
    expected = [vote(single[:3]), vote(single[3:])]
    assert [v.text for v in voted] == [v.text for v in expected]
    assert [v.confidence for v in voted] == pytest.approx([v.confidence for v in expected], rel=1e-3)
