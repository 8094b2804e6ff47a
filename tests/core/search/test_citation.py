"""The place that is named where no answer was found. What citations of answers are called: tests/core/document."""

from __future__ import annotations

import pytest

from core.document.places import ABOUT
from core.search.citation import closest_place
from core.types import Page

PAGES = [
    Page(1, "The harbour of Vessin was opened in 1874. Its master is Orla Quint."),
    Page(2, "A berth costs forty crowns a night. The ferry leaves at seven, and"),
    Page(3, "returns at noon. The lighthouse burns whale oil."),
]
SECTION = "A berth costs forty crowns a night. The ferry leaves at seven, and returns at noon. The lamp burns oil."


@pytest.mark.parametrize(
    ("section", "question", "place"),
    [
        (PAGES[0].text, "Who is the master's deputy?", "p. 1"),
        (PAGES[1].text, "What does a berth cost in winter?", "p. 2"),
        (SECTION, "When does the ferry return?", "p. 2"),  # its sentence goes over the page's end: the next best one
        (PAGES[2].text, "Was brennt dort?", "p. 3"),  # it shares no word
        ("Nothing of that stands there.", "Who is the master?", ""),
        ("", "Who is the master?", ""),
    ],
)
def test_the_closest_place_is_that_of_the_sentence_with_most_words_of_the_question(
    section: str, question: str, place: str
) -> None:
    assert closest_place(PAGES, section, question) == place


def test_a_document_of_one_place_has_no_closest_one() -> None:
    page = Page(1, PAGES[0].text, places=((0, "“Harbour”"),))
    assert closest_place([page], page.text, "Who is the master?") == ""
    assert closest_place([], "master", "Who is the master?") == ""


def test_the_closest_place_has_the_formats_name() -> None:
    text = "Fog comes in May. The tide is high at noon."
    page = Page(1, text, places=((0, "“Fog”"), (text.index("The"), "“Tides”")))
    assert closest_place([page], text, "How high is the tide?") == "“Tides”"


def test_a_correction_is_no_place_of_the_document() -> None:
    correction = Page(4, "Who is the master? Ada Quill", correction="c1")
    assert closest_place([*PAGES, correction], correction.text, "Who is the master?") == ""


def test_what_the_file_says_of_itself_and_a_list_of_contents_are_no_places_to_look_at() -> None:
    own = "Title: Vessin\nContents: The tides (page 2)\n\n"
    first = Page(1, f"{own}Contents. The tides. The fog.", places=((0, ABOUT), (len(own), "p. 1")))
    second = Page(2, "The tides. They are high at noon and low at six.")
    assert (
        closest_place([first, second], "The tides.\n\nThey are high at noon and low at six.", "Which tides?") == "p. 2"
    )
    assert closest_place([first, second], "Contents. The fog.", "Which contents?") == "p. 1"
    alone = Page(1, own, places=((0, ABOUT),))
    assert closest_place([alone, second], own, "Which tides?") == ""
