from __future__ import annotations

import pymupdf
import pytest

from core.document.about import byline, printed_date, title_of
from core.document.formats import read_document
from core.document.headings import Piece, with_headings
from core.document.places import ABOUT
from core.search.citation import cite
from core.types import Limits, Page
from tests.core.documents import Draw, both, pdf, write

PROSE = "The harbour was built by the people of the town in one long summer, and it has been kept by them since."


def text(*lines: str, y: float) -> Draw:
    return write(*((y + 14 * at, line) for at, line in enumerate(lines)), fontsize=11)


def heading(words: str, y: float) -> Draw:
    return write((y, words), fontsize=16)


def report() -> tuple[Draw, ...]:
    first = (write((90, "The Harbour of Pellin"), fontsize=24), text("Tessa Orlund", y=130), text("3 May 2021", y=160))
    return (
        both(*first, heading("How it began", 200), text(PROSE, y=230), heading("The tower", 300), text(PROSE, y=330)),
        both(text(PROSE, y=90), heading("The storm", 300), text("It came in 1874, " + PROSE, y=330)),
    )


async def test_a_report_without_data_of_its_own_says_title_date_and_headings_by_its_type() -> None:
    first, second = (await read_document(pdf(*report()), Limits())).pages
    assert first.text.startswith(
        "Title: The Harbour of Pellin\nPublished: 3 May 2021\n"
        "Contents: How it began (page 1); The tower (page 1); The storm (page 2)\n\nThe Harbour of Pellin"
    )
    assert [name for _, name in first.places] == [ABOUT, "p. 1", "p. 1, “How it began”", "p. 1, “The tower”"]
    assert cite(second, "When did the storm come?", "1874") == "p. 2, “The storm”"
    assert cite(second, "Who built the harbour?", "the people of the town") == "p. 2, “The tower”"


async def test_a_files_outline_names_the_headings_of_a_citation() -> None:
    document = pymupdf.open(stream=pdf(*(text(name, PROSE, y=90) for name in ("Sea", "2.1 Town", "Fish"))))
    document.set_toc([[1, "Sea", 1], [1, "Town", 2], [1, "Fish", 3]])
    pages = (await read_document(document.tobytes(), Limits())).pages
    assert [page.places[-1][1] for page in pages] == ["p. 1, “Sea”", "p. 2, “2.1 Town”", "p. 3, “Fish”"]


def piece(words: str, size: float = 10, *fonts: str, row: bool = False) -> Piece:
    return Piece(words, size, "\n\n", row, fonts=fonts or ("Times",))


def headings(*pieces: Piece) -> list[str]:
    (page,), _ = with_headings([pieces])
    return [words for _, _, words in page.headings]


def test_a_bold_line_above_prose_is_a_heading_and_a_term_of_a_list_is_none() -> None:
    prose = piece(PROSE)
    assert headings(prose, piece("2 The tower", 10, "CMBX10", row=True), prose, prose, prose) == ["2 The tower"]
    assert headings(prose, piece("--help", 10, "Courier-Bold"), piece("Prints this."), prose, prose) == []


def test_type_of_which_there_is_much_is_text() -> None:
    code = [piece(f"let harbour{n} = new Harbour", 12) for n in range(9)]
    assert headings(*[piece(PROSE)] * 3, *code) == []


def test_a_label_on_each_line_of_a_form_is_no_heading() -> None:
    assert headings(*[piece(words, size) for n in range(9) for words, size in ((f"Nam{n}", 14), (PROSE * 3, 10))]) == []


def test_names_and_a_place_below_the_title_are_no_headings() -> None:
    above = piece("The harbour", 20), piece("Tessa Orlund", 14), piece("University of Pellin", 14), piece("Sea", 14)
    assert headings(*above, *[piece(PROSE)] * 9) == ["Sea"]


@pytest.mark.parametrize(
    ("page", "date"),
    [
        ("The harbour\n3 May 2021", "3 May 2021"),
        ("Version 2.4, May 4, 2016\n", "May 4, 2016"),
        ("Pellin 5.0.4 May 3, 2026", "May 3, 2026"),
        ("Sept. 2019", "Sept. 2019"),
        ("2021-12-29 v1.37", "2021-12-29"),
        ("11.03.2011", "11.03.2011"),
        ("In the first days of May 2021 the people of the town saw a sail", ""),
        ("Room 2021\nMayor 1999", ""),
    ],
)
def test_the_date_of_a_document_stands_on_a_line_of_its_own(page: str, date: str) -> None:
    assert printed_date(page) == date


@pytest.mark.parametrize(
    ("line", "author"),
    [
        ("John Bowman, Tom Prince, and Will Robertson", "John Bowman, Tom Prince, and Will Robertson"),
        ("Patrick R. Amestoy* Timothy A. Davis", "Patrick R. Amestoy Timothy A. Davis"),
        ("Andrew Makhorin <mao@gnu.org>", "Andrew Makhorin"),
        ("by Tessa Orlund", "Tessa Orlund"),
        ("Reference Manual", ""),
        ("Starting and Quitting Yorick", ""),
        ("Program structure and functions", ""),
    ],
)
def test_people_below_the_title_wrote_it(line: str, author: str) -> None:
    assert byline(f"The sea\n\n{line}\n\nAbstract", "The sea") == author


OWN = Page(2, "Title: The sea\nAuthor: A\n\nOne.", ((0, ABOUT), (25, "p. 2")))


@pytest.mark.parametrize(
    ("name", "pages", "title"),
    [
        ("Notes.pdf", [Page(1, "One.")], "Notes"),
        ("annual_report v1.2.DOCX", [Page(1, "One.")], "annual report v1.2"),
        (".pdf", [], ".pdf"),
        ("council-minutes_2.pdf", [], "council minutes 2"),
        ("Report on Covid-19.pdf", [], "Report on Covid-19"),
        ("scan0001.pdf", [Page(1, ""), OWN], "The sea"),
        ("a.pdf", [Page(1, "Title: not its own", ())], "a"),
    ],
)  # fmt: skip
def test_a_document_is_called_by_its_title_else_by_its_name_without_the_ending(
    name: str, pages: list[Page], title: str
) -> None:
    assert title_of(name, pages) == title
