"""FTS5's ranking without an FTS5 table: the same words, the same BM25, out of where each word stands in a document.

The words of a document's chunks are counted through, and one number is left out after each chunk, so that no phrase
reaches from one into the next.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import accumulate

from core.search.ranking import ChunkKey, WordMatch
from core.search.words import fts5_rarity

K1, B = 1.2, 0.75  # as FTS5 has them
TOKENS = """
CREATE VIRTUAL TABLE texts USING fts5 (text, tokenize = 'porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE tokens USING fts5vocab (texts, instance);
"""


def tokens(texts: Iterable[str]) -> list[list[str]]:
    """The words of each text in their order, as FTS5 cuts and stems them."""
    given = list(texts)
    cut: list[list[str]] = [[] for _ in given]
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(TOKENS)
        database.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", enumerate(given))
        for term, text in database.execute("SELECT term, doc FROM tokens ORDER BY doc, offset"):
            cut[text].append(term)
    return cut


def places_of(chunks: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Where each word stands in a document. chunks: their words."""
    places: dict[str, list[int]] = {}
    for start, chunk in zip(_starts(map(len, chunks)), chunks, strict=False):
        for place, word in enumerate(chunk, start=start):
            places.setdefault(word, []).append(place)
    return places


def matches(
    asked: Mapping[str, Sequence[str]],
    counts: Mapping[str, Sequence[int]],
    places: Mapping[tuple[str, str], Sequence[int]],
    searched: Collection[str],
) -> list[WordMatch]:
    """What FTS5's bm25() says of each word of a question and each chunk of the searched documents in which it stands.

    Args:
        asked: for each word of the question its tokens; several are a phrase.
        counts: of each document of the channel, how many words each chunk has.
        places: where a token stands in a document, by document and token.
        searched: ids of documents.
    """
    rows = sum(map(len, counts.values()))
    mean_length = sum(map(sum, counts.values())) / max(1, rows)
    starts = {document: _starts(lengths) for document, lengths in counts.items()}
    searched_chunks = sum(len(lengths) for document, lengths in counts.items() if document in searched)
    matched = []
    for word, phrase in asked.items():
        counts_by_chunk: Counter[ChunkKey] = Counter()
        for document in counts:
            for place in _phrase_positions([places.get((document, token), ()) for token in phrase]):
                counts_by_chunk[document, bisect_right(starts[document], place) - 1] += 1
        containing = len(counts_by_chunk)
        rarity = fts5_rarity(containing, rows)
        for (document, chunk), count in counts_by_chunk.items():
            length = counts[document][chunk] / mean_length
            bm25 = -rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * length))
            if document in searched:
                matched.append(WordMatch(word, document, chunk, bm25, containing, rows, searched_chunks))
    return matched


def _starts(lengths: Iterable[int]) -> list[int]:
    """Number of each chunk's first word, and of what would follow the last."""
    return list(accumulate((length + 1 for length in lengths), initial=0))


def _phrase_positions(places: Sequence[Sequence[int]]) -> list[int]:
    """Positions at which a phrase begins. places: positions of each of its tokens."""
    if not places:
        return []
    together = set(places[0])
    for offset, others in enumerate(places[1:], start=1):
        together &= {place - offset for place in others}
    return sorted(together)
