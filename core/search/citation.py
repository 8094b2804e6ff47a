"""What a citation calls the place of an answer: as the document's format names it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from core.search.words import normalise, stemmed, supports
from core.types import Page

AROUND = 200  # characters on both sides of an answer in which the question's words are looked for


def cite(page: Page, question: str, answer: str) -> str:
    """The place of an answer that stands on a page: of those where it stands, the one with most of the question's words
    around it."""
    if not page.places:
        return f"p. {page.number}"
    starts = [start for start, _ in page.places]
    asked = {stemmed(word) for word in normalise(question)} - {stemmed(word) for word in normalise(answer)}

    def near(at: int) -> int:
        around = page.text[max(0, at - AROUND) : at + len(answer) + AROUND]
        return len(asked & {stemmed(word) for word in normalise(around)})

    best = max(_found(page, starts, answer), key=near, default=0)
    return page.places[max(0, bisect_right(starts, best) - 1)][1]


def _found(page: Page, starts: Sequence[int], answer: str) -> list[int]:
    """Where the answer stands as it is; else where the places begin that hold its words."""
    text, wanted = page.text.casefold(), answer.casefold().strip(" .")
    found: list[int] = []
    at = text.find(wanted)
    while wanted and at >= 0 and len(found) < 100:
        found.append(at)
        at = text.find(wanted, at + 1)
    ends = [*starts[1:], len(page.text)]
    return found or [a for a, b in zip(starts, ends, strict=True) if supports(page.text[a:b], answer)]
