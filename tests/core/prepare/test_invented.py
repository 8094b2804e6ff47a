"""Invented facts: no two documents alike, every answer in its sentence."""

from __future__ import annotations

import random

from core.prepare.invented import MANUAL, RELATIONS, fact, invented_document
from core.squad import normalise_answer


def test_a_seed_gives_always_the_same_document_and_another_seed_another() -> None:
    assert invented_document(random.Random(1), 10) == invented_document(random.Random(1), 10)
    assert not set(invented_document(random.Random(1), 10).sentences) & set(
        invented_document(random.Random(2), 10).sentences
    )


def test_every_answer_stands_in_its_sentence_and_not_in_its_question() -> None:
    rng = random.Random(0)
    for _ in range(600):
        statement, questions = fact(rng)
        for q in questions:
            words = [w for w in normalise_answer(q.answer).split() if w not in ("every", "of")]
            assert words and all(w in normalise_answer(statement) for w in words), (statement, q)
            assert q.question.endswith("?") and "{" not in statement + q.question + q.answer


def test_every_wording_has_a_question_that_it_answers() -> None:
    for statements, questions in RELATIONS:
        assert all(q.count(">") == 1 for q in questions.split("|")) and statements


def test_a_document_has_about_as_many_facts_as_asked_for() -> None:
    made = invented_document(random.Random(3), 100)
    assert 90 <= len(made.sentences) == len(made.questions) <= 100 and all(made.questions)


def test_a_manual_has_keys_and_options_as_they_stand() -> None:
    made = invented_document(random.Random(4), 200, MANUAL)
    for sentence, questions in zip(made.sentences, made.questions, strict=True):
        assert "{" not in sentence
        for q in questions:
            assert "{" not in q.question + q.answer and q.question.endswith(("?", "."))
            for word in q.answer.split():
                assert word.strip(",").lower() in sentence.lower() or word == "and", (sentence, q)
    assert any(sentence[0].islower() for sentence in made.sentences), "q and Q are two keys"
