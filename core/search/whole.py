"""Questions about a document as a whole: a message with no other words than these is one, if it asks. English.

A question about something in the document names it, and a word that is not in KNOWN makes it an ordinary question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.search.ranking import is_answer
from core.search.words import normalise, supports
from core.types import Certainty, Completion, Page

GIST_QUESTION = "What is the main subject?"  # of the phrasings that were tried the surest (LOG.md)
MIN_LIKELY = 0.7  # confidence of a subject that the text supports

SUMMARY = frozenset(
    """
    summary summaries summarise summarize summarised summarized summarising summarizing summerize sumarise sumarize
    overview gist abstract outline synopsis recap tldr tl dr nutshell takeaway takeaways essence brief eli5 sum content
    contents topic topics subject subjects theme themes
    """.split()
)
ASKING = frozenset({"what", "whats", "wat", "wats", "explain", "describe", "tell", "present", "introduce"})
WHOLE = frozenset(
    """
    this that these it its document documents doc docs pdf pdfs file files paper papers text report article book story
    upload uploaded attachment thing page pages slides presentation memo letter
    """.split()
)
OTHER = frozenset(
    """
    about abt on of in for to from with up into at is are s was were be does do did done say says said tell tells
    cover covers covered contain contains contained deal deals discuss discusses discussed talk talks describe
    describes treat treats explain explains written inside find learn learned learnt read know information info main
    mainly mostly central general overall actual actually really exactly basically essentially whole entire all
    everything there here my our your new last latest one first attached please pls plz thanks thank thx you u can
    could would will me us i im id we ve ll need want like give make write show get provide post send have has had
    and or so ok okay well hi hey hello now then just again short shorter shortly quick quickly briefly little line
    sentence sentences words few simple simply concise high level rough bottom key point points idea ideas fact
    facts important purpose kind sort type which bot engram am looking look lines two three some any re d should
    must story
    """.split()
)
KNOWN = SUMMARY | ASKING | WHOLE | OTHER
# "What is it?", of what was said before
REFERRING = frozenset({"what", "whats", "is", "s", "it", "its", "that", "these", "do", "does"})
PHRASES = frozenset({"bottom line", "key facts", "key points", "main points", "main point", "main idea", "key ideas"})
MAX_QUESTION_LENGTH = 100  # characters of a question


def asks_about_whole(question: str) -> bool:
    """Whether a question, as typed, asks for what a whole document is about, and for nothing in it."""
    if len(question) > MAX_QUESTION_LENGTH:
        return False
    words = normalise(question.replace("’", " ").replace("'", " "))
    said = set(words)
    if not said or not said <= KNOWN:
        return False
    if said & SUMMARY or any(phrase in " ".join(words) for phrase in PHRASES):
        return True
    is_purpose = "for" in said and not said & {"me", "us"}  # "What is it for?"
    if said <= REFERRING or is_purpose:
        return False
    return bool(said & ASKING) and (bool(said & WHOLE) or words[-1] in ("about", "abt"))


def summed_up(answer: Completion, pages: Sequence[Page], name: str) -> tuple[Certainty, tuple[int, ...] | None]:
    """How far an answer to GIST_QUESTION can be trusted, and the first page that it stands on; None where no text is
    kept. One that neither the text nor the document's name holds is none. Reads the document: call through a thread."""
    if not is_answer(answer.text):
        return Certainty.ABSENT, ()
    if not pages:
        return Certainty.UNSURE, None
    places = [page.number for page in pages if supports(page.text, answer.text)]
    if not places and not supports(re.sub(r"[_.-]", " ", name), answer.text):
        return Certainty.ABSENT, ()
    return Certainty.LIKELY if answer.confidence >= MIN_LIKELY else Certainty.UNSURE, tuple(places[:1])
