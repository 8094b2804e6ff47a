from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pymupdf
import pytest

from core.document.formats import read_document
from core.document.heads import Line, Sheet
from core.document.layout import read_sheets
from core.document.tables import cells_by_line, lines_without_heading, row_sentences, rows_as_text
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
        ([["", "Jan", "Feb"], ["1954", "", "2"], ["1955", "3", "4"]], ["1954: Feb 2.", "1955: Jan 3, Feb 4."]),
        (
            [["Length", "Kind"], ["6.4", "virginica"], ["4.4", "setosa"]],
            ["Length 6.4, Kind virginica.", "Length 4.4, Kind setosa."],
        ),
        ([["Year", "Ships"], ["1874", "4"], ["1902", "5"]], ["Year 1874, Ships 4.", "Year 1902, Ships 5."]),
        (
            [["", "at", "z1 z2"], ["1", "(0.6, 0.3)", "3.10 20"], ["2", "(0.9, 0.6)", "4.15 21"]],
            ["1: at (0.6, 0.3), z1 3.10, z2 20.", "2: at (0.9, 0.6), z1 4.15, z2 21."],
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
        ([["Gnat", "gram $13.65"], ["Gnu", "stuffed 92.50"]], []),
        ([["Fonts …", "8"], ["Page layout …", "10"]], []),
        ([["The pier", "… 125"], ["The tower", "11"]], []),
        ([["test", "row 3"], ["test", "row 4"]], []),
        ([["log(x)", "< 2e-16"], ["log(y)", "9.15e-07"]], []),
        ([["arrow", r"\downarrow"], ["gap", "0.6em"]], []),
        ([["IDFA", "Gives all weapons and ammo."], ["IDKFA", "All of them."]], []),
        (
            [["Directory", "Description"], ["floppy", "Floppy drive"], ["zip", "Zip drive"]],
            ["floppy: Floppy drive.", "zip: Zip drive."],
        ),
    ],
)
def test_a_row_becomes_a_sentence_that_names_row_and_columns(rows: list[list[str]], sentences: list[str]) -> None:
    assert row_sentences(rows) == sentences


@pytest.mark.parametrize(
    ("rows", "differs"),
    [
        (SCORES, True),
        ([["Key", "Meaning"], ["-v", "says more"], ["-q", "says less"]], True),
        ([["Command", "Use"], ["ls", "Lists a folder"], ["cd", "Goes to a folder"]], True),
        ([["Command", "What it is of use for"], ["ls", "Lists"], ["cd", "Goes"]], False),
        ([["Tab", "Toggle Map"], ["-", "Zoom out"], ["0", "Maximum zoom out"], ["F", "Follow the player"]], False),
        ([["Red", "Walls"], ["Yellow", "Changes in height"], ["Grey", "Areas not seen yet"]], False),
        ([["Esc", "Menu", "Bring up the menu"], ["F2", "Save", "Save the game"], ["F3", "Load", "Load one"]], False),
        ([["Ann Ray", "Bo Lind"], ["Cy Orr", "Di Poe"], ["Ed Quint", "Fay Lee"]], False),
    ],
)
def test_a_first_row_that_is_set_like_the_others_is_a_heading_if_it_differs_in_form(
    rows: list[list[str]], *, differs: bool
) -> None:
    assert bool(row_sentences(rows, apart=False)) == differs


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([["Tab", "Toggle Map"], ["-", "Zoom out"], ["C:", ""]], ["Tab: Toggle Map", "-: Zoom out", "C:"]),
        ([["Pier:", "", "1902"], ["Tower", "", "1874"]], ["Pier: 1902", "Tower: 1874"]),
        ([["1", "3"], ["2", "6"]], ["1 3", "2 6"]),
        ([["test", "row 3"], ["test", "row 4"]], ["test row 3", "test row 4"]),
        ([["F2", "Save", "Save the game"], ["F3", "Load", "Load one"]], ["F2 Save Save the game", "F3 Load Load one"]),
        (
            [["Brandon Allbery", "Ed Lee"], ["Keith Bostic", "Di Poe"]],
            ["Brandon Allbery Ed Lee", "Keith Bostic Di Poe"],
        ),
    ],
)
def test_without_a_heading_a_key_stands_before_what_it_says(rows: list[list[str]], lines: list[str]) -> None:
    assert lines_without_heading(rows) == lines


def test_the_rows_stand_as_they_are_beside_their_sentences() -> None:
    assert (
        rows_as_text([["Name", "Built"], ["The\nTower", "1874"]])
        == "Name Built\nThe Tower 1874\n\nThe Tower: Built 1874."
    )


@pytest.mark.parametrize(
    ("cells", "rows"),
    [
        (["Tower\nPier", "1874\n1902", "31 m\n4 m"], [["Tower", "1874", "31 m"], ["Pier", "1902", "4 m"]]),
        (["Tower\nPier", "1874\n1902", ""], [["Tower", "1874", ""], ["Pier", "1902", ""]]),
        (["The\ntower", "of stone and\nof brick"], [["The tower", "of stone and of brick"]]),
        (["The\ntower", "1874"], [["The tower", "1874"]]),
    ],
)
def test_rows_that_no_rule_parts_are_told_by_their_figures(cells: list[str], rows: list[list[str]]) -> None:
    assert cells_by_line(cells) == rows


def ruled(
    page: pymupdf.Page,
    rows: list[list[str]] = SCORES,
    high: int = 20,
    top: int = 200,
    bold: Sequence[tuple[int, int]] = (),
) -> None:
    """A table in boxes; of each bold cell its row and column."""
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            font = "hebo" if (y, x) in bold else "helv"
            page.draw_rect((72 + 110 * x, top + high * y, 182 + 110 * x, top + high * (y + 1)))
            page.insert_text((76 + 110 * x, top + high * y + 14), cell.splitlines(), fontname=font)


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


async def test_a_table_that_goes_on_on_the_next_page_keeps_its_heading() -> None:
    rows = [[f"Pier {n}", f"19{n}", "wood"] for n in range(10, 20)]
    first = partial(ruled, rows=[["Name", "Built", "Of"], *rows[:5]], top=600)
    read = await read_document(pdf(both(write((100, "The piers:")), first), partial(ruled, rows=rows[5:])), Limits())
    assert "Pier 15: Built 1915, Of wood." in read.pages[1].text
    apart = pdf(
        both(first, write((760, "All of them."), (770, "They stand."), (780, "So it is."))),
        partial(ruled, rows=rows[5:]),
    )
    assert "Built 1915" not in (await read_document(apart, Limits())).pages[1].text


KEYS = [["Colour", "Thing"], ["Red", "Walls"], ["Yellow", "Changes in height"], ["Grey", "Areas not seen yet"]]


def on_grounds(page: pymupdf.Page, greys: Sequence[float]) -> None:
    """A ruled table, each row of it on its ground."""
    for row, grey in enumerate(greys):
        page.draw_rect((72, 200 + 20 * row, 292, 220 + 20 * row), fill=(grey, grey, grey), color=None)
    ruled(page, KEYS)


def with_a_thick_rule(page: pymupdf.Page) -> None:
    ruled(page, KEYS)
    page.draw_line((72, 220), (292, 220), width=2)


def with_row_rules_alike(page: pymupdf.Page) -> None:
    ruled(page, KEYS)
    for row in range(1, 4):
        page.draw_line((72, 200 + 20 * row), (292, 200 + 20 * row), width=2)


@pytest.mark.parametrize(
    ("draw", "is_heading"),
    [
        (partial(ruled, rows=KEYS), False),
        (partial(ruled, rows=KEYS, bold=[(0, 0), (0, 1)]), True),
        (partial(ruled, rows=KEYS, bold=[(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]), True),
        (partial(ruled, rows=KEYS, bold=[(0, 0), (1, 0), (2, 0), (3, 0)]), False),
        (partial(ruled, rows=KEYS, bold=[(0, 1)]), False),
        (partial(on_grounds, greys=[0.8, 1, 1, 1]), True),
        (partial(on_grounds, greys=[0.8, 1, 0.8, 1]), False),
        (with_a_thick_rule, True),
        (with_row_rules_alike, False),
    ],
)
async def test_a_first_row_is_a_heading_where_it_is_set_apart(
    draw: Callable[[pymupdf.Page], None], *, is_heading: bool
) -> None:
    [page] = (await read_document(pdf(draw), Limits())).pages
    if is_heading:
        assert page.text.endswith(
            "\n\nRed: Thing Walls.\nYellow: Thing Changes in height.\nGrey: Thing Areas not seen yet."
        )
    else:
        assert page.text == "Colour: Thing\nRed: Walls\nYellow: Changes in height\nGrey: Areas not seen yet"


async def test_a_table_without_a_heading_has_none_on_the_next_page_either() -> None:
    rows = [["Keys", "Open doors"], ["Goggles", "Show the dark"], ["Suit", "Protects from floors"]]
    more = [["Sphere", "Hides"], ["cap", "is worn in the rain"], ["gun", "is aimed"]]
    pages = both(write((100, "The things:")), partial(ruled, rows=rows, top=700)), partial(ruled, rows=more)
    read = await read_document(pdf(*pages), Limits())
    assert read.pages[1].text == "Sphere: Hides\ncap: is worn in the rain\ngun: is aimed"


@pytest.mark.parametrize("is_bold", [True, False])
async def test_a_heading_may_end_a_page_alone(*, is_bold: bool) -> None:
    names = [["Name", "Of", "Where", "Whose"]]
    rows = [
        ["Pier", "Wood", "Harbour", "Lind"],
        ["Tower", "Stone", "Old Town", "Orr"],
        ["Mill", "Brick", "River", "Poe"],
    ]
    bold = [(0, column) for column in range(4)] if is_bold else []
    first = both(write((100, "The buildings:")), partial(ruled, rows=names, top=740, bold=bold))
    read = await read_document(pdf(first, partial(ruled, rows=rows)), Limits())
    assert ("Pier: Of Wood, Where Harbour, Whose Lind." in read.pages[1].text) == is_bold


async def test_a_table_with_a_heading_of_its_own_goes_on_with_no_other() -> None:
    first = both(write((100, "The colours:")), partial(ruled, rows=KEYS, top=700, bold=[(0, 0), (0, 1)]))
    others = [["Key", "Action"], ["Tab", "Toggles the map"], ["Esc", "Ends the game"]]
    read = await read_document(pdf(first, partial(ruled, rows=others, bold=[(0, 0), (0, 1)])), Limits())
    assert read.pages[1].text.endswith("\n\nTab: Action Toggles the map.\nEsc: Action Ends the game.")


async def test_a_frame_whose_lines_cross_words_is_no_table() -> None:
    def frame(page: pymupdf.Page) -> None:
        ruled(page, [["", ""]] * 4)
        for row in range(4):
            page.insert_text((140, 214 + 20 * row), f"The inventory of part {row} is written")

    [page] = (await read_document(pdf(frame), Limits())).pages
    assert page.text == " ".join(f"The inventory of part {row} is written" for row in range(4))


async def test_a_box_of_several_rows_that_nothing_parts_makes_no_sentences() -> None:
    rows = [["Function", "Use"], ["print()\nsummary()", "simple\nstandard"], ["coef()", "extracts"]]
    [page] = (await read_document(pdf(partial(ruled, rows=rows, high=40)), Limits())).pages
    assert page.text == "Function Use\nprint() summary() simple standard\ncoef() extracts"


def set_in_columns(rows: Sequence[Sequence[str]]) -> str:
    """The text of a table without rules, in columns of 120 points, ten points of type; no line for an empty cell."""
    lines = [
        Line(cell, 72 + 120 * x, 200 + 12 * y, 72 + 120 * x + 5 * len(cell), 210 + 12 * y, 10.0)
        for y, row in enumerate(rows)
        for x, cell in enumerate(row)
        if cell
    ]
    return read_sheets([Sheet(800, tuple(lines))])[0]


@pytest.mark.parametrize(
    ("rows", "sentences"),
    [
        (
            [["Name", "Built", "Height"], ["Tower", "1874", "31 m"], ["Pier", "1902", "4 m"]],
            "Tower: Built 1874, Height 31 m.\nPier: Built 1902, Height 4 m.",
        ),
        (
            [["Name", "Built", "Height"], ["Tower", "", "31 m"], ["Pier", "1902", ""], ["Mill", "1850", "9 m"]],
            "Tower: Height 31 m.\nPier: Built 1902.\nMill: Built 1850, Height 9 m.",
        ),
        ([["", "2021", "2022"], ["Ships", "4", "5"], ["Boats", "", "7"]], "Ships: 2021 4, 2022 5.\nBoats: 2022 7."),
    ],
)
def test_a_table_without_rules_becomes_sentences_too(rows: list[list[str]], sentences: str) -> None:
    assert set_in_columns(rows).endswith(f"\n\n{sentences}")


def test_columns_that_overlap_are_none() -> None:
    rows = [["age", "school", "memory"], ["15-24, elementary, and so on", "1", "21"], ["25-30", "2", "30"]]
    assert "school" not in set_in_columns(rows).partition("\n")[2]


def test_a_list_of_words_in_two_columns_is_no_table() -> None:
    rows = [("-v", "says more"), ("-q", "says less"), ("-h", "helps")]
    lines = [
        Line(text, 72 + 120 * x, 200 + 12 * y, 110 + 120 * x, 210 + 12 * y, 10.0)
        for y, row in enumerate(rows)
        for x, text in enumerate(row)
    ]
    assert read_sheets([Sheet(800, tuple(lines))]) == ["-v says more\n-q says less\n-h helps"]
