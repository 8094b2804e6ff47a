"""Exact match and F1 as SQuAD's official script counts them."""

from __future__ import annotations

import pytest

from core.squad import exact_match, f1, normalise_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat.", "cat"),
        ("  an   apple\ta day ", "apple day"),
        ("Saint Bernadette Soubirous", "saint bernadette soubirous"),
        ("the theatre", "theatre"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("$4,000 (about)", "4000 about"),
        ("a-b", "ab"),  # punctuation goes first, so no article appears here
        ("“quoted”", "“quoted”"),  # ASCII punctuation only, as in the script
        ("The", ""),
    ],
)
def test_texts_are_normalised_as_in_the_official_script(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


def test_an_exact_match_is_one_of_the_answers_after_normalisation() -> None:
    assert exact_match("The Denver Broncos!", ["Broncos", "denver broncos"]) == 1.0
    assert exact_match("Denver", ["Denver Broncos"]) == 0.0
    assert exact_match("Denver", []) == 0.0


def test_f1_is_taken_over_tokens_against_the_best_answer() -> None:
    assert f1("the big red dog", ["red dog"]) == pytest.approx(0.8)  # precision 2/3, recall 1
    assert f1("red dog", ["cat", "dog"]) == pytest.approx(2 / 3)
    assert f1("dog dog", ["dog"]) == pytest.approx(2 / 3)  # a repeated word counts once
    assert f1("cat", ["dog"]) == 0.0
    assert f1("cat", []) == 0.0


def test_two_empty_texts_match_and_one_does_not() -> None:
    assert f1("the", [""]) == exact_match("the", [""]) == 1.0
    assert f1("dog", [""]) == f1("", ["dog"]) == 0.0
