"""Which document a person means: the one finder for the terminal, the chat's commands and questions that name one."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import NotFound
from core.types import Document


def matching(documents: Sequence[Document], key: str) -> list[Document]:
    """The documents that a key may mean, in their order: those of this id or name; else those that begin so; else those
    whose name holds it. Case makes no difference."""
    key = key.strip().casefold()
    for fits in (is_named, _starts_with, lambda document, key: key in document.name.casefold()):
        if meant := [document for document in documents if fits(document, key)]:
            return meant
    return []


def is_named(document: Document, key: str) -> bool:
    """Whether a key is the whole name, or the id of any of its versions."""
    key = key.strip().casefold()
    return key == document.name.casefold() or has_id(document, key)


def has_id(document: Document, key: str) -> bool:
    return key.casefold() in (document.id.casefold(), *document.formerly)


def the_one(documents: Sequence[Document], key: str) -> Document:
    """By id, else by name, else by the beginning of either, as long as that is one document's alone; what a name only
    holds is no order. Raises: NotFound."""
    key = key.strip().casefold()
    meant = matching(documents, key)
    of_id = [document for document in meant if has_id(document, key)]
    if of_id:
        return of_id[0]
    if len(meant) > 1 and key:
        raise NotFound("Several documents in this channel are called that; give the id of one.")
    if not meant or not key or not _starts_with(meant[0], key):
        raise NotFound
    return meant[0]


def _starts_with(document: Document, key: str) -> bool:
    return document.id.casefold().startswith(key) or document.name.casefold().startswith(key)
