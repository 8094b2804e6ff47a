"""Pages -> chunks of tokens, by the model's own tokenizer. Nothing is lost, nothing is there twice."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from core.document.about import own_text
from core.document.text import counted, runs_on
from core.errors import DocumentTooLong, DocumentTooShort
from core.types import Chunk, Limits, Page

PARAGRAPH_SLACK = 0.5  # of a chunk may stay empty, so that it ends where a paragraph does (LOG.md)
SLACK = 0.15  # ... where a sentence, a line or a word does
STOPS = (".", "!", "?", "…", "。", "！", "？")
MIN_OWN_TOKENS = 48  # tokens of what a file says of itself; fewer alone are learned badly (LOG.md)
PAGE_TOKENS = 450  # of a page of print
OFFERED_SHARE = 0.95  # of the limit is offered: pages differ in tokens for each character
CLOSING = "\"'”’»)]"  # may stand between a sentence's stop and the blank after it

# Text -> the ids of its tokens, and for each token where it begins and ends in the text, in characters.
Encode = Callable[[str], tuple[Sequence[int], Sequence[tuple[int, int]]]]


def encoder(tokenizer: Any) -> Encode:
    """Of a `tokenizers.Tokenizer`, or of what has one; without special tokens."""

    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)

    def encode(text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        encoding = backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    return encode


def join_pages(pages: Sequence[Page]) -> str:
    """The document as one text: an empty line between pages, or a space where a sentence goes on; no blank pages."""
    return "".join(text for _, text in _joinable(pages))


def make_chunks(pages: Sequence[Page], encode: Encode, chunk_size: int) -> list[Chunk]:
    """Cut a document into chunks of at most `chunk_size` tokens.

    The chunks' token ids one after the other are those of `encode(join_pages(pages))`, their texts one after the other
    are `join_pages(pages)`. A chunk ends where a paragraph does, if one ends in the second half of the room; else where
    a sentence, a line or a word does, if one ends within the last 15 %; and if possible not within a character. A
    document without text has no chunks.
    """
    if chunk_size < 1:
        raise ValueError("A chunk holds at least one token.")
    parts = _joinable(pages)
    text = "".join(text for _, text in parts)
    page_starts = list(accumulate((len(text) for _, text in parts[:-1]), initial=0))
    ids, offsets = encode(text)
    ends = list(accumulate((end for _, end in offsets), max))  # where tokens end in the text; never goes back

    def page_at(position: int) -> int:
        return parts[bisect_right(page_starts, position) - 1][0]

    chunks: list[Chunk] = []
    cuts = [0]
    own = bisect_right(ends, len(own_text(pages)))  # what the file says of itself is a section alone
    for last in (own if own >= MIN_OWN_TOKENS else 0, len(ids)):
        cuts += _cuts(text, offsets, ends, chunk_size, cuts[-1], last)
    for start, end in pairwise(cuts):
        first = ends[start - 1] if start else 0
        piece = text[first : ends[end - 1] if end < len(ids) else len(text)]
        inner = first + len(piece) - len(piece.lstrip())  # the blank between two pages belongs to neither
        last = max(inner, first + len(piece.rstrip()) - 1)
        chunks.append(Chunk(len(chunks), piece, tuple(ids[start:end]), page_at(inner), page_at(last)))
    return chunks


def check_length(tokens: int, limits: Limits, pages: Sequence[Page], place: str = "page") -> None:
    """place: what a page is called.

    Raises: DocumentTooShort; DocumentTooLong, with the pages that can be learned at once.
    """
    if tokens < limits.min_tokens:
        count = counted(sum(len(page.text.split()) for page in pages), "word")
        raise DocumentTooShort(f"This document has {count}; that is too little to learn from, send a longer one.")
    if tokens > limits.max_tokens:
        size = f"This document has {pages_of_text(tokens)}, and I can learn {pages_of_text(limits.max_tokens)} at once"
        fitting = _fitting(pages, OFFERED_SHARE * limits.max_tokens / tokens)
        part = (
            f"send it again with “{place}s {fitting[0]}-{fitting[1]}” to learn that part"
            if fitting
            else "send a part of it"
        )
        raise DocumentTooLong(f"{size}; {part}.")


def pages_of_text(tokens: int) -> str:
    """So many tokens, in a measure that people have."""
    pages = round(tokens / PAGE_TOKENS, -1 if tokens > 20 * PAGE_TOKENS else None)
    return "less than a page of text" if not pages else f"about {counted(int(pages), 'page')} of text"


def _fitting(pages: Sequence[Page], share: float) -> tuple[int, int] | None:
    """The first and the last page of a beginning that holds at most this share of the text."""
    room = share * sum(len(page.text) for page in pages)
    fitting = []
    for page in pages:
        room -= len(page.text)
        if room < 0:
            break
        fitting.append(page.number)
    return (fitting[0], fitting[-1]) if fitting else None


def _joinable(pages: Sequence[Page]) -> list[tuple[int, str]]:
    """(page number, its text and what parts it from the next), of the pages that have text."""
    parts: list[tuple[int, str]] = []
    for page in pages:
        if not page.text.strip():
            continue
        if parts:
            number, before = parts[-1]
            parts[-1] = number, before + (" " if runs_on(before, page.text) else "\n\n")
        parts.append((page.number, page.text))
    return parts


def _cuts(
    text: str, offsets: Sequence[tuple[int, int]], ends: Sequence[int], size: int, start: int, last: int
) -> Iterator[int]:
    """Where the chunks between two tokens end, counted in tokens from the document's start."""
    while last - start > size:
        start = _best_cut(text, offsets, ends, start, start + size)
        yield start
    if last > start:
        yield last


def _best_cut(text: str, offsets: Sequence[tuple[int, int]], ends: Sequence[int], start: int, most: int) -> int:
    """The end of a chunk that holds at most the tokens from `start` to `most`."""
    whole = [cut for cut in range(most, start, -1) if offsets[cut][0] >= ends[cut - 1]]  # not within a character
    kinds = ((_ends_paragraph, PARAGRAPH_SLACK), (_ends_sentence, SLACK), (_ends_line, SLACK), (_ends_word, SLACK))
    for ends_here, slack in kinds:
        for cut in whole:
            if most - cut <= slack * (most - start) and ends_here(text, ends[cut - 1]):
                return cut
    return whole[0] if whole else most


def _ends_paragraph(text: str, end: int) -> bool:
    return _ends_sentence(text, end) and _ends_line(text, end)  # not a heading: it belongs to what follows


def _ends_sentence(text: str, end: int) -> bool:
    return _ends_word(text, end) and text[max(end - 6, 0) : end].rstrip().rstrip(CLOSING).endswith(STOPS)


def _ends_line(text: str, end: int) -> bool:
    return "\n" in text[end - 1 : end + 1]


def _ends_word(text: str, end: int) -> bool:
    return any(map(str.isspace, text[end - 1 : end + 1]))
