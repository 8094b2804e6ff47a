"""Draft tokens for speculative decoding, by prompt lookup: what follows an answer's last words where they stand in a
text of the prompt (Yang et al. 2023, arXiv 2304.04487)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST = 8  # tokens of an answer's end, at most, that are looked up
CHARACTERS = 6  # of the text that are encoded for each token of a draft


class Draft:
    """Looks up drafts in one text."""

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.tokenizer = tokenizer
        self.text = " ".join(text.split())
        folded = self.text.lower()
        self.folded = folded if len(folded) == len(self.text) else self.text

    def follow(self, answer: Sequence[int], most: int) -> list[int]:
        """At most so many tokens that may follow this answer; none where its last words do not stand in the text."""
        for count in range(min(len(answer), LONGEST), 0, -1):
            end = list(answer[-count:])
            words = self.tokenizer.decode(end)
            begins = count == len(answer) or words[:1].isspace()
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
