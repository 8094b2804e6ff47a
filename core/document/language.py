"""Which language a text is in, by py3langid (Lui and Baldwin 2012): a naive Bayes classifier over byte n-grams."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

ENGLISH = "en"
NAMES = {  # ISO 639-1: the languages that are told apart
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
# Below it a text counts as English: 0.2 % of 9,800 English questions are called another language
MIN_PROBABILITY = 0.5
MAX_READ = 20_000  # characters that are looked at
SHORT_LENGTH = 300  # characters of a text that is English for a word
ENGLISH_QUESTION_WORDS = "who|whose|what|when|where|why|which|how|does|did"
# A short text in ASCII that begins so or has such a word in small letters: 95 % of 9,825 English questions, and none of
# 700 in other languages written in Latin letters.
PLAINLY = re.compile(rf"\s*(?i:{ENGLISH_QUESTION_WORDS})\b|.*\b(?:the|{ENGLISH_QUESTION_WORDS})\b", re.DOTALL)
LIST_NAMES = {"no": "nb"}  # how the lists of stop words name it
MORE_STOP_WORDS = {  # that these lists lack
    "ca": "quants quin quina", "da": "hvornår hvem hvordan hvilken hvilket hvilke hvorfor",
    "de": "wen wem wessen viele wieviel",
    "es": "quiénes cuál cuáles cuándo cuánto cuánta cuántos cuántas dónde adónde", "fr": "quoi combien lequel",
    "id": "dimana", "it": "quando quali", "nl": "wanneer hoeveel waar welke welk waarom", "no": "mye hvilket",
    "pt": "quais quanto quanta quantos quantas", "ru": "какое какие чей",
}  # fmt: skip


def language_of(text: str) -> str:
    """ISO 639-1, of NAMES; "en" also for a text that does not tell. Blocking: until the classifier was loaded, a text
    that is not plainly English takes a second or two."""
    is_plain = len(text) <= SHORT_LENGTH and text.isascii() and PLAINLY.match(text)
    if is_plain or not any(map(str.isalpha, text)):
        return ENGLISH
    language, probability = load_classifier().classify(text[:MAX_READ])
    return language if probability >= MIN_PROBABILITY else ENGLISH


@cache
def stop_words(language: str) -> frozenset[str]:
    """Its words that tell nothing about a text, in small letters; none for a language without a list."""
    from stop_words import LANGUAGE_MAPPING, get_stop_words

    listed = LIST_NAMES.get(language, language)
    if listed not in LANGUAGE_MAPPING:
        return frozenset()
    return frozenset(get_stop_words(listed)).union(MORE_STOP_WORDS.get(language, "").split())


@cache
def load_classifier() -> LanguageIdentifier:
    """Blocking: 1.7 s and 77 MB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    classifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    classifier.set_languages(NAMES)
    return classifier
