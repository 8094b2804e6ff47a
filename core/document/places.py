"""Where in a document something stands, as its format names it: a page, a slide, a row of a sheet, a heading."""

from __future__ import annotations

from collections.abc import Sequence

from core.document.text import one_line

MIN_HEADINGS = 3  # headings that are worth a list, or a citation
ABOUT = "the file's own data"  # the place of what a file says of itself: title, author, date, contents


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
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def join_blocks(blocks: Sequence[str], within: str = "", between: str = "\n\n") -> tuple[str, list[tuple[int, str]]]:
    """The blocks as one text, and where its places begin: (offset, name), each after `within`.

    Args:
        within: the place that holds them all: "slide 3", "chapter 2"; "": none.
    """
    places, offset = [(0, within)] if within else [], 0
    for block in blocks:
        if place := getattr(block, "place", ""):
            places.append((offset, f"{within}, {place}" if within else place))
        offset += len(block) + len(between)
    return between.join(blocks), places


def with_own(own: str, text: str, places: Sequence[tuple[int, str]]) -> tuple[str, list[tuple[int, str]]]:
    """The first part's text with what the file says of itself before it, and where its places begin then."""
    moved = [(offset + len(own) + 2, name) for offset, name in places]
    return f"{own}\n\n{text}", [(0, ABOUT), *moved]
