from __future__ import annotations

import pytest

from core.evaluation.reading import FAULTS, kept, runs, words


def test_words_are_kept_as_often_as_they_stand_there() -> None:
    assert kept(words("The tower, the ﬁsh."), words("the fish and the the")) == (3, 5)


def test_runs_of_words_tell_their_order() -> None:
    assert list(runs(["a", "b", "c"], 2)) == [("a", "b"), ("b", "c")]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("see \ufffd", "unreadable character"),
        ("The old tower was built by\nthe people of the island", "sentence broken by a line"),
        ("6https://x.org", "number glued to a word"),
        ("Aky¨urek", "accent beside its letter"),
    ],
)
def test_faults_are_counted(text: str, fault: str) -> None:
    assert [name for name, pattern in FAULTS.items() if pattern.search(text)] == [fault]
