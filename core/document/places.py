"""Where in a document something stands, as its format names it: a page, a slide, a row of a sheet, a heading."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from core.search.words import normalise, stemmed, supports
from core.types import Page

ABOUT = "the file's own data"  # the place of what a file says of itself: title, author, date, contents
AROUND = 200  # characters on both sides of an answer in which the question's words are looked for


class Block(str):
    """A paragraph, a heading or a row, with the place that begins with it; "" for none."""

    __slots__ = ("place",)
    place: str

    def __new__(cls, text: str, place: str = "") -> Block:
        block = super().__new__(cls, text)
        block.place = place
        return block


def heading(text: str) -> Block:
    return Block(text, f"“{shortened(text)}”")


def shortened(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def joined(blocks: Sequence[str], within: str = "", between: str = "\n\n") -> tuple[str, list[tuple[int, str]]]:
    """The blocks as one text, and where its places begin: (offset, name), each after `within`.

    Args:
        within: the place that holds them all: "slide 3", "chapter 2"; "": none.
    """
    places, at = [(0, within)] if within else [], 0
    for block in blocks:
        if place := getattr(block, "place", ""):
            places.append((at, f"{within}, {place}" if within else place))
        at += len(block) + len(between)
    return between.join(blocks), places


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
    text, wanted, found = page.text.casefold(), answer.casefold().strip(" ."), []
    at = text.find(wanted)
    while wanted and at >= 0 and len(found) < 100:
        found.append(at)
        at = text.find(wanted, at + 1)
    ends = [*starts[1:], len(page.text)]
    return found or [a for a, b in zip(starts, ends, strict=True) if supports(page.text[a:b], answer)]
