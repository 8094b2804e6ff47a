"""What a citation calls the place of an answer: as the document's format names it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from core.document.about import own_length
from core.search.words import SENTENCE_END, in_a_row, normalise, stemmed, stems, stopped_in, supports
from core.types import Page

CONTEXT_LENGTH = 200  # characters on both sides of an answer in which the question's words are looked for
MAX_SENTENCES = 5  # of a section that are searched for; a sentence that runs over a page break is on neither page
MAX_MATCHES = 100  # of an answer on one page that are looked at


def cite(page: Page, question: str, answer: str) -> str:
    """The place of an answer that stands on a page: of those where it stands, the one with most of the question's words
    around it."""
    if not page.places:
        return f"p. {page.number}"
    starts = [start for start, _ in page.places]
    asked = stems(question) - stems(answer)

    def shared_words(start: int) -> int:
        around = page.text[max(0, start - CONTEXT_LENGTH) : start + len(answer) + CONTEXT_LENGTH]
        return len(asked & stems(around))

    best = max(_answer_starts(page, starts, answer), key=shared_words, default=0)
    return page.places[max(0, bisect_right(starts, best) - 1)][1]


def closest_place(pages: Sequence[Page], section: str, question: str) -> str:
    """The place to look at where no page supports an answer: that of the section's sentence which shares most words
    with the question. "" where the document has one place only, or none of these sentences is on one page.

    Args:
        pages: of the whole document.
        section: the text that the question points at.
    """
    written = [page for page in map(_without_own_data, pages) if page.text and not page.correction]
    if len(written) == 1 and len(written[0].places) < 2:
        return ""
    words_of = {page.number: normalise(page.text) for page in written}
    in_section = set(normalise(section))
    likeliest = sorted(written, key=lambda page: -len(in_section.intersection(words_of[page.number])))
    asked = set(map(stemmed, set(normalise(question)) - stopped_in(question)))
    sentences = sorted(SENTENCE_END.split(section), key=lambda text: -len(asked & stems(text)))
    for sentence in sentences[:MAX_SENTENCES]:
        words = normalise(sentence)
        for page in likeliest:  # a heading stands in the list of contents, too
            if in_a_row(words, words_of[page.number]):
                return cite(page, question, sentence)
    return ""


def _without_own_data(page: Page) -> Page:
    """A page without what the file says of itself, and without the place of that."""
    begin = own_length(page)
    places = tuple((start - begin, name) for start, name in page.places if start >= begin)
    return replace(page, text=page.text[begin:], places=places)


def _answer_starts(page: Page, starts: Sequence[int], answer: str) -> list[int]:
    """Where the answer stands as it is; else where the places begin that hold its words."""
    wanted = answer.casefold().strip(" .")
    if wanted:
        matches = re.finditer(f"(?={re.escape(wanted)})", page.text.casefold())  # they may overlap
        as_written = [match.start() for match in islice(matches, MAX_MATCHES)]
        if as_written:
            return as_written
    ends = [*starts[1:], len(page.text)]
    return [start for start, end in zip(starts, ends, strict=True) if supports(page.text[start:end], answer)]
