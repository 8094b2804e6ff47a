"""The words of a question, of an answer, of a page: what to search for, and whether a page bears an answer out."""

from __future__ import annotations

import re
import unicodedata

MAX_SEARCH_WORDS = 64  # of one question; more make the search slow, not better
NUMBER_OR_WORD = re.compile(r"\d+(?:[.,:/]\d+)+|\w+")  # 3.14 and 12:30 are one word each
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
ARTICLES = frozenset({"a", "an", "the"})
COMMON = """
    a about above after again all also am an and any are as at be because been before being below between both but by
    can could d did do does doing don during each few for from further had has have having he her here hers him his
    how i if in into is isn it its just ll m may me might more most must my no nor not now of off on once only or
    other our out over own re s same she should so some such t than that the their them then there these they this
    those through to too under until up ve very was we were what when where which while who whom whose why will with
    would yes you your answer ask describe document explain file find found give information know list mention
    mentioned mentions name named page pdf please question read said say says sure tell text
    """
STOP_WORDS = frozenset(COMMON.split())  # English; of questions and of answers that say nothing, too


def search_words(question: str) -> list[str]:
    """The words to look for, each once, as written. Stop words only when there is nothing else."""
    written = list(dict.fromkeys(re.findall(r"\w+", question)))
    return ([word for word in written if word.casefold() not in STOP_WORDS] or written)[:MAX_SEARCH_WORDS]


def match_expression(question: str) -> str:
    """An FTS5 expression of quoted words only, so that no question is a syntax error. No words match nothing."""
    return " OR ".join('"' + word + '"' for word in search_words(question) or [""])


def normalise(text: str) -> list[str]:
    """Its words, lower case, without articles and punctuation; 1,200 as 1200."""
    plain = THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    return [word for word in NUMBER_OR_WORD.findall(plain) if word not in ARTICLES]


def supports(page: str, answer: str) -> bool:
    """Whether the answer's words stand on the page: as they are, or all content words (two or more) in any order."""
    found, wanted = normalise(page), normalise(answer)
    content = set(wanted) - STOP_WORDS
    if not content:
        return False
    as_written = f" {' '.join(wanted)} " in f" {' '.join(found)} "
    return as_written or (len(content) >= 2 and content <= set(found))
