"""All documents of a channel as one: learned again together, several chunks to a section, into fewer weights.

What is learned at once needs no replay: every chunk is in every step of its section. The price is measured in
evaluation/LOG.md, and no one pays it unasked. A page is counted on from the documents before it; a note says where each
begins. What was learned together is forgotten together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from core.document.formats import DocumentText
from core.types import Chunk, Page

MAGIC = b"engram: documents as one\n"  # no PDF begins so, and no upload may


def pack(documents: Sequence[tuple[str, Sequence[Page]]], share: int) -> bytes:
    """A job's data from the names and pages of documents; `share` chunks become one section."""
    body = {"share": share, "documents": [[name, [page.text for page in pages]] for name, pages in documents]}
    if len(documents) == 1:
        body["first"] = documents[0][1][0].number  # only a part of it may have been learned
    return MAGIC + json.dumps(body).encode()


def unpack(data: bytes) -> tuple[DocumentText, int]:
    """The pages of what `pack` packed, counted on, and the share; notes say where each of several begins."""
    body = json.loads(data.removeprefix(MAGIC))
    texts, notes = [], []
    for name, pages in body["documents"]:
        notes.append(f"Pages {len(texts) + 1} to {len(texts) + len(pages)} are {name}.")
        texts += pages
    notes = notes if len(notes) > 1 else []
    pages = tuple(Page(n, text) for n, text in enumerate(texts, start=body.get("first", 1)))
    return DocumentText(pages, tuple(notes)), body["share"]


def merged(chunks: Sequence[Chunk], share: int) -> list[Chunk]:
    """`share` neighbouring chunks become one."""
    groups = [chunks[at : at + share] for at in range(0, len(chunks), share)]
    return [_join(n, group) for n, group in enumerate(groups)]


def spread(sections: Sequence[int], chunks: int, share: int) -> tuple[int, ...]:
    """The section of each chunk, from the sections of the merged ones."""
    return tuple(sections[n // share] for n in range(chunks))


def _join(index: int, group: Sequence[Chunk]) -> Chunk:
    text, ids = "".join(c.text for c in group), tuple(i for c in group for i in c.token_ids)
    return replace(group[0], index=index, text=text, token_ids=ids, end_page=group[-1].end_page)
