"""The words of a question, of an answer, of a page: what to search for, and whether a page supports an answer."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import chain, filterfalse, pairwise
from typing import TypeVar

from core.document.language import ENGLISH, language_of, stop_words

SectionKey = TypeVar("SectionKey", bound=Hashable)  # names one

PASSAGE_SENTENCES = 4  # sentences in which an answer and the question's words must stand together
MIN_NEAR_SHARE = 0.4  # so much of the question's words, weighted by how rare they are in the document (LOG.md)
SENTENCE_END = re.compile(r"(?<=[.!?])[\"”’')\]]*\s+|\n\s*\n")
MAX_SEARCH_WORDS = 64  # of one question; more make the search slow, not better
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and Han characters: no blanks between words
NUMBER_OR_WORD = re.compile(rf"\d+(?:[.,:/]\d+)+|[{UNSPACED}]|[^\W{UNSPACED}]+")  # 3.14 and 12:30 are one word each
RUN = re.compile(rf"[{UNSPACED}]+|[^\W{UNSPACED}]+")
UNPARTED = re.compile(rf"[{UNSPACED}]+")
SEAM = re.compile(rf"(?<=[{UNSPACED}])(?=[{UNSPACED}])")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
MISSPELT_LETTERS = range(6, 25)  # of a word that is taken for another one; a longer one has too many spellings
MISSPELT_WORDS = 4  # of a question, at most
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ARTICLES = frozenset({"a", "an", "the"})
COMMON_WORDS = """
    a about above after again all also am an and any are as at be because been before being below between both but by
    can could d did do does doing don during each few for from further had has have having he her here hers him his
    how i if in into is isn it its just ll m may me might more most must my no nor not now of off on once only or
    other our out over own re s same she should so some such t than that the their them then there these they this
    those through to too under until up ve very was we were what when where which while who whom whose why will with
    would yes you your answer ask describe document explain file find found give information know list mention
    mentioned mentions name named page pdf please question read said say says sure tell text
    anybody anyone btw hello hey hi lol ok okay pls plz thank thanks thx
    """
STOP_WORDS = frozenset(COMMON_WORDS.split())  # English; of questions and of answers that say nothing, too


def search_words(question: str) -> list[str]:
    """The words to look for, each once, as written, without the stop words of the question's language unless there is
    nothing else. Where words are not parted by blanks, each two characters, as `spaced` has them."""
    runs = map(_bigrams, RUN.findall(question))
    written = list(dict.fromkeys(chain.from_iterable(runs)))
    stopped = stopped_in(question)
    telling = [word for word in written if word.casefold() not in stopped]
    return (telling or written)[:MAX_SEARCH_WORDS]


def spellings(word: str) -> list[str]:
    """The words that may be meant by one that stands nowhere: two neighbouring letters the other way round, a letter
    doubled, one left out; the first letter stays. Other mistakes make real words too often ("mayor", "manor"). None for
    short and very long words and numbers."""
    word = word.casefold()
    if len(word) not in MISSPELT_LETTERS or not word.isalpha() or UNPARTED.search(word):
        return []
    swapped, single, longer = [], [], []
    for n in range(1, len(word) + 1):
        left, right = word[:n], word[n:]
        if len(right) > 1:
            swapped.append(left + right[1] + right[0] + right[2:])
        if right[:1] == left[-1]:
            single.append(left + right[1:])
        longer += [left + letter + right for letter in LETTERS]
    others = dict.fromkeys((*swapped, *single, *longer))
    return [other for other in others if other != word and other not in STOP_WORDS]


def stopped_in(question: str) -> frozenset[str]:
    """The words that say nothing in a question's language. Blocking, as `language_of`."""
    language = language_of(question)
    return STOP_WORDS if language == ENGLISH else stop_words(language)


def _bigrams(run: str) -> list[str]:
    if not SEAM.search(run):
        return [run]
    return list(map(spaced, map("".join, pairwise(run))))


def spaced(text: str) -> str:
    """With a blank between characters of scripts that have none between words, so that each is a word to find."""
    return SEAM.sub(" ", text)


def unspaced(text: str) -> str:
    """As it was before `spaced`."""
    return re.sub(rf"(?<=[{UNSPACED}]) (?=[{UNSPACED}])", "", text)


def bm25_scores(frequencies: Mapping[str, Mapping[SectionKey, float]], total: int) -> dict[SectionKey, float]:
    """BM25 (Robertson and Zaragoza 2009) of each section, of the `total` that are searched and of no others: a word's
    rarity is that among them, as Lucene has it: it tells something among two, and never the opposite.

    Args:
        frequencies: for each word of the question the sections in which it stands, with BM25's term frequency there.
    """
    score: defaultdict[SectionKey, float] = defaultdict(float)
    for sections in frequencies.values():
        for section, frequency_there in sections.items():
            score[section] += frequency_there * math.log(1 + (total - len(sections) + 0.5) / (len(sections) + 0.5))
    return dict(score)


def frequency(bm25: float, containing: int, total: int) -> float:
    """BM25's term frequency out of FTS5's bm25() for one word that stands in `containing` of all `total` rows."""
    return -bm25 / fts5_rarity(containing, total)


def fts5_rarity(containing: int, total: int) -> float:
    """What a word that stands in `containing` of all `total` rows counts in FTS5's bm25()."""
    return max(1e-6, math.log((total - containing + 0.5) / (containing + 0.5)))


def word_shares(sections_of: Mapping[str, Collection[SectionKey]], total: int) -> dict[SectionKey, float]:
    """How much of a question's words stands in each section, 0..1; a word that stands in few of `total` weighs more.

    Args:
        sections_of: for each word of the question the sections in which it stands.
    """
    weight = {word: _weight(len(sections), total) for word, sections in sections_of.items()}
    whole = sum(weight.values())
    held: defaultdict[SectionKey, float] = defaultdict(float)
    for word, sections in sections_of.items():
        for section in sections:
            held[section] += weight[word] / whole
    return dict(held)


def terms(text: str) -> str:
    """The words that tell what a text is about, each once, sorted: enough to find it, not to read it. Where words are
    not parted by blanks, each two characters that stand together, as `search_words` looks for them."""
    words = set(filterfalse(UNPARTED.fullmatch, normalise(text))) - STOP_WORDS
    runs = UNPARTED.findall(unicodedata.normalize("NFKC", text))
    pairs = set(chain.from_iterable(map(_bigrams, runs)))
    between = " a "  # a stop word: the end of one pair and the beginning of the next are no pair
    return between.join(filter(None, (" ".join(sorted(words)), *sorted(pairs))))


def normalise(text: str) -> list[str]:
    """Its words, lower case, without articles and punctuation; 1,200 as 1200."""
    plain = THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    return list(filterfalse(ARTICLES.__contains__, NUMBER_OR_WORD.findall(plain)))


def supports(text: str, answer: str) -> bool:
    """Whether the answer's words stand in a text: as they are, or all content words (two or more) in any order."""
    return _stands_in(normalise(text), normalise(answer))


def in_a_row(wanted: Sequence[str], words: Sequence[str]) -> bool:
    """Whether the wanted words stand among these, one after the other; both as `normalise` gives them."""
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def _stands_in(text: Sequence[str], wanted: Sequence[str]) -> bool:
    content = set(wanted) - STOP_WORDS
    if not content:
        return False
    return in_a_row(wanted, text) or (len(content) >= 2 and content <= set(text))


def supporting_pages(pages: Sequence[str], answers: Sequence[str], question: str = "") -> list[list[int]]:
    """For each answer the positions of the pages that support it, 0-based: within a few sentences stand the answer and
    enough of the question's words, so that no chance find is cited. The pages are read once for all answers."""
    page_words = list(map(normalise, pages))
    asked = set(normalise(question)) - stopped_in(question)
    rarity = _rarity(set(map(stemmed, asked)), pages)

    def pages_that_support(answer: str) -> list[int]:
        wanted = normalise(answer)
        asked_stems = set(map(stemmed, asked - set(wanted)))
        enough = MIN_NEAR_SHARE * math.fsum(map(rarity.__getitem__, asked_stems))

        def supports_here(passage: str) -> bool:
            words = normalise(passage)
            shared = asked_stems.intersection(map(stemmed, words))
            return _stands_in(words, wanted) and math.fsum(map(rarity.__getitem__, shared)) >= enough

        numbers = []
        for number, words in enumerate(page_words):
            if _stands_in(words, wanted) and any(map(supports_here, _passages(pages[number]))):
                numbers.append(number)
        return numbers

    return list(map(pages_that_support, answers))


def _passages(page: str) -> list[str]:
    sentences = SENTENCE_END.split(page)
    starts = range(max(1, len(sentences) - PASSAGE_SENTENCES + 1))
    return [" ".join(sentences[start : start + PASSAGE_SENTENCES]) for start in starts]


def stemmed(word: str) -> str:
    """Opens, opened, opening: the same; so are leave and leaves."""
    if len(word) > 5:
        return word[: max(4, len(word) - 3)]
    return word[:-1] if len(word) > 3 and word[-1] in "es" and not word.endswith("ss") else word


def stems(text: str) -> set[str]:
    return set(map(stemmed, normalise(text)))


def _rarity(asked: set[str], pages: Sequence[str]) -> dict[str, float]:
    """A stem that stands in few sentences tells more."""
    sentences = list(chain.from_iterable(map(SENTENCE_END.split, pages)))
    containing: Counter[str] = Counter()
    for sentence in sentences:
        containing.update(asked & stems(sentence))
    return {stem: _weight(containing[stem], len(sentences)) for stem in asked}


def _weight(containing: int, total: int) -> float:
    return math.log(1 + total / (1 + containing))
