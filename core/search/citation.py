"""What a citation calls the place of an answer: as the document's format names it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice

from core.search.words import stems, supports
from core.types import Page

CONTEXT_LENGTH = 200  # characters on both sides of an answer in which the question's words are looked for
MAX_MATCHES = 100  # of an answer on one page that are looked at


def cite(page: Page, question: str, answer: str) -> str:
    """The place of an answer that stands on a page: of those where it stands, the one with most of the question's words
    around it."""
    if not page.places:
        return f"p. {page.number}"
    starts = [start for start, _ in page.places]
    asked = stems(question) - stems(answer)

    def shared_words(start: int) -> int:
        around = page.text[max(0, start - CONTEXT_LENGTH) : start + len(answer) + CONTEXT_LENGTH]
        return len(asked & stems(around))

    best = max(_answer_starts(page, starts, answer), key=shared_words, default=0)
    return page.places[max(0, bisect_right(starts, best) - 1)][1]


def _answer_starts(page: Page, starts: Sequence[int], answer: str) -> list[int]:
    """Where the answer stands as it is; else where the places begin that hold its words."""
    wanted = answer.casefold().strip(" .")
    if wanted:
        matches = re.finditer(f"(?={re.escape(wanted)})", page.text.casefold())  # they may overlap
        as_written = [match.start() for match in islice(matches, MAX_MATCHES)]
        if as_written:
            return as_written
    ends = [*starts[1:], len(page.text)]
    return [start for start, end in zip(starts, ends, strict=True) if supports(page.text[start:end], answer)]
