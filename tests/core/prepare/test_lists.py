"""Questions whose answer is a list."""

from __future__ import annotations

import random

import pytest

from core.prepare.lists import as_bullets, items, lists_of, stands_in, without_single_items
from core.prepare.questions import QA


def asked(sentence: str, title: str = "Orla Quint") -> set[QA]:
    """Everything that the rules make of a sentence, over many draws."""
    every: set[QA] = set()
    for seed in range(40):
        every.update(lists_of(sentence, title, random.Random(seed)))
    return every


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("Orla kept goats, geese and bees.", "What did Orla keep?", "goats, geese and bees"),
        ("The harbour includes a crane, two docks, and a mill.", "What does the harbour include?",
         "a crane, two docks, and a mill"),
        ("The fleet consisted of boats, rafts and prams.", "What did the fleet consist of?", "boats, rafts and prams"),
        ("Its cargo contained salt, wool and tar.", "List what Orla Quint's cargo contained.", "salt, wool and tar"),
        ("The founders were Anna Lund, Rufus Candle and Ida Voss.", "List the founders.",
         "Anna Lund, Rufus Candle and Ida Voss"),
        ("It served several ports such as Vessin, Karl and Ona in summer.", "Name the several ports.",
         "Vessin, Karl and Ona"),
        ("Vessin, Karl and Ona were founded by monks.", "What were founded by monks?", "Vessin, Karl and Ona"),
    ],
)  # fmt: skip
def test_a_list_is_asked_for_as_a_whole(sentence: str, question: str, answer: str) -> None:
    assert QA(question, answer) in asked(sentence)


def test_a_pair_or_a_list_that_begins_a_subordinate_clause_is_none() -> None:
    assert not asked("Orla kept goats and geese near the old harbour.")
    assert not asked("However, Karl, Ona and Ida were late for the ferry.")


def test_one_item_alone_is_no_answer_to_what() -> None:
    whole = QA("What did Orla keep?", "goats, geese and bees")
    first, year = QA("What did Orla keep?", "goats"), QA("When did Orla keep geese?", "geese")
    assert without_single_items([first, year], [whole]) == [year]


def test_a_list_at_a_sentences_end_becomes_lines_and_still_stands_there() -> None:
    text = "Orla kept goats, geese and bees. They were loud."
    lines = as_bullets(text, "goats, geese and bees", random.Random(0)).splitlines()
    assert lines[0] == "Orla kept:" and lines[-1] == "They were loud."
    assert [line.split()[-1] for line in lines[1:4]] == ["goats", "geese", "bees"]
    assert stands_in("goats, geese and bees", "\n".join(lines)) and not stands_in("goats, geese and hens", text)
    assert (
        as_bullets("Orla kept goats, geese and bees in Vessin.", "goats, geese and bees", random.Random(0)).count("\n")
        == 0
    )


def test_items_of_a_list() -> None:
    assert items("a crane, two docks, and a mill") == ["a crane", "two docks", "a mill"]
