"""Questions by rule whose answer is a list: "She kept goats, geese and bees." -> "What did she keep?"

The rules of `core.prepare.questions` ask for one thing at a time; people ask for all of them ("Which ports ...", "List
the members."). A list stands after a word that announces it, after a verb, or before one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from core.prepare.questions import NO_SUBJECT, QA, base_form, sentences, spelled_out

NO_ITEM = "in|on|at|to|by|for|with|from|during|who|which|that|when|after|before|while|and|or|but|as|is|are|was|were|it"
WORD = rf"(?!(?:{NO_ITEM})\b)[\w'’.&/-]*[\w’%]"
ITEM = rf"{WORD}(?: {WORD}){{0,4}}"
LIST = rf"(?P<list>{ITEM}(?:, {ITEM}){{1,5}},? (?:and|or) {ITEM})(?=[,;:.]|$| (?:{NO_ITEM})\b)"
NOUNS = r"(?P<noun>(?:[a-z-]{3,} )?[a-z]{3,}s)"
HOLDS = "includes?|included|comprises?|comprised|contains?|contained|consists? of|consisted of|covers?|covered"
SUBJECT = r"(?P<subject>[A-Z][^,;:]{2,60}?)"
NAMED = re.compile(rf"\b{NOUNS},? (?:such as|including|like|namely|:) {LIST}")
HELD = re.compile(rf"^{SUBJECT} (?P<verb>{HOLDS}) {LIST}")
ARE = re.compile(rf"^{SUBJECT} (?P<verb>are|were) {LIST}")
DONE = re.compile(rf"^{SUBJECT} (?P<verb>[a-z]+) {LIST}")
DOERS = re.compile(rf"^{LIST} (?P<verb>are|were|have|had|[a-z]+ed) (?P<rest>[a-z][^,;:]{{3,60}})$")
NO_NOUN = ("is", "was", "has", "does", "this", "his", "its", "others", "things", "years", "times")
NO_DOER = (*NO_SUBJECT, "With", "For", "If", "Since", "While", "Though", "Because", "Like", "Unlike", "Despite", "No")
LONGEST = 14  # words of a list
BULLETS = ("- ", "• ", "* ", "")


def ask_lists(sentence: str, title: str, rng: random.Random) -> list[QA]:
    """Questions that a list in the sentence answers, each of another form; their answers stand in it."""
    s = spelled_out(sentence, title)
    if not s:
        return []
    asked = []
    for question, answer in _questions(s, rng):
        if 3 <= len(answer.split()) <= LONGEST and answer.lower() not in question.lower() and answer in sentence:
            asked.append(QA(question, answer))
    return asked


def _questions(s: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    if named := NAMED.search(s):
        noun = named["noun"]
        if noun.split()[-1] not in NO_NOUN:
            forms: tuple[str, ...] = (
                f"Which {noun} are named?", f"List the {noun}.", f"What {noun} are mentioned?", f"Name the {noun}.",
                f"Which {noun} does it name?", f"What are the {noun}?",
            )  # fmt: skip
            yield rng.choice(forms), named["list"]
    if held := HELD.match(s):
        subject, verb = _lower_article(held["subject"]), held["verb"]
        first = verb.partition(" ")[0]
        aux = "did" if first.endswith("ed") else "does" if first.endswith("s") else "do"
        forms = (f"What {aux} {subject} {_infinitive(verb)}?", f"List what {subject} {verb}.")
        yield rng.choice(forms), held["list"]
    elif are := ARE.match(s):
        subject, verb = _lower_article(are["subject"]), are["verb"]
        forms = (f"What {verb} {subject}?", f"Name {subject}.", f"List {subject}.", f"Which {verb} {subject}?")
        yield rng.choice(forms), are["list"]
    elif (done := DONE.match(s)) and (lemma := base_form(done["verb"])):
        subject = _lower_article(done["subject"])
        forms = (f"What did {subject} {lemma}?", f"List what {subject} {done['verb']}.")
        yield rng.choice(forms), done["list"]
    elif (doers := DOERS.match(s)) and doers["list"].partition(" ")[0].rstrip(",") not in NO_DOER:
        word = "Who" if doers["list"].istitle() else "What"
        yield f"{word} {doers['verb']} {doers['rest']}?", doers["list"]


def _infinitive(verb: str) -> str:
    """Of one of HOLDS: "consists of" -> "consist of"."""
    first, _, rest = verb.partition(" ")
    lemma = base_form(first) if first.endswith("ed") else first.removesuffix("s")
    return f"{lemma} {rest}".strip()


def _lower_article(subject: str) -> str:
    first, _, rest = subject.partition(" ")
    return f"{first.lower()} {rest}" if first in ("The", "A", "An", "Its", "Their", "Some", "Other") else subject


def items(answer: str) -> list[str]:
    """ "goats, geese and bees" -> its three items."""
    return list(filter(None, re.split(r",? (?:and|or) |, ", answer)))


def stands_in(answer: str, text: str) -> bool:
    """Whether the text has the answer, or each item of a list, as bullets do."""
    parts = items(answer)
    return answer in text or (len(parts) >= 3 and all(item in text for item in parts))


def without_single_items(questions: Sequence[QA], lists: Sequence[QA]) -> list[QA]:
    """The questions without those that ask "what" and are answered by one item of a list alone."""
    parts: set[str] = set()
    for q in lists:
        parts.update(items(q.answer))
    return [q for q in questions if q.answer not in parts or q.question.startswith(("Where", "When", "How", "In"))]


def lists_of(paragraph: str, title: str, rng: random.Random) -> list[QA]:
    """Questions for the lists of a paragraph."""
    asked = []
    for sentence in sentences(paragraph):
        asked += ask_lists(sentence, title, rng)
    return asked


def as_bullets(paragraph: str, answer: str, rng: random.Random) -> str:
    """The paragraph with a list that ends a sentence as lines of its own."""
    bullet = rng.choice(BULLETS)
    before, listed, after = paragraph.partition(f" {answer}.")
    if not listed:
        return paragraph
    lines = [f"{before}:", *(bullet + item for item in items(answer)), after.strip()]
    return "\n".join(filter(None, lines))
