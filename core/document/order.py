"""In which order a page's lines are read, where the file draws them in another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, pairwise
from operator import attrgetter
from statistics import median

from core.document.heads import Box, Line

MIN_PROSE_WORDS = 4  # words of a usual line; fewer stand in a table's cells
MIN_COLUMN_LINES = 4  # so many lines side by side are columns


def without_doubles(lines: Sequence[Line]) -> list[Line]:
    """Each line once: some programs draw bold type as the same text twice, a hair apart."""
    kept: list[Line] = []
    seen: dict[str, list[Line]] = {}
    for line in lines:
        twins = seen.setdefault(line.text, [])
        hair = 0.15 * line.size
        if not any(abs(twin.x0 - line.x0) < hair and abs(twin.y0 - line.y0) < hair for twin in twins):
            twins.append(line)
            kept.append(line)
    return kept


def notes_apart(lines: Sequence[Line]) -> list[Line]:
    """Notes in the margin, in smaller type beside the lines of a paragraph, behind that paragraph."""
    ordered: list[Line] = []
    number = _last_block(lines)
    for block in _blocks(lines):
        text, notes = block[:1], []
        for before, line in pairwise(block):
            if _is_note(line, before):
                notes.append(line)
            else:
                text.append(line)
        number += 1
        ordered += [*text, *_as_block(notes, number)]
    return ordered


def _is_note(line: Line, text: Line) -> bool:
    is_apart = _beside(text, line) and line.x0 - text.x1 > text.size
    return is_apart and line.size < 0.95 * text.size and text.words >= MIN_PROSE_WORDS


def labels_first(lines: Sequence[Line]) -> list[Line]:
    """A label that hangs in the margin left of its paragraph, and that the file draws after it, before it."""
    blocks = _blocks(lines)
    for number, (text, label) in enumerate(pairwise(blocks)):
        is_short = len(label) < len(text) and all(line.words < MIN_PROSE_WORDS for line in label)
        if is_short and _beside(label[0], text[0]):
            blocks[number : number + 2] = [label, text]
    return list(chain.from_iterable(blocks))


def rows_together(lines: Sequence[Line]) -> list[Line]:
    """A table that the file draws column by column, row by row: blocks side by side, with as many lines on the same
    heights, of which one is set in other type. Columns of prose stay, and a list in columns."""
    blocks = _blocks(lines)
    ordered: list[Line] = []
    while blocks:
        columns = [blocks.pop(0)]
        while blocks and _is_next_column(columns[-1], blocks[0]):
            columns.append(blocks.pop(0))
        if len(columns) > 1 and not all(map(_is_prose, columns)):
            rows = zip(*columns, strict=True)
            ordered += _as_block(chain.from_iterable(rows), columns[0][0].block)
        else:
            ordered += chain.from_iterable(columns)
    return ordered


def _is_next_column(left: Sequence[Line], right: Sequence[Line]) -> bool:
    if not 1 < len(left) == len(right) or not _has_gutter(left, right):
        return False
    return all(map(_is_level, left, right)) and not _fonts(left) & _fonts(right)


def _fonts(lines: Sequence[Line]) -> set[str]:
    return set(chain.from_iterable(line.fonts for line in lines))


def columns_apart(lines: Sequence[Line]) -> list[Line]:
    """Two columns that the file draws line by line, left, right, left, right, as one after the other. A table, whose
    cells hold few words, stays."""
    ordered: list[Line] = []
    number = _last_block(lines)
    for length, run in groupby(_pairs(lines), key=len):
        rows = list(run)
        if length == 2 and len(rows) >= MIN_COLUMN_LINES:
            left, right = zip(*rows, strict=True)
            if _has_gutter(left, right) and _is_prose(left) and _is_prose(right):
                ordered += [*_as_block(left, number + 1), *_as_block(right, number + 2)]
                number += 2
                continue
        ordered += chain.from_iterable(rows)
    return ordered


def _pairs(lines: Sequence[Line]) -> Iterator[tuple[Line, ...]]:
    """Each line, or two of them that stand side by side with no third one."""
    start = 0
    while start < len(lines):
        beside = start + 1 < len(lines) and _beside(lines[start], lines[start + 1])
        beside = beside and not (start + 2 < len(lines) and _beside(lines[start + 1], lines[start + 2]))
        yield tuple(lines[start : start + 1 + beside])
        start += 1 + beside


def _beside(left: Line, right: Line) -> bool:
    return right.x0 > left.x1 and _is_level(left, right)


def _is_level(left: Line, right: Line) -> bool:
    return abs(right.y1 - left.y1) < 0.3 * left.size


def _has_gutter(left: Sequence[Line], right: Sequence[Line]) -> bool:
    return max(line.x1 for line in left) < min(line.x0 for line in right)


def _is_prose(lines: Sequence[Line]) -> bool:
    return median(line.words for line in lines) >= MIN_PROSE_WORDS


def _blocks(lines: Sequence[Line]) -> list[list[Line]]:
    return [list(block) for _, block in groupby(lines, key=attrgetter("block"))]


def _last_block(lines: Sequence[Line]) -> int:
    return max((line.block for line in lines), default=0)


def _as_block(lines: Iterable[Line], number: int) -> list[Line]:
    return [replace(line, block=number) for line in lines]


def in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """The lines as the file has them, unless a block stands above one that came before it in the same column: then the
    page's blocks are cut apart at its white space, into columns first."""
    blocks = _blocks(lines)
    boxes = [around(line.box for line in block) for block in blocks]
    if not any(_above(after, before) for before, after in pairwise(boxes)):
        return list(lines)
    order = _cut(list(range(len(blocks))), boxes)
    return list(chain.from_iterable(blocks[number] for number in order))


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds them all; of at least one."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _above(upper: Box, lower: Box) -> bool:
    shared = min(upper[2], lower[2]) - max(upper[0], lower[0])
    narrower = min(upper[2] - upper[0], lower[2] - lower[0])
    return upper[3] <= lower[1] and shared > 0.5 * narrower


def _cut(blocks: list[int], boxes: Sequence[Box]) -> list[int]:
    """Recursive XY-cut (Nagy and Seth 1984): the widest gap between columns, else between above and below."""
    if len(blocks) < 2:
        return blocks
    for axis in (0, 1):
        order = sorted(blocks, key=lambda number: boxes[number][axis])
        gap, cut = _widest_gap([(boxes[number][axis], boxes[number][axis + 2]) for number in order])
        if gap > 0:
            return _cut(sorted(order[:cut]), boxes) + _cut(sorted(order[cut:]), boxes)
    return blocks


def _widest_gap(spans: Sequence[tuple[float, float]]) -> tuple[float, int]:
    """(its width, how many spans are before it), of spans in the order of their beginnings."""
    best, end = (0.0, 0), spans[0][1]
    for before, (start, stop) in enumerate(spans[1:], start=1):
        best = max(best, (start - end, before))
        end = max(end, stop)
    return best
