"""All documents of a channel as one: learned again together, several chunks to a section, into fewer weights.

What is learned at once needs no replay: every chunk is in every step of its section. The price is measured in
evaluation/LOG.md, and no one pays it unasked. A page is counted on from the documents before it; a note says where each
begins. What was learned together is forgotten together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from core.document.formats import DocumentText
from core.errors import Refused
from core.types import Chunk, Page


def join_documents(documents: Sequence[tuple[str, Sequence[Page]]]) -> DocumentText:
    """The pages of one document as they are; those of several, given as name and pages, counted on, with notes that say
    where each begins. Raises: Refused, when of one of them no text is kept."""
    if not all(pages for _, pages in documents):
        raise Refused("The text of these documents is not kept, so they can't be learned again.")
    if len(documents) == 1:
        return DocumentText(tuple(documents[0][1]))
    texts: list[str] = []
    notes = []
    for name, pages in documents:
        notes.append(f"Pages {len(texts) + 1} to {len(texts) + len(pages)} are {name}.")
        texts += [page.text for page in pages]
    numbered = tuple(Page(number, text) for number, text in enumerate(texts, start=1))
    return DocumentText(numbered, tuple(notes))


def merge_chunks(chunks: Sequence[Chunk], share: int) -> list[Chunk]:
    """`share` neighbouring chunks become one."""
    joined: list[Chunk] = []
    for start in range(0, len(chunks), share):
        group = chunks[start : start + share]
        text = "".join(chunk.text for chunk in group)
        ids = tuple(chain.from_iterable(chunk.token_ids for chunk in group))
        joined.append(replace(group[0], index=len(joined), text=text, token_ids=ids, end_page=group[-1].end_page))
    return joined


def sections_of_chunks(sections: Sequence[int], chunks: int, share: int) -> tuple[int, ...]:
    """The section of each chunk, from the sections of the merged ones."""
    return tuple(sections[n // share] for n in range(chunks))
