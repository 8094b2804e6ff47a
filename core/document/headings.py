"""A document's headings, found by their type or named by the file's outline, and what citations call their text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, zip_longest

from core.document.places import MIN_HEADINGS, shortened
from core.document.text import one_line

MAX_WORDS = 14  # of a heading, at most
MAX_LINES = 3
HEADING_SIZE = 1.12  # times the usual type
TITLE_SIZE = 1.3  # times the usual type: a title
TEXT_SHARE = 0.15  # share of a document's letters: type of this size is text
MAX_HEADING_SHARE = 0.4  # share of a document's paragraphs; more headings are a form's labels or a card's entries
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

    @property
    def words(self) -> int:
        return len(self.text.split())


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
            prose = prose or piece.words > MAX_WORDS
            if heads and last and title and not (number or prose):  # below the title stand authors, and a date
                headings.pop()
            if heads:
                size = round(piece.size)
                level = sizes.index(size) if size in sizes else len(sizes)
                headings.append((len(text), level + 1, piece.text))
            text, last = text + piece.text, heads
        texts.append(PageText(text, tuple(headings)))
    if _count(texts) > MAX_HEADING_SHARE * sum(map(len, pages)):
        texts = [PageText(page.text) for page in texts]
    return texts, title


def _count(pages: Sequence[PageText]) -> int:
    return sum(len(page.headings) for page in pages)


def with_outline(pages: Sequence[PageText], outline: Sequence[tuple[int, str, int]], first: int) -> list[PageText]:
    """The same with the headings of the file's outline, (level, text, page), where they stand on their pages.

    Args:
        first: the number of the first of the pages.
    """
    if len(outline) < MIN_HEADINGS:
        return list(pages)
    named: list[list[tuple[int, int, str]]] = [[] for _ in pages]
    for level, text, number in outline:
        index = number - first
        if not 0 <= index < len(pages) or not text.strip():
            continue
        words = r"\s+".join(map(re.escape, text.split()))
        numbered = re.compile(rf"^(?:[\w.]{{1,9}}\s+)?{words}", re.IGNORECASE | re.MULTILINE)
        begin = named[index][-1][0] + 1 if named[index] else 0
        if line := numbered.search(pages[index].text, begin):
            named[index].append((line.start(), level, one_line(line[0])))
    return [replace(page, headings=tuple(headings)) for page, headings in zip(pages, named, strict=True)]


def named_places(pages: Sequence[PageText], first: int) -> list[list[tuple[int, str]]]:
    """For each page what a citation calls its parts: the page and the last heading. Nothing where hardly any is."""
    places: list[list[tuple[int, str]]] = [[] for _ in pages]
    if _count(pages) < MIN_HEADINGS:
        return places
    last = ""
    for number, page, here in zip(count(first), pages, places, strict=False):
        if not page.headings or page.headings[0][0] > 0:
            here.append((0, _place(number, last)))
        for start, _, last in page.headings:
            here.append((start, _place(number, last)))
    return places


def _place(page: int, heading: str) -> str:
    return f"p. {page}, “{shortened(heading)}”" if heading else f"p. {page}"


def _sizes(pages: Sequence[Sequence[Piece]]) -> tuple[float, list[int]]:
    """The size of most letters; and those of headings, which hold few of them, the largest first."""
    letters: Counter[float] = Counter()
    for piece in chain.from_iterable(pages):
        letters[round(piece.size, 1)] += len(piece.text)
    usual = max(letters, key=lambda size: letters[size], default=0.0)
    rounded: Counter[int] = Counter()
    for size, number in letters.items():
        if size >= HEADING_SIZE * usual:
            rounded[round(size)] += number
    few = TEXT_SHARE * letters.total()
    large = [size for size, number in rounded.items() if 0 < number < few]
    return usual, sorted(large, reverse=True)


def _is_heading(piece: Piece, below: Piece | None, usual: float, sizes: Sequence[int]) -> bool:
    """Whether it is set larger than the text; or bold, with a number or with an empty line above and prose below."""
    begins = next((c for c in piece.text if c.isalnum()), "a")
    numbered = bool(_NUMBERED.match(piece.text))
    if below is None or begins.islower() or piece.text.endswith(UNFINISHED) or (piece.row and not numbered):
        return False
    if piece.lines > MAX_LINES or piece.words > MAX_WORDS or sum(map(str.isalpha, piece.text)) < 3:
        return False
    if piece.size >= HEADING_SIZE * usual:
        return round(piece.size) in sizes
    if piece.size < 0.95 * usual or piece.text.endswith(".") or not _is_bold(piece):
        return False
    prose = not below.row and below.words >= MAX_WORDS and not _is_bold(below)
    return prose and (numbered or piece.gap == "\n\n")


def _is_bold(piece: Piece) -> bool:
    return bool(piece.fonts) and all(map(BOLD.search, piece.fonts))


def _title(page: Sequence[Piece], usual: float) -> str:
    """The largest type of a page, if it stands in one place near its top."""
    largest = max((piece.size for piece in page), default=0.0)
    large = [n for n, piece in enumerate(page) if piece.size > 0.95 * largest]
    if largest < TITLE_SIZE * usual or not large:
        return ""
    first, last = large[0], large[-1]
    if first > 3 or last - first >= len(large):
        return ""
    text = " ".join(piece.text for piece in page[first : last + 1])
    return text if len(text.split()) <= 2 * MAX_WORDS else ""
