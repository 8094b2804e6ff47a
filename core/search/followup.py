"""Which questions cannot be understood without the ones before them. English."""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.search.words import normalise

MAX_HISTORY = 3  # earlier questions of a thread that a follow-up may refer to
PRONOUNS = """
    he she it they him her them his hers its their theirs there then this that these those here such same one ones
    """
REFERRING = frozenset(PRONOUNS.split())
CONTINUING = re.compile(r"^(?:and|but|or|also|what about|how about|what else|who else|where else|why)\b", re.IGNORECASE)
FEW_WORDS = 4  # words; "why did she leave?" is longer and refers by a pronoun


def needs_history(question: str) -> bool:
    """Whether a question refers to something that it does not name: by a pronoun, by going on, by what is left out."""
    words = normalise(question)
    if CONTINUING.match(question.strip()) and len(words) <= 2 * FEW_WORDS:
        return True
    asks_whether_there_is = words[:1] == ["there"] or "is there" in " ".join(words[:3])
    return bool(REFERRING & set(words)) and not asks_whether_there_is


def is_same_question(written: str, question: str, history: Sequence[str]) -> bool:
    """Whether a question that the model wrote can stand for the one that was asked: no longer than both together, and
    with no word of its own that is capitalised or a number."""
    known = set(normalise(" ".join([question, *history])))
    for word in re.findall(r"[^\W_]+", written)[1:]:
        is_name_or_number = word[0].isupper() or word[0].isdigit()
        if is_name_or_number and word.casefold() not in known:
            return False
    return bool(written.strip()) and len(written.split()) <= len(question.split()) + 16
