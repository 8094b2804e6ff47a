"""What is found by words is the same on both engines, to the last score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.search.ranking import WordMatch
from core.search.words import search_words, spaced
from storage.channel_files import ChannelFile
from storage.folder import DataFolder
from storage.index import Index
from storage.keys import Keys
from storage.postgres import PostgresIndex
from storage.words import matches, places_of, tokens
from tests.storage.samples import learn, make_chunks

HANDBOOK = Path(__file__).parents[2] / "core" / "evaluation" / "sample" / "handbook.md"
WORDS = [
    "ship",
    "ships",
    "shipping",
    "Café",
    "cafe",
    "don't",
    "3.14",
    "12:30",
    "ab_cd",
    "港口",
    "東京都",
    "the",
    "_",
    "ß",
]
Documents = dict[str, list[str]]


def by_fts5(documents: Documents, words: Sequence[str], searched: Sequence[str]) -> list[WordMatch]:
    content = ChannelFile(None, "here")
    try:
        for id, texts in documents.items():
            content.add_document(id, id, (), make_chunks(*texts), [*documents])
        return [WordMatch(**row) for row in content.search(words, searched)]
    finally:
        content.close()


def by_places(documents: Documents, words: Sequence[str], searched: Sequence[str]) -> list[WordMatch]:
    cut = {id: tokens(map(spaced, texts)) for id, texts in documents.items()}
    places = {(id, word): at for id, chunks in cut.items() for word, at in places_of(chunks).items()}
    counts = {id: list(map(len, chunks)) for id, chunks in cut.items()}
    return matches(dict(zip(words, tokens(words), strict=True)), counts, places, searched)


def equal(one: list[WordMatch], other: list[WordMatch]) -> None:
    one, other = sorted(one), sorted(other)
    assert [match._replace(bm25=0.0) for match in one] == [match._replace(bm25=0.0) for match in other]
    assert [match.bm25 for match in one] == pytest.approx([match.bm25 for match in other], rel=1e-12)


texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


@settings(max_examples=40)
@given(st.lists(st.lists(texts, min_size=1, max_size=4), min_size=1, max_size=3), st.lists(texts, min_size=1))
def test_places_score_as_fts5_does(documents: list[list[str]], questions: list[str]) -> None:
    named = {f"d{at}": chunks for at, chunks in enumerate(documents)}
    for question in questions:
        words = search_words(question)
        for searched in ([*named], ["d0"]):
            equal(by_places(named, words, searched), by_fts5(named, words, searched))


async def test_a_handbooks_sections_come_in_the_same_order_from_both_engines(
    folder: DataFolder, database: str, keys: Keys
) -> None:
    paragraphs = [text for text in HANDBOOK.read_text().split("\n\n") if len(text) > 80]
    questions = [sentence for text in paragraphs for sentence in re.split(r"(?<=[.!?])\s", text)]
    async with Index(folder.index) as sqlite, PostgresIndex(database, keys) as postgres:
        for index in (sqlite, postgres):
            for at in range(4):
                await learn(index, f"d{at}", paragraphs[at::4])
        for question in questions:
            one, other = [await index.candidates("here", question) for index in (sqlite, postgres)]
            assert [hit.key for hit in one] == [hit.key for hit in other]
            assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], rel=1e-12)
    assert len(questions) > 100
