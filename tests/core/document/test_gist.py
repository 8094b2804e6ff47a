"""What a document is about, as a text to learn."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from core.document.gist import gist
from core.document.places import ABOUT
from core.types import Page

LIGHTHOUSE = (
    "The Vantle lighthouse (built in 1741) is a tower on the north cape. It was built by Tessa Orlund. "
    "The lighthouse burns oil. Its keeper is Rufus Candle. The keeper climbs the lighthouse each night at six. "
    "Visitors of the lighthouse pay two crowns."
)
LONG = (
    "Mayor Tessa Orlund was arrested at the harbour of Vantle on Tuesday night by six officers of the island's own "
    "police, who had waited for her in a boat, after the council had asked for it twice. She is 61."
)
MEETING = "The vote was 53 to 47 on Tuesday. The members cheered. The vote took an hour. Then the vote was read aloud."
TREES = "alder birch cedar elder fir gorse hazel juniper larch maple oak pine rowan spruce thorn"
TIED = (  # fifteen words in two sentences each; the twelve most frequent ones count
    "Here are alder, birch, cedar, elder, fir. Here are gorse, hazel, juniper, larch, maple. "
    "Here are oak, pine, rowan, spruce, thorn. "
) + " ".join(f"There it is, over by the {tree}." for tree in reversed(TREES.split()))


@pytest.mark.parametrize(
    ("text", "name", "about"),
    [
        (LIGHTHOUSE, "notes.txt", "Vantle lighthouse"),
        (LIGHTHOUSE, "Island Guide.pdf", "Vantle lighthouse"),
        (f"Guide to the Cape\n\n{LIGHTHOUSE}", "notes.txt", "Guide to the Cape"),
        (MEETING, "notes.txt", "The vote was 53 to 47 on Tuesday"),  # it happened; nothing is defined
        (MEETING, "council_minutes.pdf", "council minutes"),
        (LONG, "notes.txt", LONG[: LONG.index(", after")]),  # what happened to somebody; as much as can stand for it
        (f"Keepers here are asking for oil. {MEETING}", "notes.txt", "Keepers here are asking for oil"),
        (f"In the far north, {LIGHTHOUSE[0].lower()}{LIGHTHOUSE[1:]}", "scan 12.pdf", "Vantle lighthouse"),
        (f"Tam Odrey (c. 1690 to 1755) was a mason. {MEETING}", "notes.txt", "Tam Odrey"),  # "c." ends nothing
    ],
)
def test_a_gist_begins_with_the_subject(text: str, name: str, about: str) -> None:
    assert gist([Page(1, text)], name).startswith(f"The main subject is {about}. This document is about {about}. ")


def test_a_title_that_the_file_gives_is_the_subject() -> None:
    own = "Title: The Lights of Vantle\nAuthor: R. Candle"
    page = Page(1, f"{own}\n\n{LIGHTHOUSE}", places=((0, ABOUT), (len(own), "p. 1")))
    for pages in ([page], [Page(1, ""), replace(page, number=2)]):  # the first one may be a picture
        text = gist(pages, "notes.txt")
        assert "This document is about The Lights of Vantle. The Vantle lighthouse" in text
        assert "R. Candle" not in text


def test_a_gist_names_the_parts_and_fits_into_a_section() -> None:
    pages = [Page(n, f"Part {n} of the Guide\n\n{LIGHTHOUSE}") for n in range(1, 9)]
    text = gist(pages, "notes.txt")
    assert "Its parts are: Part 2 of the Guide; Part 3 of the Guide;" in text
    assert len(text.split()) <= 110


@pytest.mark.parametrize("text", ["", "1 2 3", "Prices"])
def test_a_document_without_a_sentence_has_none(text: str) -> None:
    assert gist([Page(1, text)], "notes.txt") == ""


def test_the_same_document_has_the_same_gist_in_every_process() -> None:
    """Words that are as frequent as others come in the text's order, whatever the seed of Python's hashes is."""
    code = "from tests.core.document import test_gist as t; print(t.gist([t.Page(1, t.TIED)], 'notes.txt'))"
    texts = set()
    for seed in "1234":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        texts.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
    assert len(texts) == 1
