"""A document's headings, found by their type or named by the file's outline, and what citations call their text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from core.document.places import FEWEST, shortened

WORDS = 14  # of a heading, at most
LINES = 3
LARGER = 1.12  # times the usual type
TITLE = 1.3  # times the usual type: a title
TEXT = 0.15  # share of a document's letters: type of this size is text
CROWD = 0.4  # share of a document's paragraphs; more headings are a form's labels or a card's entries
BOLD = re.compile(r"bold|black|heavy|demi|medi(?!um)|cmb|bx\d", re.I)
UNFINISHED = (",", ";", ":", "-", "…", "=", "(")
_NUMBERED = re.compile(r"(?:\d{1,2}|[A-Z])(?:\.\d{1,2})*\.?\s+[^\W\d_]")


@dataclass
class Piece:
    """A paragraph, a list item, a heading or a table's row, as it is set."""

    text: str
    size: float  # of its type, in points
    gap: str  # what parts it from the piece before it: an empty line or a line's end
    row: bool = False  # of a table
    lines: int = 1
    fonts: tuple[str, ...] = ()


@dataclass(frozen=True)
class PageText:
    """A page's text and its headings: (where it begins, its level from 1, what it says)."""

    text: str
    headings: tuple[tuple[int, int, str], ...] = ()


def with_headings(pages: Sequence[Sequence[Piece]]) -> tuple[list[PageText], str]:
    """The text of each page with its headings, and the title that the first page shows; "" for none."""
    usual, sizes = _sizes(pages)
    title = _title(pages[0], usual) if pages else ""
    texts = []
    for number, page in enumerate(pages):
        text, last, prose = "", False, False
        headings: list[tuple[int, int, str]] = []
        for piece, below in zip_longest(page, page[1:]):
            text += piece.gap if text else ""
            heads = piece.text not in title and _is_heading(piece, below, usual, sizes)
            prose = prose or len(piece.text.split()) > WORDS
            if heads and last and title and not (number or prose):  # below the title stand authors, and a date
                headings.pop()
            if heads:
                level = sizes.index(round(piece.size)) + 1 if round(piece.size) in sizes else len(sizes) + 1
                headings.append((len(text), level, piece.text))
            text, last = text + piece.text, heads
        texts.append(PageText(text, tuple(headings)))
    crowded = sum(len(page.headings) for page in texts) > CROWD * sum(map(len, pages))
    return [PageText(page.text) for page in texts] if crowded else texts, title


def with_outline(pages: Sequence[PageText], outline: Sequence[tuple[int, str, int]], first: int) -> list[PageText]:
    """The same with the headings of the file's outline, (level, text, page), where they stand on their pages.

    Args:
        first: the number of the first of the pages.
    """
    if len(outline) < FEWEST:
        return list(pages)
    named: list[list[tuple[int, int, str]]] = [[] for _ in pages]
    for level, text, number in outline:
        index = number - first
        if not 0 <= index < len(pages) or not text.strip():
            continue
        words = r"\s+".join(map(re.escape, text.split()))
        begin = named[index][-1][0] + 1 if named[index] else 0
        if line := re.compile(rf"^(?:[\w.]{{1,9}}\s+)?{words}", re.I | re.M).search(pages[index].text, begin):
            named[index].append((line.start(), level, " ".join(line[0].split())))
    return [replace(page, headings=tuple(headings)) for page, headings in zip(pages, named, strict=True)]


def named_places(pages: Sequence[PageText], first: int) -> list[list[tuple[int, str]]]:
    """For each page what a citation calls its parts: the page and the last heading. Nothing where hardly any is."""
    if sum(len(page.headings) for page in pages) < FEWEST:
        return [[] for _ in pages]
    places, last = [], ""
    for number, page in enumerate(pages, start=first):
        below = {0: last} | {start: text for start, _, text in page.headings}
        places.append([(start, _place(number, text)) for start, text in below.items()])
        last = [*below.values()][-1]
    return places


def _place(page: int, heading: str) -> str:
    return f"p. {page}, “{shortened(heading)}”" if heading else f"p. {page}"


def _sizes(pages: Sequence[Sequence[Piece]]) -> tuple[float, list[int]]:
    """The size of most letters; and those of headings, which hold few of them, the largest first."""
    letters: Counter[float] = Counter()
    for piece in (piece for page in pages for piece in page):
        letters[round(piece.size, 1)] += len(piece.text)
    usual = max(letters, key=lambda size: letters[size], default=0.0)
    rounded: Counter[int] = Counter()
    for size, count in letters.items():
        rounded[round(size)] += count if size >= LARGER * usual else 0
    few = TEXT * letters.total()
    return usual, sorted((size for size, count in rounded.items() if 0 < count < few), reverse=True)


def _is_heading(piece: Piece, below: Piece | None, usual: float, sizes: Sequence[int]) -> bool:
    """Whether it is set larger than the text; or bold, with a number or with an empty line above and prose below."""
    begins = next((c for c in piece.text if c.isalnum()), "a")
    numbered = bool(_NUMBERED.match(piece.text))
    if below is None or begins.islower() or piece.text.endswith(UNFINISHED) or (piece.row and not numbered):
        return False
    if piece.lines > LINES or len(piece.text.split()) > WORDS or sum(map(str.isalpha, piece.text)) < 3:
        return False
    if piece.size >= LARGER * usual:
        return round(piece.size) in sizes
    if piece.size < 0.95 * usual or piece.text.endswith(".") or not _is_bold(piece):
        return False
    prose = not below.row and len(below.text.split()) >= WORDS and not _is_bold(below)
    return prose and (numbered or piece.gap == "\n\n")


def _is_bold(piece: Piece) -> bool:
    return bool(piece.fonts) and all(map(BOLD.search, piece.fonts))


def _title(page: Sequence[Piece], usual: float) -> str:
    """The largest type of a page, if it stands in one place near its top."""
    largest = max((piece.size for piece in page), default=0.0)
    large = [n for n, piece in enumerate(page) if piece.size > 0.95 * largest]
    if largest < TITLE * usual or not large or large[-1] - large[0] >= len(large) or large[0] > 3:
        return ""
    text = " ".join(page[n].text for n in large)
    return text if len(text.split()) <= 2 * WORDS else ""
