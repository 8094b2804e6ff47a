"""What an answer may go on with: what follows its last words in a text that it may repeat (prompt lookup: Yang et al.
2023, arXiv 2304.04487)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST = 8  # tokens that are looked for
CHARACTERS = 6  # of a text, for a token


class Draft:
    """Of one text."""

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.tokenizer = tokenizer
        self.text = " ".join(text.split())
        folded = self.text.lower()
        self.folded = folded if len(folded) == len(self.text) else self.text

    def follow(self, said: Sequence[int], most: int) -> list[int]:
        """At most so many tokens that may follow what was said; none where its last words do not stand in the text."""
        for count in range(min(len(said), LONGEST), 0, -1):
            end = list(said[-count:])
            words = self.tokenizer.decode(end)
            begins = count == len(said) or words[:1].isspace()
            if begins and (place := self._after(words.strip().lower())):
                following = self.text[place : place + most * CHARACTERS]
                ids = self.tokenizer.encode(words + following, add_special_tokens=False)
                if ids[:count] == end:
                    return ids[count : count + most]
        return []

    def _after(self, words: str) -> int:
        """Where these words end in the text for the first time; 0 where they do not stand there."""
        place = self.folded.find(words) if words else -1
        while place > 0 and self.folded[place - 1].isalnum():  # within a word
            place = self.folded.find(words, place + 1)
        return place + len(words) if place >= 0 else 0
