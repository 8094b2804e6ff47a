"""Tables as text: each row as it stands, and as a sentence that names its row and its columns.

A small model learns "FEVEROUS, Codex: F1 57.85" where it can't learn that 57.85 stands below "F1".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.document.text import join_lines, tidy

FIGURE = re.compile(r"[-+−–]?[€$£]?\s?\d[\d.,:/'’ ]*(?:%|[€$£]|[a-zA-Zµ°]{0,3})\.?|[-–—]|n/?a", re.I)
NUMBER = re.compile(r"[-+−–]?\d+(?:[.,]\d+)*(?:e[-+−]?\d+)?%?", re.I)
LONGEST = 30  # characters of a figure
NO_HEADING = re.compile(r"[€$£]\s?\d|\d[€$£%]|\d[.,]\d|…|(?:\. ?){2}\d")  # amounts, dots before a page's number
YEAR = re.compile(r"(?:19|20)\d\d")
WIDEST = 100  # columns that a cell goes over, at most
KEYS = 2  # columns, at most, that name a row


def rows_as_text(rows: Sequence[Sequence[str]]) -> str:
    """A line for each row as it stands; then, of a table with a heading, a line for each row as a sentence."""
    rows = [[" ".join(cell.split()) for cell in row] for row in rows]
    rows = [row for row in rows if any(row)]
    lines = [" ".join(cell for cell in row if cell) for row in rows]
    return "\n".join([*lines, *([""] if (said := row_sentences(rows)) else []), *said])


def spread(rows: Sequence[Sequence[tuple[str, int, int]]]) -> list[list[str]]:
    """Rows of a table whose cells may go over several columns or rows, with a cell in each column: one that goes over
    columns stands in the first of them, one that goes over rows in each of them.

    Args:
        rows: of each cell its text, how many columns, how many rows it goes over.
    """
    table: list[list[str]] = []
    above: dict[int, tuple[str, int]] = {}  # by column: what goes on there from above, for how many rows
    for row in rows:
        cells: dict[int, str] = {}
        for column, (text, left) in list(above.items()):
            cells[column] = text
            above[column] = text, left - 1
            if left == 1:
                del above[column]
        column = 0
        for text, wide, high in row:
            while column in cells:
                column += 1
            for n in range(min(wide, WIDEST)):
                cells[column + n] = "" if n else text
                if high > 1:
                    above[column + n] = cells[column + n], high - 1
            column += min(wide, WIDEST)
        table.append([cells.get(n, "") for n in range(max(cells, default=-1) + 1)])
    return table


def cells_by_line(cells: Sequence[str]) -> list[list[str]]:
    """What stands between two rules of a table: as many rows as its cells have lines, if one of them is a column of
    figures; else one row, whose cells' lines belong together."""
    lines = [list(map(tidy, cell.splitlines())) for cell in cells]
    most = max(map(len, lines))
    is_even = most > 1 and all(len(cell) in (0, most) for cell in lines)
    if is_even and any(cell and all(map(_is_figure, cell)) for cell in lines):
        return list(map(list, zip(*(cell or [""] * most for cell in lines), strict=True)))
    return [[join_lines(cell, set()) for cell in lines]]


def row_sentences(rows: Sequence[Sequence[str]]) -> list[str]:
    """For each row "its name: column value, column value."; nothing where the first row names no columns."""
    if not has_heading(rows) or _is_run_together(rows := _parted(rows)):
        return []
    heading, *body = rows
    keys = max(_keys(body), not heading[0])
    sentences = []
    for row in body:
        named = zip(heading[keys:], row[keys:], strict=False)
        cells = [f"{column} {value}".strip() for column, value in named if value]
        name = ", ".join(cell for cell in row[:keys] if cell).rstrip(":")
        said = ", ".join(cells).rstrip(".") + "." if cells else ""
        sentences.append(f"{name}: {said}" if name and said else name or said)
    return sentences


def has_heading(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: by words, each another, or by years. Not less than two of each."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    first = [cell for cell in rows[0] if cell]
    years = [cell for cell in rows[0][1:] if YEAR.fullmatch(cell)]
    named = not any(_is_figure(cell) for cell in first) or (len(years) >= 2 and len(years) == len(rows[0]) - 1)
    named = named and all(any(map(str.isalnum, cell)) and not NO_HEADING.search(cell) for cell in first)
    named = named and not any(map(_is_alike, rows[0], rows[1]))
    return named and 2 * len(first) > len(rows[0]) and len(set(first)) == len(first)


def _is_alike(cell: str, below: str) -> bool:
    """Whether two cells differ in their numbers at most: "row 3" is no heading of "row 4"."""
    name = re.sub(r"\d+", "#", cell.casefold())
    return name == re.sub(r"\d+", "#", below.casefold()) and any(map(str.isalpha, name))


def _parted(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """With columns that stand too close to be told apart parted: below "z1 z2" stand "3.10 20" and "4.15 21"."""
    heading, *body = rows
    width = [len(cell.split()) for cell in heading]
    for column, words in enumerate(width):
        cells = [row[column].split() for row in body if column < len(row) and row[column]]
        if not all(len(cell) == words and all(map(NUMBER.fullmatch, cell)) for cell in cells):
            width[column] = 1
    return [[part for n, cell in enumerate(row) for part in _parts(cell, width[n : n + 1])] for row in rows]


def _parts(cell: str, width: Sequence[int]) -> list[str]:
    several = width and width[0] > 1
    return (cell.split() or [""] * width[0]) if several else [cell]


def _is_run_together(rows: Sequence[Sequence[str]]) -> bool:
    """Whether numbers of several columns stand in one cell, so that nothing tells which column they belong to."""
    several = (any(sum(map(bool, map(NUMBER.fullmatch, cell.split()))) > 1 for cell in row) for row in rows)
    wide = [row for row, wrong in zip(rows, several, strict=True) if wrong and not _has_thousands(row)]
    return rows[0] in wide or 4 * len(wide) > len(rows)


def _has_thousands(row: Sequence[str]) -> bool:
    """Whether blanks part the thousands of its numbers: 12 000."""
    return any(re.search(r"(?<!\d)\d{1,3}(?: \d{3})+(?![\d.,])", cell) for cell in row)


def has_figures(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a column below the first row is one of figures."""
    return any(_is_figures([row[column] for row in rows[1:]]) for column in range(min(map(len, rows))))


def _keys(body: Sequence[Sequence[str]]) -> int:
    """How many of the first columns name a row: those of words before the first one of figures; without figures one.
    None, where the first one is of figures: then each of these is named by its column, if that has a name."""
    width = max(map(len, body))
    figures = [_is_figures([row[column] for row in body if column < len(row)]) for column in range(width)]
    return min(figures.index(True), KEYS) if True in figures else 1


def _is_figures(column: Sequence[str]) -> bool:
    cells = [cell for cell in column if cell]
    return 2 * sum(map(_is_figure, cells)) > len(cells) > 0


def _is_figure(cell: str) -> bool:
    return 0 < len(cell) <= LONGEST and bool(FIGURE.fullmatch(cell) or NUMBER.fullmatch(cell))
