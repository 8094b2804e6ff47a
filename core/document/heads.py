"""Running heads and page numbers: what the margins of most pages share."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import filterfalse, pairwise, zip_longest
from statistics import median

MARGIN = 0.15  # of the page's height, above and below: where running heads and page numbers stand
HEADING_SIZE = 1.15  # times the page's usual type: a heading, not a running head
_NUMBER = re.compile(r"(?<!\d)\d{1,4}(?!\d)")
_LONE = re.compile(  # 7, - 7 -, [vii], Page 7 of 9
    r"[-–—\s[|]*(?:page\s+)?(?:\d{1,3}|(?=[xvi])x{0,3}(?:ix|iv|v?i{0,3}))(?:\s*(?:/|of)\s*\d{1,3})?[-–—\s\]|]*",
    re.IGNORECASE,
)


Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Line:
    """A run of type on one baseline. Points from the page's upper left corner, y grows downwards."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    size: float  # of the type
    block: int = 0  # which of the page's blocks it stands in; blocks come in reading order
    cells: tuple[str, ...] = ()  # what stands in it with wide gaps between: a table's row
    extents: tuple[tuple[float, float], ...] = ()  # from where to where each cell goes: x0, x1
    fonts: tuple[str, ...] = ()  # from left to right

    @property
    def box(self) -> Box:
        return self.x0, self.y0, self.x1, self.y1

    @property
    def middle(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    @property
    def words(self) -> int:
        return len(self.text.split())


@dataclass(frozen=True)
class Sheet:
    """One page's lines, in reading order."""

    height: float
    lines: tuple[Line, ...]
    pictures: tuple[Box, ...] = ()


def without_running_heads(sheets: Sequence[Sheet]) -> list[Sheet]:
    """Take out of each page's margins the lines that return from page to page, as far as they stand apart from the
    text, and lone page numbers. What a head says stays once: on the first page that has it, unless a heading or
    the first page says it.
    A page of nothing but its head keeps it."""
    heads = _heads(sheets)
    running = [_peeled(sheet, number, heads) for number, sheet in enumerate(sheets)]
    said: set[str] = set()
    title: set[str] = set()
    for number, sheet in enumerate(sheets):
        for line in sheet.lines:
            if line not in running[number]:
                said.add(_letters(line.text))
                if number == 0:
                    title |= _words(line.text)
    kept = []
    for sheet, heads_here in zip(sheets, running, strict=True):
        known = set()
        for line in heads_here:
            if is_page_number(line) or _letters(line.text) in said or _words(line.text) <= title:
                known.add(line)
        said.update(_letters(line.text) for line in heads_here - known)
        lines = list(filterfalse(known.__contains__, sheet.lines))
        lines = lines or list(filterfalse(is_page_number, sheet.lines))
        kept.append(replace(sheet, lines=tuple(lines)))
    return kept


def is_page_number(line: Line) -> bool:
    return bool(_LONE.fullmatch(line.text))


def line_distance(lines: Sequence[Line]) -> float:
    """The usual distance from one line to the next below it: double spacing at most, also on a page of few lines."""
    steps = [below.y0 - above.y0 for above, below in pairwise(lines) if below.y0 > above.y0]
    return min(median(steps), 2.5 * median(line.size for line in lines)) if steps else 0.0


def _letters(text: str) -> str:
    """A line's letters, without a page number beside its words."""
    words = filterfalse(_LONE.fullmatch, text.casefold().split())
    return "".join(filter(str.isalpha, "".join(words)))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text.casefold()))


def _heads(sheets: Sequence[Sheet]) -> set[tuple[str, str]]:
    """The marks that lines in the same margin of most pages share, or of three pages close together: a chapter's title.
    What is there twice on a page is a list's or a table's."""
    pages: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, sheet in enumerate(sheets):
        marks: Counter[tuple[str, str]] = Counter()
        for line in sheet.lines:
            marks.update(_marks(line, sheet, number))
        for mark, count in marks.items():
            if count == 1:
                pages[mark].append(number)
    most = max(2, 0.4 * len(sheets))  # a left and a right head share the pages between them
    return {mark for mark, numbers in pages.items() if len(numbers) >= most or _are_close(numbers)}


def _are_close(numbers: Sequence[int]) -> bool:
    """Whether three of the pages are."""
    return any(third - first <= 4 for first, third in zip(numbers, numbers[2:], strict=False))


def _edge(line: Line, sheet: Sheet) -> str:
    if line.y1 < MARGIN * sheet.height:
        return "top"
    return "bottom" if line.y0 > (1 - MARGIN) * sheet.height else ""


def _marks(line: Line, sheet: Sheet, page: int) -> set[tuple[str, str]]:
    """(edge, mark) of what a line in the margin may share with those of other pages: its text, or its text but for one
    number that counts as the pages do. Never that number alone: footnotes and steps count, too."""
    edge, text = _edge(line, sheet), line.text.casefold()
    if not edge or not any(map(str.isalpha, text)):
        return set()
    marks = {(edge, text)}
    for number in _NUMBER.finditer(text):
        counted = f"#{int(number[0]) - page:+}"
        marks.add((edge, text[: number.start()] + counted + text[number.end() :]))
    for word in text.split():
        if word.isalpha() and _LONE.fullmatch(word):
            marks.add((edge, f"#roman {_letters(text)}"))
    return marks


def _peeled(sheet: Sheet, page: int, heads: set[tuple[str, str]]) -> set[Line]:
    """The lines of a page's margins that are running heads or page numbers."""
    gone: set[Line] = set()
    apart, rows = 1.25 * line_distance(sheet.lines), _side_by_side(sheet.lines)
    body = median(line.size for line in sheet.lines) if sheet.lines else 0.0

    def returns(line: Line) -> bool:
        return line.size <= HEADING_SIZE * body and bool(heads & _marks(line, sheet, page))

    for edge, order in (("top", rows), ("bottom", rows[::-1])):
        run: list[Line] = []
        for row, beyond in zip_longest(order, order[1:]):
            lone = all(map(is_page_number, row))
            head = [line for line in row if is_page_number(line) or returns(line)]
            if _edge(row[0], sheet) != edge or not (lone or any(map(returns, row))):
                break
            run += head
            if lone or (beyond and abs(beyond[0].y0 - row[0].y0) > apart):
                gone.update(run)
            if len(head) < len(row):  # beside it stands text that does not return
                break
    return gone


def _side_by_side(lines: Sequence[Line]) -> list[list[Line]]:
    """From top to bottom, the lines on one height."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.y0):
        if rows and line.y0 - rows[-1][0].y0 < 0.5 * line.size:
            rows[-1].append(line)
        else:
            rows.append([line])
    return rows
