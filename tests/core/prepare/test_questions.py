"""Questions by rule."""

from __future__ import annotations

import random

import pytest

from core.prepare.questions import QA, ask_paragraph, ask_sentence, base_form, kind_of, recurring, sentences


def asked(sentence: str, title: str = "Ada Lovelace") -> set[QA]:
    """Everything that the rules make of a sentence, over many draws."""
    return {q for seed in range(40) for q in ask_sentence(sentence, title, random.Random(seed))}


@pytest.mark.parametrize(
    ("past", "base"),
    [
        ("walked", "walk"),
        ("wrote", "write"),
        ("carried", "carry"),
        ("stopped", "stop"),
        ("created", "create"),
        ("red", None),
    ],
)
def test_a_past_tense_gives_its_base_form(past: str, base: str | None) -> None:
    assert base_form(past) == base


def test_a_sentence_with_an_auxiliary_is_asked_for_subject_time_and_place() -> None:
    found = asked("Edward Quint was crowned in 1483.", "Kings")
    assert QA("Who was crowned in 1483?", "Edward Quint") in found
    assert any(q.answer == "1483" and q.question.startswith(("When was", "In what year was")) for q in found)


def test_a_pronoun_becomes_the_title() -> None:
    found = asked("She died in London in 1852.")
    assert any("Ada Lovelace" in q.question and q.answer == "1852" for q in found)
    assert not any(" she " in q.question.lower() for q in found)


def test_a_count_is_asked_with_how_many() -> None:
    assert any(
        q.answer == "nine" and q.question.startswith("How many boats")
        for q in asked("The old harbour has nine boats in the dock.", "Port")
    )


def test_every_answer_stands_in_the_text_and_not_in_its_question() -> None:
    text = "Edward Quint was crowned in Paris in 1483. He built the old tower with forty masons in 1490."
    found = [q for seed in range(30) for q in ask_paragraph(text, "Edward Quint", random.Random(seed), 4)]
    assert found and all(q.answer in text or q.answer == "Edward Quint" for q in found)
    assert all(q.answer.lower() not in q.question.lower() and q.question.endswith("?") for q in found)
    assert len(ask_paragraph(text, "Edward Quint", random.Random(0), 1)) == 1


def test_what_is_no_sentence_gives_no_question() -> None:
    assert not asked("Too short.") and not asked("word " * 60) and not asked('He said "no to everyone in town.')


def test_text_is_split_at_the_ends_of_sentences() -> None:
    assert sentences("It opens at 6. The port is old! Is it?") == ["It opens at 6.", "The port is old!", "Is it?"]


def test_the_kind_of_a_name_follows_the_word_before_it() -> None:
    assert (kind_of("Paris", "born in"), kind_of("Orla Quint", ""), kind_of("Quint", "built by")) == (
        "where",
        "who",
        "who",
    )


def test_a_sentence_taken_out_is_asked_and_its_answer_stands_elsewhere() -> None:
    text = [
        "The harbour of Vessin is old. A tower of white stone was raised over the harbour by Tam Odrey in 1874.",
        "Boats come at six. The stone lighthouse beside the harbour was planned and paid for by Tam Odrey.",
    ]
    seen = set()
    for seed in range(20):
        left, (question, answer) = recurring(text, "Vessin", random.Random(seed))
        [gone] = {s for p in text for s in sentences(p)} - {s for p in left for s in sentences(p)}
        assert answer == "Tam Odrey" and answer not in question and "who" in question
        assert question.rstrip("?").replace("who", answer) in gone and answer in " ".join(left)
        assert sum(len(sentences(p)) for p in left) == 3
        seen.add(gone)
    assert len(seen) == 2, "either of the two sentences can be the question"


@pytest.mark.parametrize(
    "text", ["", "The harbour has two old towers, both of white stone. Tam Odrey paid for them all."]
)
def test_where_nothing_recurs_nothing_is_taken_out(text: str) -> None:
    assert recurring([text], "Vessin", random.Random(0)) is None
