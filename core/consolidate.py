"""All documents of a channel as one: learned again together, several chunks to a section, into fewer weights.

What is learned at once needs no replay: every chunk is in every step of its section. The price is measured in
evaluation/LOG.md, and no one pays it unasked. A page is counted on from the documents before it; a note says where each
begins. What was learned together is forgotten together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.document.formats import DocumentText
from core.errors import Refused
from core.types import Chunk, Page


def joined(documents: Sequence[tuple[str, Sequence[Page]]]) -> DocumentText:
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


def merged(chunks: Sequence[Chunk], share: int) -> list[Chunk]:
    """`share` neighbouring chunks become one."""
    groups = [chunks[first : first + share] for first in range(0, len(chunks), share)]
    return [_join(n, group) for n, group in enumerate(groups)]


def spread(sections: Sequence[int], chunks: int, share: int) -> tuple[int, ...]:
    """The section of each chunk, from the sections of the merged ones."""
    return tuple(sections[n // share] for n in range(chunks))


def _join(index: int, group: Sequence[Chunk]) -> Chunk:
    text, ids = "".join(c.text for c in group), tuple(i for c in group for i in c.token_ids)
    return replace(group[0], index=index, text=text, token_ids=ids, end_page=group[-1].end_page)
