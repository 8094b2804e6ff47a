from __future__ import annotations

import pytest

from core.document.heading_rows import Face, RowStyle, is_set_apart

ROMAN, BOLD, CODE = "Times-Roman", "Times-Bold", "Courier"


def row(*fonts: str, size: float = 10.0) -> RowStyle:
    """A row with a cell in each font, "" for an empty one."""
    faces = []
    for font in fonts:
        faces.append(Face(frozenset({font}), size) if font else None)
    return RowStyle(tuple(faces), background=255, rule=0.5)


@pytest.mark.parametrize(
    ("rows", "apart"),
    [
        ([row(ROMAN, ROMAN, size=12), row(ROMAN, ROMAN), row(ROMAN, ROMAN)], True),
        ([row(ROMAN, ROMAN), row(CODE, CODE), row(CODE, CODE)], True),
        ([row(ROMAN, ROMAN), row(CODE, ROMAN), row(CODE, ROMAN)], False),
        ([row(BOLD, BOLD), row(BOLD, ROMAN), row(BOLD, ROMAN)], True),
        ([row(BOLD, ROMAN), row(BOLD, ROMAN), row(BOLD, ROMAN)], False),
        ([row(BOLD, BOLD), row(BOLD, BOLD), row(BOLD, BOLD)], False),
        ([row("", BOLD), row(ROMAN, ""), row(ROMAN, "")], None),
        ([row(BOLD, BOLD)], None),
    ],
)
def test_a_row_is_set_apart_by_type_that_its_columns_have_not(rows: list[RowStyle], *, apart: bool | None) -> None:
    assert is_set_apart(rows) is apart
