from __future__ import annotations

import pytest

from core.document import language as languages
from core.document.formats import read_document
from core.document.language import language_of, stop_words
from core.types import Limits

GERMAN = "Der Hafen von Pellin ist alt, und die Leute, die in der Stadt wohnen, sind stolz auf ihn. " * 4
FRENCH = "Le port de la ville est vieux, et les gens qui habitent dans la ville en sont fiers pour toujours. " * 4
RUSSIAN = "Порт города старый, и люди, которые живут в городе, гордятся им. " * 4
ENGLISH = "The harbour of the town is old, and the people who live in the town are proud of it. " * 4


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "de"),
        (FRENCH, "fr"),
        (RUSSIAN, "ru"),
        ("港の長は誰ですか。", "ja"),
        ("Wer ist der Hafenmeister?", "de"),
        ("¿Quién es el capitán del barco?", "es"),
        (ENGLISH, "en"),
        (ENGLISH + GERMAN[:90], "en"),  # a quotation
        ("Who is Orla Quint?", "en"),
        ("harbour master", "en"),
        ("Anna Pellin 1874 12 m", "en"),
        ("", "en"),
        ("1874 - 1902", "en"),
    ],
)
def test_a_language_is_told_when_it_is_surely_not_english(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["who built the lighthouse", "Where is it?", "a boat in the harbour", "tell me how"])
def test_a_plainly_english_question_waits_for_no_classifier(text: str, monkeypatch) -> None:
    monkeypatch.setattr(languages, "load_classifier", None)
    assert language_of(text) == "en"


@pytest.mark.parametrize(
    ("text", "language"), [("Qui chante dans le film The Wall ?", "fr"), ("Wer hat das Lied What Else gesungen?", "de")]
)
def test_an_english_title_makes_no_question_english(text: str, language: str) -> None:
    assert language_of(text) == language


def test_stop_words_are_those_of_a_language() -> None:
    assert {"der", "die", "wann"} <= stop_words("de") and "hafen" not in stop_words("de")
    assert "hvem" in stop_words("no")
    assert stop_words("sw") == frozenset()


@pytest.mark.parametrize(("text", "where"), [(GERMAN, "in German"), (RUSSIAN, "in Russian")], ids=["German", "Russian"])
async def test_a_document_in_another_language_says_once_what_is_read_best(text: str, where: str) -> None:
    read = await read_document(text.encode(), Limits())
    assert read.notes == (f"This document is {where}; I read English best.",)
