from __future__ import annotations

import pymupdf
import pytest

from core.document.formats import read_document
from core.document.heads import Line, Sheet
from core.document.layout import read_sheets
from core.document.tables import row_sentences, rows_as_text
from core.types import Limits
from tests.core.documents import both, pdf, write

SCORES = [["Data", "Model", "F1", "EM"], ["FEVEROUS", "Codex", "57.85", "40.1"], ["WikiTQ", "T5", "61 %", ""]]


@pytest.mark.parametrize(
    ("rows", "sentences"),
    [
        (SCORES, ["FEVEROUS, Codex: F1 57.85, EM 40.1.", "WikiTQ, T5: F1 61 %."]),
        ([["Name", "Built"], ["Tower", "1874"]], ["Tower: Built 1874."]),
        (
            [["Key", "Meaning"], ["-v", "says more"], ["-q", "says less"]],
            ["-v: Meaning says more.", "-q: Meaning says less."],
        ),
        (
            [["", "2021", "2022"], ["Ships", "4", "5"]],
            ["Ships: 2021 4, 2022 5."],
        ),  # figures may be a row like the others
        (
            [["Length", "Kind"], ["6.4", "virginica"], ["4.4", "setosa"]],
            ["Length 6.4, Kind virginica.", "Length 4.4, Kind setosa."],
        ),
        ([["Year", "Ships"], ["1874", "4"], ["1902", "5"]], ["Year 1874, Ships 4.", "Year 1902, Ships 5."]),
        (
            [["", "at", "z1 z2"], ["1", "(0.6, 0.3)", "3.10 20"], ["2", "(0.9, 0.6)", "4.15 21"]],
            ["1, at (0.6, 0.3), z1 3.10, z2 20.", "2, at (0.9, 0.6), z1 4.15, z2 21."],
        ),
        ([["", "se"], ["fit4", "0.7119 0.0224"], ["fit5", "0.7384 0.0210"]], []),
        (
            [["Town", "People"], ["Pellin", "12 000"], ["Sund:", "4 500."]],
            ["Pellin: People 12 000.", "Sund: People 4 500."],
        ),
        ([["(", ")"], ["a", "1"]], []),
        ([["", "12", "13"], ["Ships", "4", "5"]], []),
        ([["Tower", "1874"], ["Pier", "1902"]], []),
        ([["Only one row", "here"]], []),
        ([["Name", "Name"], ["a", "b"]], []),
    ],
)
def test_a_row_becomes_a_sentence_that_names_row_and_columns(rows: list[list[str]], sentences: list[str]) -> None:
    assert row_sentences(rows) == sentences


def test_the_rows_stand_as_they_are_beside_their_sentences() -> None:
    assert (
        rows_as_text([["Name", "Built"], ["The\nTower", "1874"]])
        == "Name Built\nThe Tower 1874\n\nThe Tower: Built 1874."
    )


def ruled(page: pymupdf.Page, rows: list[list[str]] = SCORES, **how: object) -> None:
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            page.draw_rect((72 + 110 * x, 200 + 20 * y, 182 + 110 * x, 220 + 20 * y))
            page.insert_text((76 + 110 * x, 214 + 20 * y), cell, **how)


async def test_a_ruled_table_of_a_pdf_is_read_by_rows_and_as_sentences() -> None:
    around = write((160, "The results:"), (400, "They are good."))
    [page] = (await read_document(pdf(both(around, ruled)), Limits())).pages
    assert page.text == (
        "The results:\n\nData Model F1 EM\nFEVEROUS Codex 57.85 40.1\nWikiTQ T5 61 %\n\n"
        "FEVEROUS, Codex: F1 57.85, EM 40.1.\nWikiTQ, T5: F1 61 %.\n\nThey are good."
    )


async def test_what_is_hidden_in_a_table_is_left_out() -> None:
    hidden = write((214, "HIDDEN"), x=400, render_mode=3)
    read = await read_document(pdf(both(ruled, hidden)), Limits())
    assert "HIDDEN" not in read.pages[0].text and read.notes


def test_a_table_without_rules_becomes_sentences_too() -> None:
    rows = [["Name", "Built", "Height"], ["Tower", "1874", "31 m"], ["Pier", "1902", "4 m"]]
    lines = [
        Line(cell, 72 + 120 * x, 200 + 12 * y, 110 + 120 * x, 210 + 12 * y, 10.0)
        for y, row in enumerate(rows)
        for x, cell in enumerate(row)
    ]
    [text] = read_sheets([Sheet(800, tuple(lines))])
    assert text.endswith("\n\nTower: Built 1874, Height 31 m.\nPier: Built 1902, Height 4 m.")


def test_a_list_of_words_in_two_columns_is_no_table() -> None:
    rows = [("-v", "says more"), ("-q", "says less"), ("-h", "helps")]
    lines = [
        Line(text, 72 + 120 * x, 200 + 12 * y, 110 + 120 * x, 210 + 12 * y, 10.0)
        for y, row in enumerate(rows)
        for x, text in enumerate(row)
    ]
    assert read_sheets([Sheet(800, tuple(lines))]) == ["-v says more\n-q says less\n-h helps"]
