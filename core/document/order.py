"""In which order a page's lines are read, where the file draws them in another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from statistics import median

from core.document.heads import Line

PROSE = 4  # words of a usual line; fewer stand in a table's cells
ROWS = 4  # so many lines side by side are columns

Box = tuple[float, float, float, float]


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
    most = max((line.block for line in lines), default=0)
    for _, group in groupby(lines, key=lambda line: line.block):
        block = list(group)
        notes = {
            id(note)
            for text, note in pairwise(block)
            if _beside(text, note)
            and note.x0 - text.x1 > text.size
            and note.size < 0.95 * text.size
            and len(text.text.split()) >= PROSE
        }
        most += 1
        ordered += [line for line in block if id(line) not in notes]
        ordered += [replace(line, block=most) for line in block if id(line) in notes]
    return ordered


def labels_first(lines: Sequence[Line]) -> list[Line]:
    """A label that hangs in the margin left of its paragraph, and that the file draws after it, before it."""
    blocks = [list(block) for _, block in groupby(lines, key=lambda line: line.block)]
    for number, (text, label) in enumerate(pairwise(blocks)):
        if (
            len(label) < len(text)
            and _beside(label[0], text[0])
            and all(len(line.text.split()) < PROSE for line in label)
        ):
            blocks[number : number + 2] = [label, text]
    return [line for block in blocks for line in block]


def rows_together(lines: Sequence[Line]) -> list[Line]:
    """A table that the file draws column by column, row by row: blocks side by side, with as many lines on the same
    heights, of which one is set in other type. Columns of prose stay, and a list in columns."""
    blocks = [list(block) for _, block in groupby(lines, key=lambda line: line.block)]
    ordered: list[Line] = []
    while blocks:
        columns = [blocks.pop(0)]
        while blocks and _is_next_column(columns[-1], blocks[0]):
            columns.append(blocks.pop(0))
        wordy = [median(len(line.text.split()) for line in column) >= PROSE for column in columns]
        if len(columns) > 1 and not all(wordy):
            block = columns[0][0].block
            ordered += [replace(line, block=block) for row in zip(*columns, strict=True) for line in row]
        else:
            ordered += [line for column in columns for line in column]
    return ordered


def _is_next_column(left: Sequence[Line], right: Sequence[Line]) -> bool:
    level = (abs(a.y1 - b.y1) < 0.3 * a.size for a, b in zip(left, right, strict=False))
    beside = max(line.x1 for line in left) < min(line.x0 for line in right)
    return 1 < len(left) == len(right) and beside and all(level) and not _fonts(left) & _fonts(right)


def _fonts(lines: Sequence[Line]) -> set[str]:
    return {font for line in lines for font in line.fonts}


def columns_apart(lines: Sequence[Line]) -> list[Line]:
    """Two columns that the file draws line by line, left, right, left, right, as one after the other. A table, whose
    cells hold few words, stays."""
    ordered: list[Line] = []
    block = max((line.block for line in lines), default=0)
    for paired, run in groupby(_pairs(lines), key=lambda pair: len(pair) == 2):
        pairs = list(run)
        if paired and _are_columns(pairs):
            ordered += [replace(left, block=block + 1) for left, _ in pairs]
            ordered += [replace(right, block=block + 2) for _, right in pairs]
            block += 2
        else:
            ordered += [line for pair in pairs for line in pair]
    return ordered


def _pairs(lines: Sequence[Line]) -> Iterator[tuple[Line, ...]]:
    start = 0
    while start < len(lines):
        beside = start + 1 < len(lines) and _beside(lines[start], lines[start + 1])
        beside = beside and not (start + 2 < len(lines) and _beside(lines[start + 1], lines[start + 2]))
        yield tuple(lines[start : start + 1 + beside])
        start += 1 + beside


def _beside(left: Line, right: Line) -> bool:
    return right.x0 > left.x1 and abs(right.y1 - left.y1) < 0.3 * left.size


def _are_columns(pairs: Sequence[tuple[Line, ...]]) -> bool:
    if len(pairs) < ROWS:
        return False
    gutter = max(left.x1 for left, _ in pairs), min(right.x0 for _, right in pairs)
    wordy = all(median(len(pair[side].text.split()) for pair in pairs) >= PROSE for side in (0, 1))
    return wordy and gutter[0] < gutter[1]


def in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """The lines as the file has them, unless a block stands above one that came before it in the same column: then the
    page's blocks are cut apart at its white space, into columns first."""
    blocks = [list(block) for _, block in groupby(lines, key=lambda line: line.block)]
    boxes = [_box(block) for block in blocks]
    if not any(_above(after, before) for before, after in pairwise(boxes)):
        return list(lines)
    return [line for number in _cut(list(range(len(blocks))), boxes) for line in blocks[number]]


def _box(lines: Sequence[Line]) -> Box:
    return (
        min(line.x0 for line in lines),
        min(line.y0 for line in lines),
        max(line.x1 for line in lines),
        max(line.y1 for line in lines),
    )


def _above(upper: Box, lower: Box) -> bool:
    shared = min(upper[2], lower[2]) - max(upper[0], lower[0])
    return upper[3] <= lower[1] and shared > 0.5 * min(upper[2] - upper[0], lower[2] - lower[0])


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
