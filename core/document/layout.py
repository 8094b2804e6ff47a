"""Lines of type as they stand on paper -> the text that a reader reads. Pure; knows no PDF library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, pairwise

from core.document.headings import PageText, Piece, with_headings
from core.document.heads import Line, Sheet, line_distance, without_running_heads
from core.document.order import (
    MIN_PROSE_WORDS,
    columns_apart,
    in_reading_order,
    labels_first,
    notes_apart,
    rows_together,
    without_doubles,
)
from core.document.tables import has_figures, row_sentences
from core.document.text import SENTENCE_END, SOFT_HYPHEN, is_broken, join_lines, runs_on, vocabulary

MAX_ASIDES = 8  # pieces that a sentence may go on beyond
MIN_SENTENCE_WORDS = 6  # words of a piece that may be a sentence's beginning
FULL_SHARE = 0.75  # of the room: a ragged line of prose fills as much
MIN_TABLE_ROWS = 3  # rows of a table, with its heading, that is not ruled
MIN_JUSTIFIED = 25  # characters of a line that fills its column
MAX_CODE_SHARE = 0.5  # share of a page's lines in type of one width: then it is the text, not code

_CAPTION = re.compile(r"(?:figure|fig\.|table|tab\.|abbildung|abb\.|tabelle|listing|algorithm|chart|box)\s*\d", re.I)
_SENTENCE = re.compile(r".*?[.!?][\"”’)\]]*(?=\s+[^\W\d_a-z]|$)", re.S)  # to the end of the first one
_LEADS = re.compile(r"… ?(?:\d+|[ivxlc]+)$")  # a line of a table of contents
_FIXED = re.compile(r"mono|courier|typewriter|cmtt|consol|menlo|fixed|\btt", re.I)  # fonts of one width
_ITEM = re.compile(r"(?:[•‣◦▪●○■□–—*·]|\(?(?:\d{1,3}|[a-z])[.)])\s")  # a list's bullet or number


def read_sheets(sheets: Sequence[Sheet]) -> list[str]:
    """The clean text of each page, as `read_pages`."""
    return [page.text for page in read_pages(sheets)[0]]


def read_pages(sheets: Sequence[Sheet]) -> tuple[list[PageText], str]:
    """The clean text of each page: running heads and page numbers gone, broken words and lines joined, paragraphs and
    list items on lines of their own, with an empty line where the page leaves room. Nothing else is left out. And the
    title that the first page shows.
    """
    sheets = [replace(sheet, lines=tuple(_rows(_ordered(sheet.lines)))) for sheet in sheets]
    sheets = without_running_heads(sheets)
    words = vocabulary(line.text for sheet in sheets for line in sheet.lines)
    pages = [_pieces(sheet, words) for sheet in sheets]
    for before, after in pairwise(pages):
        _join_across(before, after, words)
        _mend_page_break(before, after, words)
    for page in filter(None, pages):
        page[-1].text = page[-1].text.rstrip(SOFT_HYPHEN)
    return with_headings(pages)


def _ordered(lines: Sequence[Line]) -> list[Line]:
    lines = notes_apart(without_doubles(lines))
    lines = rows_together(columns_apart(lines))
    return in_reading_order(labels_first(lines))


# Lines and paragraphs


def _is_aside(piece: Piece, size: float) -> bool:
    """Whether a sentence in type of this size may go on beyond it: a footnote, a caption, a table."""
    return piece.row or piece.size < 0.95 * size or bool(_CAPTION.match(piece.text))


def _rows(lines: Sequence[Line]) -> Iterator[Line]:
    """Pieces of one block on one baseline as one line: a table's row, or a line with a wide gap."""
    row: Line | None = None
    for line in lines:
        if row and line.block == row.block and _beside(row, line):
            row = _joined(row, line)
        else:
            if row:
                yield row
            row = line
    if row:
        yield row


def _joined(row: Line, line: Line) -> Line:
    """A row with one piece more: a cell of its own after a wide gap, else more of the last cell."""
    cells, extents = row.cells or (row.text,), row.extents or ((row.x0, row.x1),)
    if line.x0 - row.x1 > row.size:
        cells, extents = (*cells, line.text), (*extents, (line.x0, line.x1))
    else:
        cells = (*cells[:-1], f"{cells[-1]} {line.text}")
        extents = (*extents[:-1], (extents[-1][0], line.x1))
    if len(cells) == 1:
        cells = extents = ()
    text, fonts = f"{row.text} {line.text}", row.fonts + line.fonts
    return replace(row, text=text, x1=line.x1, cells=cells, extents=extents, fonts=fonts)


def _beside(left: Line, right: Line) -> bool:
    slack = 0.3 * left.size
    return right.x0 > left.x1 - slack and abs(right.y1 - left.y1) < slack


def _pieces(sheet: Sheet, words: set[str]) -> list[Piece]:
    pieces: list[Piece] = []
    for stack in _stacks(sheet.lines):
        first, *rest = _paragraphs(stack, sheet, words)
        begun = None if first.row else _begun(pieces, first)
        if begun is not None:  # past a column's end, a picture, a caption
            pieces[begun].text = join_lines((pieces[begun].text, first.text), words)
        else:
            pieces.append(first)
        pieces += rest
        gap = "\n\n"
        for sentence in chain.from_iterable(map(row_sentences, _tables(stack))):
            pieces.append(Piece(sentence, first.size, gap, row=True))
            gap = "\n"
    return pieces


def _tables(stack: Sequence[Line]) -> list[list[list[str]]]:
    """Lines one below the other with cells that stand in the same columns. Words alone may be a list."""
    tables = []
    for several, run in groupby(stack, key=lambda line: len(line.extents) > 1):
        lines = list(run)
        if several and not (table := _in_columns(lines)):
            for _, group in groupby(lines, key=lambda line: len(line.extents)):
                tables.append(_in_columns(list(group)))
        elif several:
            tables.append(table)
    return [table for table in tables if len(table) >= MIN_TABLE_ROWS and has_figures(table)]


def _in_columns(lines: Sequence[Line]) -> list[list[str]]:
    """The rows of a table, "" for a cell that a row lacks; nothing where the columns of the lines that have most cells
    overlap, or a cell of another line stands in none or in several of them."""
    most = max(len(line.extents) for line in lines)
    full = [line.extents for line in lines if len(line.extents) == most]
    columns = []
    for extents in zip(*full, strict=True):
        starts, ends = zip(*extents, strict=True)
        columns.append((min(starts), max(ends)))
    if any(right[0] <= left[1] for left, right in pairwise(columns)):
        return []
    rows = []
    for line in lines:
        row = [""] * len(columns)
        for cell, (x0, x1) in zip(line.cells, line.extents, strict=True):
            below = [number for number, column in enumerate(columns) if x0 <= column[1] and x1 >= column[0]]
            if len(below) != 1 or row[below[0]]:
                return []
            row[below[0]] = cell
        rows.append(row)
    return rows


def _begun(pieces: Sequence[Piece], rest: Piece) -> int | None:
    """Where the sentence that `rest` goes on with was begun: in the last piece, or before what may stand in between."""
    last = len(pieces) - 1
    for number in range(last, max(-1, last - MAX_ASIDES), -1):
        piece = pieces[number]
        is_alike = abs(piece.size - rest.size) < 0.15 * rest.size and not piece.row
        is_long = number == last or piece.words >= MIN_SENTENCE_WORDS
        if is_alike and is_long and runs_on(piece.text, rest.text):
            return number
        if not _is_aside(piece, rest.size):
            return None
    return None


def _join_across(before: list[Piece], after: list[Piece], words: set[str]) -> None:
    """Bring the end of a sentence that footnotes or a float cut off back to the page where it began."""
    body = max((piece.size for piece in after if piece.words >= MIN_SENTENCE_WORDS), default=0.0)
    first = next((n for n, piece in enumerate(after[:MAX_ASIDES]) if not _is_aside(piece, body)), None)
    if first is None:
        return
    rest = after[first]
    begun = _begun(before, rest)
    if begun is None or (first == 0 and begun == len(before) - 1):  # else they follow each other as they are
        return
    ending = _SENTENCE.match(rest.text)
    end = ending.end() if ending else len(rest.text)
    before[begun].text = join_lines((before[begun].text, rest.text[:end]), words)
    rest.text = rest.text[end:].lstrip()
    if not rest.text:
        del after[first]


def _stacks(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines set one below the other at the page's usual distance; MuPDF makes each line of double spacing a block."""
    most = 1.2 * line_distance(lines)
    stacks: list[list[Line]] = []
    for line in lines:
        above = stacks[-1][-1] if stacks else None
        if above and (line.block == above.block or _close(above, line, most)):
            stacks[-1].append(line)
        else:
            stacks.append([line])
    return stacks


def _close(above: Line, below: Line, most: float) -> bool:
    return 0 < below.y0 - above.y0 <= most and _same_size(above, below) and below.x0 < above.x1


def _same_size(above: Line, below: Line) -> bool:
    return abs(above.size - below.size) < 0.15 * above.size


def _paragraphs(stack: Sequence[Line], sheet: Sheet, words: set[str]) -> list[Piece]:
    stack = [_as_row(stack, number) for number in range(len(stack))]
    typed = sum(map(_is_code, sheet.lines)) > MAX_CODE_SHARE * len(sheet.lines)
    groups = [[stack[0]]]
    for number, (above, below) in enumerate(pairwise(stack)):
        code = not typed and _is_code(above) and _is_code(below)
        if code or _starts_anew(above, below, _right_edge(stack, number, sheet)):
            groups.append([])
        groups[-1].append(below)
    first, *rest = groups
    return [_piece(first, "\n\n", words), *(_piece(group, "\n", words) for group in rest)]


def _piece(lines: Sequence[Line], gap: str, words: set[str]) -> Piece:
    text = join_lines([line.text for line in lines], words)
    fonts = tuple(chain.from_iterable(line.fonts for line in lines))
    return Piece(text, lines[0].size, gap, bool(lines[0].cells), len(lines), fonts)


def _as_row(stack: Sequence[Line], number: int) -> Line:
    """A line whose gap makes no row of a table: of prose, between lines without gaps. "... with it. (page 9)"."""
    line = stack[number]
    beside = [*stack[max(0, number - 1) : number], *stack[number + 1 : number + 2]]
    is_alone = line.cells and beside and not any(other.cells for other in beside)
    is_prose = is_alone and len(line.cells[0].split()) >= MIN_PROSE_WORDS
    return replace(line, cells=()) if is_prose else line


def _right_edge(stack: Sequence[Line], number: int, sheet: Sheet) -> float:
    """How far a line could have gone on: to where its neighbours end, when they end on one line (justified type,
    perhaps beside a picture); else to the stack's edge, or to what stands beside it."""
    line = stack[number]
    for neighbour in stack[max(0, number - 1) : number + 2]:
        if neighbour is not line and len(line.text) >= MIN_JUSTIFIED and abs(line.x1 - neighbour.x1) < 1:
            return line.x1
    edge = max(other.x1 for other in stack)
    for x0, y0, _, y1 in sheet.pictures:
        if x0 >= line.x1 and y0 < line.y1 and y1 > line.y0:
            edge = min(edge, x0 - line.size)
    return edge


def _starts_anew(above: Line, below: Line, edge: float) -> bool:
    """Whether the line break was meant: a list item, another size of type, a table's row, an indented first line, or a
    line that left room for the next line's first word."""
    if is_broken(above.text):
        return False
    if _ITEM.match(below.text) or _LEADS.search(above.text) or not _same_size(above, below):
        return True
    if below.cells or (above.cells and not _hangs(above, below)):
        return True
    if below.x0 - above.x0 > 0.8 * above.size and above.text.endswith(SENTENCE_END):
        return True
    goes_on = runs_on(above.text, below.text)
    if not goes_on and _other_font(above, below):
        return True
    is_full = FULL_SHARE * (edge - above.x0) < above.x1 - above.x0 and len(above.text) >= MIN_JUSTIFIED
    if is_full and goes_on:  # ragged type never ends where the widest line does
        return False
    word = (below.x1 - below.x0) * (len(below.text.split(" ")[0]) + 1) / len(below.text)
    return edge - above.x1 > word


def _hangs(above: Line, below: Line) -> bool:
    """Whether it goes on with the text beside a label: "-k  only a", below it, further in, "suggestion"."""
    label, *text = above.cells
    further = below.x0 - above.x0 > above.size and below.x1 < above.x1 + above.size
    words = sum(map(str.isalpha, " ".join(text).split()))
    return further and len(text) == 1 and words >= MIN_PROSE_WORDS > len(label.split())


def _is_code(line: Line) -> bool:
    """Whether all of it is typed, but for a line's number."""
    fonts = line.fonts[1:] if line.text[0].isdigit() else line.fonts
    return bool(fonts) and all(map(_FIXED.search, fonts))


def _other_font(above: Line, below: Line) -> bool:
    """Whether one of them is set in one font that the other has nothing of: a heading."""
    fonts = set(above.fonts), set(below.fonts)
    return all(fonts) and not fonts[0] & fonts[1] and 1 in map(len, fonts)


def _mend_page_break(before: list[Piece], after: list[Piece], words: set[str]) -> None:
    """Bring the rest of a word that the end of a page breaks back to where it began."""
    if before and after and is_broken(before[-1].text) and after[0].text[:1].islower():
        rest, _, after[0].text = after[0].text.partition(" ")
        before[-1].text = join_lines((before[-1].text, rest), words)
        if not after[0].text:
            del after[0]
