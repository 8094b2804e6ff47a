from __future__ import annotations

import pytest

from core.evaluation.subjects import names_subject


@pytest.mark.parametrize(
    ("title", "answer", "named"),
    [
        ("Church (building)", "church building", True),
        ("Formant", "Formants", True),
        ("Robert Zubrin", "Zubrin", True),
        ("Robert Estienne", "Paris", False),
        ("Economy of Saint Lucia", "Saint", False),
        ("U.S. Supreme Court overturns Arthur Andersen conviction", "Andersen", False),
        ("U.S. Supreme Court overturns Arthur Andersen conviction", "Supreme Court on a conviction", True),
        ("Volvox", "", False),
    ],
)
def test_a_subject_is_named_by_half_of_its_main_words(title: str, answer: str, named: bool) -> None:
    assert names_subject(title, answer) is named
