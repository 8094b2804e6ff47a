from __future__ import annotations

import pytest

from core.document.layout import Line, Sheet, join_lines, read_sheets, runs_on, tidy, vocabulary

HEIGHT = 800.0
TITLES = ("Sea", "Town", "Town", "History", "Fish", "Ferry", "Birds", "Rules")
TEXTS = ("Amber", "Birch", "Cedar", "Dune", "Ember", "Fern", "Gorse", "Heath")


def line(text: str, y: float, *, x: float = 72, width: float | None = None, size: float = 10, block: int = 0) -> Line:
    return Line(text, x, y, x + (5 * len(text) if width is None else width), y + size, size, block)


def body(*texts: str, y: float = 200, step: float = 12, block: int = 0) -> list[Line]:
    """Full lines of 400 points, the last one as long as its text."""
    *full, last = texts
    lines = [line(text, y + step * at, width=400, block=block) for at, text in enumerate(full)]
    return [*lines, line(last, y + step * len(full), block=block)]


def sheet(*lines: Line) -> Sheet:
    return Sheet(HEIGHT, lines)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("ﬁnd the oﬃce", "find the office"),
        ("10² ½ ™ …", "10² ½ ™ …"),  # all of which NFKC would change
        ("soft\u00adly\u200b now\u202e", "softly now"),
        ("a\u00a0b\t c\x00", "a b c"),
        ("ＡＢ１", "AB1"),
        ("e\u0301", "é"),
        ("\uf0b7 item", "• item"),
        ("Chapter . . . . . . . . 7", "Chapter … 7"),
    ],
)
def test_characters_are_tidied_without_changing_what_they_say(raw: str, clean: str) -> None:
    assert tidy(raw) == clean


def pages(*heads: str, foot: str = "") -> list[Sheet]:
    """A page for each head, with text of its own."""
    feet = [[line(foot.format(at), 780)] if foot else [] for at in range(len(heads))]
    return [sheet(line(head, 40), *body(f"{TEXTS[at]}.", y=90, block=1), *feet[at]) for at, head in enumerate(heads)]


@pytest.mark.parametrize(
    "heads",
    [
        ["The Handbook"] * 8,
        ["The Handbook", "Seventh edition"] * 4,  # left and right
        [f"Page {at} of 8 | The Handbook" for at in range(1, 9)],
        [f"The Handbook, 7th edition - {at}" for at in range(21, 29)],
        [f"{title} {at}" for at, title in enumerate(TITLES, start=11)],
        ["The Island"] * 4 + ["History"] * 4,
    ],
)
def test_running_heads_are_left_out(heads: list[str]) -> None:
    assert read_sheets(pages(*heads, foot="- {} -")) == [f"{text}." for text in TEXTS]


@pytest.mark.parametrize("number", ["7", "- 7 -", "[7]", "vii", "Page 7", "page 7 of 9", "7 / 9"])
def test_lone_page_numbers_are_left_out(number: str) -> None:
    assert read_sheets([sheet(*body("Text."), line(number, 780))]) == ["Text."]


def test_headings_at_the_top_of_pages_stay() -> None:
    heads = ["Day 1", "Day 1", "Day 4", "Day 9", "Day 11", "Day 12", "Day 20", "Day 21"]
    assert [text.split("\n")[0] for text in read_sheets(pages(*heads))] == heads


def test_a_page_of_nothing_but_its_head_keeps_it() -> None:
    assert read_sheets([sheet(line(f"This is page {at}", 40)) for at in range(3)]) == [
        f"This is page {at}" for at in range(3)
    ]


def test_text_that_repeats_on_every_page_stays() -> None:
    sheets = [sheet(*body("The same sentence on each page.", "And another.", "A third.", y=40)) for _ in range(5)]
    assert read_sheets(sheets)[3] == "The same sentence on each page. And another. A third."


def test_rows_of_figures_at_the_margin_stay() -> None:
    table = [line(f"{n} {n * 7}", 700 + 12 * n) for n in range(8)]
    assert all("5 35" in text and "7 49" in text for text in read_sheets([sheet(*table)] * 4))


def test_a_year_and_a_chapters_number_at_the_margin_stay() -> None:
    ending = body("It ended in", "1874", y=770, block=2)
    sheets = [sheet(line("1 Beginnings", 40, size=16), *body("Text.", y=90, block=1), *ending)]
    assert read_sheets(sheets) == ["1 Beginnings\n\nText.\n\nIt ended in 1874"]


def test_lines_of_a_paragraph_are_joined_and_paragraphs_kept() -> None:
    first, second = body("The tower was built", "in one summer.", block=0), body("It is white.", y=240, block=1)
    assert read_sheets([sheet(*first, *second)]) == ["The tower was built in one summer.\n\nIt is white."]


def test_double_spaced_lines_are_one_paragraph() -> None:
    lines = [
        line(text, 200 + 28 * at, width=400, block=at)
        for at, text in enumerate(("Built by Tessa", "Orlund in", "Pellin."))
    ]
    assert read_sheets([sheet(*lines)]) == ["Built by Tessa Orlund in Pellin."]


def test_indented_first_lines_begin_paragraphs() -> None:
    lines = [
        line("The first ends here.", 200, width=400),
        line("The second begins", 212, x=90, width=382),
        line("and ends.", 224),
    ]
    assert read_sheets([sheet(*lines)]) == ["The first ends here.\nThe second begins and ends."]


def test_list_items_and_short_lines_keep_their_breaks() -> None:
    lines = [*body("Bring these things along when you come:", "• a lamp", "• a rope")]
    assert read_sheets([sheet(*lines)]) == ["Bring these things along when you come:\n• a lamp\n• a rope"]


def test_a_tables_rows_stay_rows() -> None:
    cells = [("Name", "Year"), ("Tessa", "1874"), ("Bram", "1902")]
    lines = [line(text, 200 + 12 * y, x=72 + 150 * x) for y, row in enumerate(cells) for x, text in enumerate(row)]
    assert read_sheets([sheet(*lines)]) == ["Name Year\nTessa 1874\nBram 1902"]


def test_a_sentence_goes_on_past_a_columns_end() -> None:
    left, right = body("The harbour was", "built by", block=0), body("the council.", y=100, block=1)
    assert read_sheets([sheet(*left, *right)]) == ["The harbour was built by the council."]


@pytest.mark.parametrize(
    ("left", "right", "elsewhere", "joined"),
    [
        ("the obser-", "vatory is", "", "the observatory is"),
        ("the light-", "house is", "a lighthouse", "the lighthouse is"),
        ("a well-", "known man", "", "a well-known man"),
        ("a long-", "term plan", "long-term", "a long-term plan"),
        ("a wind-", "driven mill", "the wind was driven", "a wind-driven mill"),
        ("state-of-", "the-art", "", "state-of-the-art"),
        ("the Anglo-", "Saxon", "", "the Anglo-Saxon"),
        ("OBSER-", "VATORY", "", "OBSERVATORY"),
        ("two-", "and three-masted", "", "two- and three-masted"),
        ("from 1874-", "1880 on", "", "from 1874-1880 on"),
        ("soft\u00ad", "ware", "", "software"),
        ("a dash -", "here", "", "a dash - here"),
        ("塔は", "白い", "", "塔は白い"),
    ],
)
def test_words_broken_at_line_ends(left: str, right: str, elsewhere: str, joined: str) -> None:
    assert join_lines((left, right), vocabulary([elsewhere, left, right])) == joined


def test_a_word_broken_by_the_end_of_a_page_is_made_whole() -> None:
    sheets = [sheet(*body("Look at the obser-")), sheet(*body("vatory on the hill."))]
    assert read_sheets(sheets) == ["Look at the observatory", "on the hill."]


def test_only_an_open_sentence_runs_on() -> None:
    assert runs_on("built by", "the council")
    assert not runs_on("It is white.", "the council")
    assert not runs_on("built by", "Tessa")
    assert not runs_on("", "the council")
