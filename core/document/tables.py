"""Tables as text: each row as it stands, and as a sentence that names its row and its columns.

A small model learns "FEVEROUS, Codex: F1 57.85" where it can't learn that 57.85 stands below "F1".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain, repeat, zip_longest
from statistics import median

from core.document.text import join_lines, one_line, tidy

FIGURE = re.compile(r"[-+−–]?[€$£]?\s?\d[\d.,:/'’ ]*(?:%|[€$£]|[a-zA-Zµ°]{0,3})\.?|[-–—]|n/?a", re.I)
NUMBER = re.compile(r"[-+−–]?\d+(?:[.,]\d+)*(?:e[-+−]?\d+)?%?", re.I)
MAX_FIGURE_LENGTH = 30  # characters of a figure
# Amounts, commands, dots before a page's number
NO_HEADING = re.compile(r"[€$£]\s?\d|\d[€$£%]|\d[.,]\d|\de[-+−]\d|\\[a-z]|…|(?:\. ?){2}\d", re.I)
YEAR = re.compile(r"(?:19|20)\d\d")
THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?: \d{3})+(?![\d.,])")  # parted by blanks: 12 000
MAX_SPAN = 100  # columns that a cell goes over, at most
MAX_KEY_COLUMNS = 2  # columns, at most, that name a row
MAX_LABEL_WORDS = 10  # words of a column's name, or of a row's
MIN_SENTENCE_WORDS = 4  # words that end with a full stop and are no abbreviations
DESCRIBES = ("description", "beschreibung", "descripción", "descrição", "descrizione")  # says nothing beside a key


def rows_as_text(rows: Sequence[Sequence[str]]) -> str:
    """A line for each row as it stands; then, of a table with a heading, a line for each row as a sentence."""
    rows = list(filter(any, without_breaks(rows)))
    parts = ["\n".join(map(line_of, rows) if has_heading(rows) else lines_without_heading(rows))]
    if sentences := row_sentences(rows):
        parts.append("\n".join(sentences))
    return "\n\n".join(parts)


def without_breaks(rows: Iterable[Iterable[str]]) -> list[list[str]]:
    """The same cells, each in one line."""
    return [list(map(one_line, row)) for row in rows]


def line_of(row: Iterable[str]) -> str:
    """A row as it stands, without its empty cells."""
    return " ".join(filter(None, row))


def lines_without_heading(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row: "key: what it says" of a table with a column of keys and one more, else as it stands."""
    columns = [column for column in zip_longest(*rows, fillvalue="") if any(column)]
    if len(columns) != 2 or not _are_keys(*columns):
        return list(map(line_of, rows))
    lines = []
    for key, value in zip(*columns, strict=True):
        lines.append(f"{key.rstrip(':')}: {value}" if value else key)
    return lines


def _are_keys(names: Sequence[str], values: Sequence[str]) -> bool:
    """Whether they name what stands beside them: short, each another, before figures or more words than they are."""
    if not all(names) or len(set(names)) < len(names) or any(map(_is_long, names)):
        return False
    if _is_figures(list(filter(None, values))):
        return not _is_figures(names)
    return len("".join(values)) > len("".join(names))


def _is_long(cell: str) -> bool:
    """Whether it is too long for a name, or a sentence."""
    return len(cell.split()) > MAX_LABEL_WORDS or _is_sentence(cell)


def _is_sentence(cell: str) -> bool:
    return cell.endswith(".") and len(cell.split()) >= MIN_SENTENCE_WORDS


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
        going_on = list(above.items())
        above.clear()
        for column, (text, left) in going_on:
            cells[column] = text
            if left > 1:
                above[column] = text, left - 1
        column = 0
        for text, wide, high in row:
            while column in cells:
                column += 1
            for n in range(min(wide, MAX_SPAN)):
                cells[column + n] = "" if n else text
                if high > 1:
                    above[column + n] = cells[column + n], high - 1
            column += min(wide, MAX_SPAN)
        width = max(cells, default=-1) + 1
        table.append([cells.get(n, "") for n in range(width)])
    return table


def cells_by_line(cells: Sequence[str]) -> list[list[str]]:
    """What stands between two rules of a table: as many rows as its cells have lines, if one of them is a column of
    figures; else one row, whose cells' lines belong together."""
    lines = [list(map(tidy, cell.splitlines())) for cell in cells]
    most = max(map(len, lines))
    is_even = most > 1 and all(len(cell) in (0, most) for cell in lines)
    if is_even and any(cell and all(map(_is_figure, cell)) for cell in lines):
        columns = [cell or [""] * most for cell in lines]
        return list(map(list, zip(*columns, strict=True)))
    return [[join_lines(cell, set()) for cell in lines]]


def row_sentences(rows: Sequence[Sequence[str]], apart: bool | None = None) -> list[str]:
    """For each row "its name: column value, column value."; nothing where the first row names no columns.

    Args:
        apart: as in `has_heading`.
    """
    if not has_heading(rows, apart):
        return []
    heading, *body = _parted(rows)
    if _is_run_together([heading, *body]):
        return []
    keys = max(_keys(body), not heading[0])
    if len(heading) == 2 and heading[1].casefold() in DESCRIBES:
        heading[1] = ""
    sentences = []
    for row in body:
        name = ", ".join(filter(None, row[:keys])).rstrip(":")
        values = _named_values(heading[keys:], row[keys:])
        sentences.append(": ".join(filter(None, (name, values))))
    return sentences


def _named_values(heading: Sequence[str], row: Sequence[str]) -> str:
    """ "column value, column value."; "" for a row without values."""
    named = zip(heading, row, strict=False)
    cells = [f"{column} {value}".strip() for column, value in named if value]
    return ", ".join(cells).rstrip(".") + "." if cells else ""


def has_heading(rows: Sequence[Sequence[str]], apart: bool | None = None) -> bool:
    """Whether the first row names the columns: by words, each another, or by years. Not less than two of each.

    Args:
        apart: whether the first row is set apart from those below it; None, where nobody knows. One that is set as
            they are has to differ from them in form.
    """
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    first = list(filter(None, rows[0]))
    if 2 * len(first) <= len(rows[0]) or len(set(first)) < len(first):
        return False
    if any(map(_is_figure, first)) and not _names_years(rows[0]):
        return False
    if not all(map(_is_name, first)) or any(map(_is_alike, rows[0], rows[1])):
        return False
    if apart is None:
        return not any(map(_is_sentence, first))
    return apart or _differs(rows)


def _differs(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row differs in form from those below it: no name of it is long, and one stands above figures,
    or all of them begin as nothing below them does, or half of them in a row that is shorter than most."""
    heading, *body = rows
    if any(map(_is_long, heading)):
        return False
    compared = different = 0
    for column, name in enumerate(heading):
        cells = _column(body, column)
        if name and _is_figures(list(filter(_holds_words, cells))):  # a dash alone is no figure
            return True
        forms = set(filter(None, map(_form, cells)))
        if forms and _form(name):
            compared += 1
            different += _form(name) not in forms
    is_short = len(line_of(heading)) < median(map(len, map(line_of, body)))
    return 0 < compared <= (2 * different if is_short else different)


def _form(cell: str) -> str:
    """How a cell begins: with a sign, a digit, a small letter or a capital. "" for a single character, and for scripts
    without capitals."""
    first = cell[:1]
    if len(cell) < 2:
        return ""
    if not first.isalpha():
        return "digit" if first.isdigit() else "sign"
    if first.isupper():
        return "capital"
    return "small" if first.islower() else ""


def _holds_words(cell: str) -> bool:
    return any(map(str.isalnum, cell))


def _names_years(row: Sequence[str]) -> bool:
    return len(row) > 2 and all(map(YEAR.fullmatch, row[1:]))


def _is_name(cell: str) -> bool:
    return _holds_words(cell) and not NO_HEADING.search(cell)


def _is_alike(cell: str, below: str) -> bool:
    """Whether two cells differ in their numbers at most: "row 3" is no heading of "row 4"."""
    name = re.sub(r"\d+", "#", cell.casefold())
    return name == re.sub(r"\d+", "#", below.casefold()) and any(map(str.isalpha, name))


def _parted(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """With columns that stand too close to be told apart parted: below "z1 z2" stand "3.10 20" and "4.15 21"."""
    heading, *body = rows
    widths = []
    for column, name in enumerate(heading):
        cells = _column(body, column)
        width = len(name.split())
        is_several = all(_is_numbers(cell, width) for cell in cells)
        widths.append(width if is_several else 1)
    parted = []
    for row in rows:
        parts: list[str] = []
        for cell, width in zip(row, chain(widths, repeat(1)), strict=False):
            parts += (cell.split() or [""] * width) if width > 1 else [cell]
        parted.append(parts)
    return parted


def _column(rows: Iterable[Sequence[str]], number: int) -> list[str]:
    """The cells of a column, without empty ones."""
    return [row[number] for row in rows if number < len(row) and row[number]]


def _is_numbers(cell: str, count: int) -> bool:
    """Whether it holds so many numbers, and nothing else."""
    words = cell.split()
    return len(words) == count and all(map(NUMBER.fullmatch, words))


def _is_run_together(rows: Sequence[Sequence[str]]) -> bool:
    """Whether numbers of several columns stand in one cell, so that nothing tells which column they belong to."""
    wide = [row for row in rows if any(map(_has_several, row)) and not any(map(THOUSANDS.search, row))]
    return rows[0] in wide or 4 * len(wide) > len(rows)


def _has_several(cell: str) -> bool:
    return sum(map(bool, map(NUMBER.fullmatch, cell.split()))) > 1


def has_figures(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a column below the first row is one of figures."""
    width = min(map(len, rows))
    return any(_is_figures(_column(rows[1:], column)) for column in range(width))


def _keys(body: Sequence[Sequence[str]]) -> int:
    """How many of the first columns name a row: those of words before the first one of figures; without figures one.
    None, where the first one is of figures: then each of these is named by its column, if that has a name."""
    for column in range(max(map(len, body))):
        if _is_figures(_column(body, column)):
            return min(column, MAX_KEY_COLUMNS)
    return 1


def _is_figures(cells: Sequence[str]) -> bool:
    """Whether most cells of a column that are not empty are."""
    return 2 * sum(map(_is_figure, cells)) > len(cells) > 0


def _is_figure(cell: str) -> bool:
    return 0 < len(cell) <= MAX_FIGURE_LENGTH and bool(FIGURE.fullmatch(cell) or NUMBER.fullmatch(cell))
