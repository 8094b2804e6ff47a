from __future__ import annotations

from dataclasses import replace

import pytest

from core.document.heads import Line, Sheet
from core.document.layout import read_sheets
from core.document.text import join_lines, runs_on, tidy, vocabulary

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
        ("Aky¨urek, C´elkit˝uz´es, sz´am´ıt´og´ep", "Akyürek, Célkitűzés, számítógép"),  # TeX's old fonts
        ("Universita¨t in Bogota´, fac¸ade, Mu¨ller", "Universität in Bogotá, façade, Müller"),
        ("voil` a, `a quote' and x ¨ y, /˜user", "voilà, `a quote' and x ¨ y, /˜user"),
        ("${xˆˆpattern} is 1 ˆˆ", "${xˆˆpattern} is 1 ˆˆ"),
        ("𝑓(𝐱) = 𝟐𝒙", "f(x) = 2x"),
        ("\ufefb\ufdf2", "لاالله"),
    ],
)
def test_characters_are_tidied_without_changing_what_they_say(raw: str, clean: str) -> None:
    assert tidy(raw) == clean


def pages(*heads: str, foot: str = "") -> list[Sheet]:
    """A page for each head, with text of its own."""
    feet = [[line(foot.format(at), 780)] if foot else [] for at in range(len(heads))]
    return [sheet(line(head, 40), *body(f"{TEXTS[at]}.", y=90, block=1), *feet[at]) for at, head in enumerate(heads)]


@pytest.mark.parametrize(
    ("heads", "stay"),
    [
        (["The Handbook"] * 8, ["The Handbook"]),
        (["The Handbook", "Seventh edition"] * 4, ["The Handbook", "Seventh edition"]),  # left and right
        ([f"Page {at} of 8 | The Handbook" for at in range(1, 9)], ["Page 1 of 8 | The Handbook"]),
        ([f"The Handbook, 7th edition - {at}" for at in range(21, 29)], ["The Handbook, 7th edition - 21"]),
        (["The Island"] * 4 + ["History"] * 4, ["The Island", "History"]),
    ],
)
def test_a_running_head_stays_once(heads: list[str], stay: list[str]) -> None:
    paragraphs = "\n\n".join(read_sheets(pages(*heads, foot="- {} -"))).split("\n\n")
    assert [text for text in paragraphs if text.rstrip(".") not in TEXTS] == stay
    assert [text for text in paragraphs if text.rstrip(".") in TEXTS] == [f"{text}." for text in TEXTS]


def test_a_running_head_that_a_heading_says_goes_everywhere() -> None:
    title = sheet(line("The Handbook", 300, size=24))
    assert read_sheets([title, *pages(*["The Handbook"] * 8)])[1] == "Amber."


def test_a_page_number_beside_a_head_does_not_make_it_another() -> None:
    title = sheet(line("Preface", 300, size=24))
    heads = pages(*(f"{number} PREFACE" for number in ("ii", "iii", "iv", "v", "vi")))
    blank = pages(*["The Island"] * 3)
    assert "PREFACE" not in "".join(read_sheets([*blank, title, *heads]))


def test_text_beside_a_running_head_stays() -> None:
    def page(at: int) -> Sheet:
        other = [line(f"{TEXTS[at]} stands in the other column", 40 + 12 * y, x=320, block=2) for y in range(3)]
        return sheet(line("The Handbook", 40), *body("Text.", y=90, block=1), *other)

    assert all(f"{TEXTS[at]} stands" in text for at, text in enumerate(read_sheets([page(at) for at in range(8)])))


def test_footnotes_and_steps_whose_numbers_count_with_the_pages_stay() -> None:
    def page(at: int) -> Sheet:
        return sheet(*body(f"{TEXTS[at]}."), line(f"{at + 1} See the book of {TEXTS[at]}", 760), line(f"- {at} -", 790))

    assert all("See the book of" in text for text in read_sheets([page(at) for at in range(8)]))


def test_a_heading_larger_than_the_text_is_no_running_head() -> None:
    heads = [[line("Exercises", 60, size=14), *body("Text.", y=90, block=1)] for _ in range(5)]
    assert read_sheets([sheet(*lines) for lines in heads]) == ["Exercises\n\nText."] * 5


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
    assert read_sheets([sheet(*lines)]) == ["Name Year\nTessa 1874\nBram 1902\n\nTessa: Year 1874.\nBram: Year 1902."]


def test_lines_beside_a_picture_are_one_paragraph() -> None:
    wide, narrow = (line("The harbour is old and wide", 200 + 12 * at, width=400) for at in range(2)), "has a quay"
    lines = [*wide, *(line(narrow, 224 + 12 * at, width=180 + 9 * at) for at in range(3)), line("of stone.", 260)]
    [text] = read_sheets([Sheet(HEIGHT, tuple(lines), pictures=((290, 220, 480, 270),))])
    assert "\n" not in text


def test_justified_lines_of_a_narrow_run_are_one_paragraph() -> None:
    texts = ["The harbour of the town is old and wide"] * 3
    lines = [line(text, 200 + 12 * at, width=400 if at < 2 else 200) for at, text in enumerate([*texts, *texts])]
    assert "\n" not in read_sheets([sheet(*lines)])[0]


def test_a_sentence_goes_on_beyond_a_caption_and_a_footnote() -> None:
    begun = body("The harbour was in those days", "built by the people of")
    caption = line("Figure 3: The harbour", 300, size=8, block=1)
    rest = body("the town. It is old and it was", "painted by the children of", y=330, block=2)
    note = line("¹ See the archive.", 760, size=8, block=3)
    after = body("the school. They like it.", y=100)
    first, second = read_sheets([sheet(*begun, caption, *rest, note), sheet(*after)])
    assert first == (
        "The harbour was in those days built by the people of the town. It is old and it was painted by the children "
        "of the school.\n\nFigure 3: The harbour\n\n¹ See the archive."
    )
    assert second == "They like it."


def test_columns_that_the_file_draws_line_by_line_are_read_one_after_the_other() -> None:
    left, right = ("The left column has many", "words in it."), ("The right column has also", "many words in it.")
    lines = []
    for at in range(4):
        y = 200 + 12 * at
        lines += [line(left[at % 2], y, width=180), line(right[at % 2], y, x=300, width=180)]
    [text] = read_sheets([sheet(*lines)])
    assert text.startswith("The left column has many words in it. The left")
    assert text.index("left") < text.rindex("left") < text.index("right")


def test_a_heading_that_the_file_draws_last_is_read_first() -> None:
    table, heading = body("Rows of text", "that are many.", block=0), line("The heading", 150, size=14, block=1)
    assert read_sheets([sheet(*table, heading)])[0].startswith("The heading")


def test_a_table_that_the_file_draws_column_by_column_is_read_by_rows() -> None:
    names = [line(text, 200 + 12 * at) for at, text in enumerate(["whole number", "with a point"])]
    types = [line(text, 200 + 12 * at, x=300, block=1) for at, text in enumerate(["int", "float"])]
    assert read_sheets([sheet(*names, *types)]) == ["whole number int\nwith a point float"]


def test_lines_of_a_table_of_contents_stay_lines() -> None:
    lines = [line(f"The {word} of the old harbour … {at}", 200 + 12 * at, width=400) for at, word in enumerate(TITLES)]
    assert read_sheets([sheet(*lines)])[0].count("\n") == len(TITLES) - 1


def test_a_note_in_the_margin_comes_after_its_paragraph() -> None:
    texts = ["The harbour was built by the", "people of the town and it is", "old."]
    lines = [line(text, 200 + 12 * at, width=300 if at < 2 else None) for at, text in enumerate(texts)]
    lines.insert(1, line("¹ See the map.", 202, x=420, size=8))
    expected = "The harbour was built by the people of the town and it is old.\n\n¹ See the map."
    assert read_sheets([sheet(*lines)]) == [expected]


def test_a_gap_in_a_line_of_prose_makes_no_table() -> None:
    lines = [*body("The harbour was built by the people", "of the town and is old."), line("(page 9)", 212, x=430)]
    assert read_sheets([sheet(*lines)]) == ["The harbour was built by the people of the town and is old. (page 9)"]


def test_text_beside_a_label_goes_on_below_itself() -> None:
    first = line("-k clusters. The number is only a", 200, x=72, width=300)
    first = replace(first, cells=("-k", "clusters. The number is only a"))
    lines = [first, line("suggestion and may not be kept.", 212, x=108, width=200)]
    assert read_sheets([sheet(*lines)]) == ["-k clusters. The number is only a suggestion and may not be kept."]


def test_lines_of_code_stay_lines_unless_the_whole_page_is_typed() -> None:
    typed = [replace(one, fonts=("Courier",)) for one in body("open the harbour (ships) ;", "close the harbour ;")]
    prose = [
        replace(one, fonts=("Times",)) for one in body("The harbour is opened", "and closed.", "x", y=300, block=1)
    ]
    assert "open the harbour (ships) ;\nclose the harbour ;" in read_sheets([sheet(*typed, *prose)])[0]
    assert "open the harbour (ships) ; close the harbour ;" in read_sheets([sheet(*typed)])[0]


def test_prose_with_words_of_code_is_no_code() -> None:
    fonts = ("Courier", "Times", "Courier")
    lines = [replace(one, fonts=fonts) for one in body("open (ships) as in the help for", "more of (ships).")]
    other = [replace(one, fonts=("Times",)) for one in body("It is old.", y=300, block=1)]
    assert "the help for more of" in read_sheets([sheet(*lines, *other)])[0]


def test_a_label_in_the_margin_leads_its_paragraph_also_where_the_file_draws_it_last() -> None:
    paragraph = [line(text, y, x=170, width=300) for text, y in (("This command prints the", 200), ("harbour.", 212))]
    assert read_sheets([sheet(*paragraph, line("\\harbour", 200, x=72, width=60, block=1))])[0].startswith("\\harbour")


def test_a_heading_in_another_font_stands_alone() -> None:
    heading, text = body("All that we know of the harbour"), body("The harbour was built", "in one summer.", y=212)
    lines = [replace(heading[0], x1=472, fonts=("Bold",)), *(replace(line, fonts=("Roman", "Italic")) for line in text)]
    assert read_sheets([sheet(*lines)]) == ["All that we know of the harbour\nThe harbour was built in one summer."]


def test_a_word_in_another_font_at_a_lines_beginning_is_no_heading() -> None:
    above, below = body("Files stand under both", "/usr and /etc.")
    lines = [replace(above, fonts=("Roman",)), replace(below, fonts=("Mono", "Roman", "Mono", "Roman"))]
    assert read_sheets([sheet(*lines)]) == ["Files stand under both /usr and /etc."]


def test_type_that_is_drawn_twice_to_look_bold_is_read_once() -> None:
    assert read_sheets([sheet(line("Bold", 200), line("Bold", 200, x=72.5))]) == ["Bold"]


def test_a_sentence_goes_on_past_a_columns_end() -> None:
    left, right = body("The harbour was", "built by"), line("the council.", 100, x=500, block=1)
    assert read_sheets([sheet(*left, right)]) == ["The harbour was built by the council."]


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
        ("see http://x.org/", "page.html for", "", "see http://x.org/page.html for"),
        ("either/", "or", "", "either/ or"),
        ("from /usr/", "share to", "", "from /usr/share to"),
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
