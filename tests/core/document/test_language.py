from __future__ import annotations

import pytest

from core.document.formats import read_document
from core.document.language import other_language
from core.types import Limits

GERMAN = "Der Hafen von Pellin ist alt, und die Leute, die in der Stadt wohnen, sind stolz auf ihn. " * 4
FRENCH = "Le port de la ville est vieux, et les gens qui habitent dans la ville en sont fiers pour toujours. " * 4
RUSSIAN = "Порт города старый, и люди, которые живут в городе, гордятся им. " * 4
ENGLISH = "The harbour of the town is old, and the people who live in the town are proud of it. " * 4


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "German"),
        (FRENCH, "French"),
        (RUSSIAN, "another script"),
        (ENGLISH, ""),
        (ENGLISH + GERMAN[:90], ""),  # a quotation
        ("Anna Pellin 1874 12 m\n" * 40, ""),  # a table
        ("", ""),
        ("der die das", ""),
    ],
)
def test_a_language_is_named_when_it_is_surely_not_english(text: str, language: str) -> None:
    assert other_language(text) == language


@pytest.mark.parametrize(
    ("text", "where"), [(GERMAN, "in German"), (RUSSIAN, "in another script than Latin")], ids=["German", "Russian"]
)
async def test_a_document_in_another_language_says_once_what_is_read_best(text: str, where: str) -> None:
    read = await read_document(text.encode(), Limits())
    assert read.notes == (f"This document is {where}; I read English best.",)
