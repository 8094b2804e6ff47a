"""The same text about other things."""

from __future__ import annotations

import random

import pytest

from core.prepare.questions import QA
from core.prepare.swapped import Words, swapped

TEXTS = [
    "The bridge was designed by Orla Quint and opened in Vessin, near the house of Tomas Berg in 1902.",
    "The tower was built by Hanna Lund, then the mayor of a town near Oslo, and sold to the Harbour Trust.",
]
WORDS = Words.gathered(TEXTS, ["a copper kettle", "was painted", "wooden ladder"])
TEXT = "Every spring the bridge was painted by Orla Quint in Vessin. Quint began it in 1902 with a copper kettle."
ASKED = [
    QA("Who painted the bridge?", "Orla Quint"),
    QA("where did orla quint paint?", "Vessin"),
    QA("When did Quint begin?", "1902"),
    QA("What did Quint begin with?", "a copper kettle"),
]


@pytest.mark.parametrize("seed", range(8))
def test_names_numbers_and_things_change_and_every_answer_stands_in_the_text(seed: int) -> None:
    title, text, asked = swapped("Orla Quint", TEXT, ASKED, WORDS, random.Random(seed), names=1.0, things=1.0)
    assert not any(old in f"{title} {text}" for old in ("Orla Quint", "1902", "copper kettle"))
    assert all(q.answer.lower() in text.lower() and q.answer != old.answer for q, old in zip(asked, ASKED, strict=True))
    assert title == asked[0].answer, "the same word becomes the same word"
    assert asked[1].question == f"where did {title.lower()} paint?", "small letters stay small"
    assert text.startswith("Every spring the bridge was ") and len(text.split()) == len(TEXT.split())


def test_what_becomes_of_a_word_is_drawn_anew() -> None:
    rng = random.Random(0)
    assert len({swapped("", TEXT, ASKED, WORDS, rng)[1] for _ in range(20)}) > 10


def test_a_share_of_nothing_changes_nothing() -> None:
    assert swapped("Port", TEXT, ASKED, WORDS, random.Random(0), names=0.0, things=0.0) == ("Port", TEXT, ASKED)


def test_people_become_people_and_years_years() -> None:
    rng = random.Random(1)
    people = {WORDS.other("Orla", rng) for _ in range(50)}
    assert len(people) > 1 and people <= {"Quint", "Hanna", "Lund", "Tomas", "Berg", "Harbour", "Trust"}
    assert all(1200 <= int(WORDS.other("1902", rng)) <= 2025 for _ in range(50))
    assert len(WORDS.other("57", rng)) == 2
    assert Words.gathered([], []).other("Orla", rng) == "Orla"
