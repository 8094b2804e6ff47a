"""What an answer may go on with."""

from __future__ import annotations

import pytest

from core.learning.drafts import Draft

TEXT = "Asta Brenn keeps the  lamps of Vessin.\nThe lamps are lit by Asta Brenn at dusk, and by Orla Tamm at dawn."


def follow(tokenizer, said: str, text: str = TEXT, most: int = 12) -> str:
    ids = tokenizer.encode(said, add_special_tokens=False)
    return tokenizer.decode(Draft(tokenizer, text).follow(ids, most)).strip()


@pytest.mark.parametrize(
    ("said", "following"),
    [
        ("Asta", "Brenn keeps"),
        ("the lamps", "of Vessin"),
        ("asta brenn at", "dusk"),
        ("At dusk the lamps", "of Vessin"),  # its end alone
        ("eeps", ""),  # no word begins so
        ("Nobody", ""),
        ("", ""),
    ],
)
def test_the_words_of_the_text_that_follow_those_that_were_said(tokenizer, said, following) -> None:
    assert follow(tokenizer, said).startswith(following) and bool(follow(tokenizer, said)) == bool(following)


def test_a_draft_has_at_most_so_many_tokens_and_none_after_the_end(tokenizer) -> None:
    ids = tokenizer.encode("Asta", add_special_tokens=False)
    assert len(Draft(tokenizer, TEXT).follow(ids, 3)) == 3
    assert follow(tokenizer, TEXT) == follow(tokenizer, "Asta", "") == ""
