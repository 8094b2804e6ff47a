"""Whether a table's first row names its columns, by how it is set: its type, its background, the rule below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from core.document.headings import BOLD

OTHER_SIZE = 0.08  # share of the size of type: such a difference is meant
THICKER = 0.35  # points by which a rule is thicker than others, or wider where it is doubled


@dataclass(frozen=True)
class Face:
    """The type of a cell."""

    fonts: frozenset[str]
    size: float

    @property
    def bold(self) -> bool:
        return bool(self.fonts) and all(map(BOLD.search, self.fonts))

    def differs(self, others: Sequence[Face]) -> bool:
        """Whether it is bold where most others are not, or of a size or in fonts that none of them has."""
        sizes = list(map(attrgetter("size"), others))
        if self.bold and 2 * sum(map(attrgetter("bold"), others)) < len(others):
            return True
        if self.size > (1 + OTHER_SIZE) * max(sizes) or self.size < (1 - OTHER_SIZE) * min(sizes):
            return True
        return all(self.fonts.isdisjoint(other.fonts) for other in others)


@dataclass(frozen=True)
class RowStyle:
    """A row's look: the type of each cell that has text, the grey of its background, the rule below it in points."""

    faces: tuple[Face | None, ...]
    background: int
    rule: float


def is_set_apart(rows: Sequence[RowStyle]) -> bool | None:
    """Whether the first row is set as none of the others is. None where nothing can be compared."""
    first, *below = rows
    if not below:
        return None
    if first.background not in map(attrgetter("background"), below):
        return True
    inner = list(map(attrgetter("rule"), below[:-1]))  # what stands below the last one is the table's frame
    if inner and first.rule > max(inner) + THICKER:
        return True
    return _has_own_type(first, below)


def _has_own_type(first: RowStyle, below: Sequence[RowStyle]) -> bool | None:
    """By its cells, each compared with those of its column: all differ, or all are bold and some differ, since the
    names of the rows may be bold as well."""
    compared = different = bold = 0
    for column, face in enumerate(first.faces):
        others = []
        for row in below:
            if other := row.faces[column] if column < len(row.faces) else None:
                others.append(other)
        if face and others:
            compared += 1
            different += face.differs(others)
            bold += face.bold
    if not compared:
        return None
    return different == compared or (different > 0 and bold == compared)
