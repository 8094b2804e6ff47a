"""Whether an answer can be right: what kind of answer a question wants, and whether the text holds the answer near what
is asked. Pure functions over texts; English question words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import chain

from core.search.words import SENTENCE_END, STOP_WORDS, in_a_row, normalise, stemmed, stems, stopped_in

WINDOW_SENTENCES = 2  # neighbouring sentences in which the answer and what is asked must stand
TIME_WORDS = """
    january february march april may june july august september october november december monday tuesday wednesday
    thursday friday saturday sunday spring summer autumn winter fall day days night morning afternoon evening noon
    midnight week weeks weekend month months year years decade century hour hours minute minutes daily weekly monthly
    yearly annually o'clock before after during until since every today yesterday tomorrow sunrise sunset easter
    christmas
    """
NUMBER_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen
    half third quarter double once twice no none several many few all both
    """
DANGLING_WORDS = frozenset(
    {"a", "an", "the", "of", "in", "on", "at", "by", "for", "to", "and", "or", "but", "with", "from", "as", "that"}
)
POINTING_WORDS = frozenset(
    ["this", "these", "those", "that", "it", "he", "she", "they", "him", "her", "them", "its", "his", "their"]
)
POINTING_ANSWER = 2  # words of an answer that only points at something, at most: "this package"
WHEN = r"(?:when|what (?:year|date|day|month|time)|(?:in|on|at) (?:what|which) (?:year|date|day|month|time|century))\b"
HOW_MANY = r"how (?:many|much|old|tall|high|long|far|deep|large|big|heavy|wide|often)\b"
WHAT_NUMBER = r"what (?:percentage|percent|number|amount|price|cost|age|population)\b"
NUMBER_OR_TIME = frozenset(f"{NUMBER_WORDS} {TIME_WORDS}".split())
WANTED = (  # how a question begins, and words of which its answer has to hold one, or a digit; the first that fits
    (re.compile(WHEN), NUMBER_OR_TIME),
    (re.compile(HOW_MANY), NUMBER_OR_TIME),
    (re.compile(WHAT_NUMBER), frozenset(NUMBER_WORDS.split())),
)
GREETING = re.compile(r"^(?:(?:hi|hello|hey|ok|okay|so|hm|please|and|but|well)\b[ ,!.]*)+")


def fits_question(question: str, answer: str) -> bool:
    """Whether an answer is of the kind that its question wants: a time for "when", a number for "how many", more than
    an echo of the question, no fragment, nothing that only points at what the text named before."""
    said = normalise(answer)
    if not said or said[-1] in DANGLING_WORDS or not any(c.isalnum() for c in answer):
        return False
    if said[0] in POINTING_WORDS and len(said) <= POINTING_ANSWER:
        return False
    asked = normalise(question)
    if set(said) - STOP_WORDS and set(said) <= set(asked):
        return " or " in f" {' '.join(asked)} "  # "Is it red or blue?" is answered by an echo
    plain = GREETING.sub("", question.strip().casefold())
    for begins, words in WANTED:
        if begins.match(plain):
            return any(c.isdigit() for c in answer) or bool(words & set(said))
    if plain.startswith(("who ", "whose ", "where ")):
        return any(c.isalpha() for c in answer)
    return True


def asked_words(question: str) -> set[str]:
    """The stems of a question's words, those left out that say nothing in its language."""
    return stems(question) - _all_stemmed(stopped_in(question))


@cache
def _all_stemmed(words: frozenset[str]) -> frozenset[str]:
    """Of a language's list: once, and not for each answer."""
    return frozenset(map(stemmed, words))


def evidence(texts: Sequence[str], question: str, answer: str) -> float:
    """The share of what is asked that stands beside the answer, in the best two neighbouring sentences of these texts;
    0..1, 0 where the answer's words stand nowhere. A word that stands in few sentences weighs more."""
    said = normalise(answer)
    asked = asked_words(question) - stems(answer)
    if not said:
        return 0.0
    parts = chain.from_iterable(map(SENTENCE_END.split, texts))
    sentences = list(filter(None, map(normalise, parts)))
    asked_here = [asked.intersection(map(stemmed, words)) for words in sentences]
    count = Counter(chain.from_iterable(asked_here))
    weight = {word: 1 / (1 + count[word]) for word in asked}
    whole = math.fsum(weight.values())  # exactly: the order of a set is another one in each process
    best = 0.0
    for start in range(len(sentences)):
        window = list(chain.from_iterable(sentences[start : start + WINDOW_SENTENCES]))
        if in_a_row(said, window) or _holds_content(window, said):
            near = set().union(*asked_here[start : start + WINDOW_SENTENCES])
            share = math.fsum(map(weight.__getitem__, near)) / whole if whole else 1.0
            best = max(best, share)
    return best


def _holds_content(words: Sequence[str], said: Sequence[str]) -> bool:
    """Whether all content words of a longer answer stand there, in any order."""
    content = set(said) - STOP_WORDS
    return len(content) >= 3 and content <= set(words)
