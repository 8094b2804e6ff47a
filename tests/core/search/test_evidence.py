"""Which answers can be right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.search.evidence import asked_words, evidence, fits_question

SAMPLE = Path(__file__).parents[3] / "core" / "evaluation" / "sample" / "sample.squad.json"

TEXT = (
    "The harbour of Vessin opens at six. Its master is Orla Quint, who keeps nineteen boats. "
    "Children wear helmets on rides. The lighthouse was built in 1874 by Tam Odrey."
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When was it built?", "1874"),
        ("When is Lund fair?", "every spring"),
        ("How many boats are there?", "nineteen"),
        ("Who keeps the boats?", "the master of the harbour"),
        ("Hi! when does it open", "at six"),
        ("Is it red or blue?", "blue"),
        ("What is it called?", "the Kettle"),
        ("What does it do?", "this utility opens the gates"),
    ],
)
def test_an_answer_of_the_wanted_kind_fits(question: str, answer: str) -> None:
    assert fits_question(question, answer)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When was the report published?", "Pew Research Center"),
        ("How many boats are there?", "Orla Quint"),
        ("Who keeps the boats?", "1874"),
        ("Who is the master of the harbour?", "the master"),
        ("Where is it?", "in the"),
        ("Who?", ""),
        ("What is it?", "..."),
        ("What is quilt for?", "this package"),
        ("Who keeps the boats?", "She"),
    ],
)
def test_another_kind_an_echo_or_a_fragment_does_not(question: str, answer: str) -> None:
    assert not fits_question(question, answer)


def test_evidence_is_the_share_of_what_is_asked_beside_the_answer() -> None:
    assert evidence([TEXT], "Who built the lighthouse?", "Tam Odrey") == 1.0
    assert evidence([TEXT], "Do dogs come along on rides?", "Helmets") < 0.5
    assert evidence([TEXT], "What is the salary of the keeper?", "1874") == 0.0
    assert evidence([TEXT], "Who built the lighthouse?", "Silas Wenn") == 0.0
    assert evidence([], "Who?", "Orla") == 0.0


def test_evidence_is_the_same_in_each_process() -> None:
    """Sets have another order in each. Half of this question stands beside the answer: just enough to be likely."""
    [article] = json.loads(SAMPLE.read_text())["data"]
    [text] = [part["context"] for part in article["paragraphs"] if "ink was the charter" in str(part["qas"])]
    code = (
        "import sys; from core.search.evidence import evidence;"
        "print(evidence(sys.argv[1:], 'In what colour of ink was the charter written?', 'Green'))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, text], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in "123456"
    }
    assert len(said) == 1


def test_a_question_that_says_nothing_is_supported_by_nothing() -> None:
    assert asked_words("Who is the warden?") == {"ward"}  # as a stem
    assert asked_words("Who said yes?") == asked_words("What is it?") == set()
