"""The same text about other people, places, numbers and things, so that no question can be answered by heart.

People's questions are few (46 k): seen twenty times, their answers are known without the text. Words of a document are
put in place of others, the same ones in its text, its questions and its answers, anew each time (entity substitution,
Longpre et al. 2021, "Entity-Based Knowledge Conflicts in Question Answering").
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from core.prepare.questions import FUNCTION, MONTHS, NAME, QA, kind_of
from core.search.words import STOP_WORDS

WORD = re.compile(r"[^\W_]+")
NAMED = re.compile(r"(?<=[a-z0-9,;:(\"“] )[A-Z][^\W\d_]+")  # capitalised, not at the beginning of a sentence
KEPT = STOP_WORDS | FUNCTION | {month.lower() for month in MONTHS.split("|")}
ENDINGS = ("ing", "ed", "ly", "s")


class Words:
    """Words to put in place of others of their kind: of a person, of a place, of a thing; counted, done, being done.

    Args:
        kinds: of capitalised words.
        small: words in lower case.
    """

    def __init__(self, kinds: Mapping[str, str], small: Iterable[str]) -> None:
        self.kinds, self.small = dict(kinds), sorted(small)
        self.of_kind: defaultdict[str, list[str]] = defaultdict(list)
        for word in sorted([*self.kinds, *self.small]):
            self.of_kind[self._kind(word)].append(word)

    @classmethod
    def gathered(cls, texts: Iterable[str], answers: Iterable[str]) -> Words:
        """Names of texts, words of answers."""
        votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            for name in NAME.finditer(text):
                kind = kind_of(name.group(), text[max(0, name.start() - 20) : name.start()])
                for word in WORD.findall(name.group()):
                    if word[0].isupper() and not word.isupper() and _changes(word):
                        votes[word][kind] += 1
        kinds = {word: counts.most_common(1)[0][0] for word, counts in votes.items() if len(word) > 3}
        small: set[str] = set()
        for answer in answers:
            small.update(word for word in WORD.findall(answer) if word.islower() and _changes(word))
        return cls(kinds, small)

    def other(self, word: str, rng: random.Random) -> str:
        """Another word of this kind; the word itself where there is none. Years become years."""
        if word.isdigit():
            if len(word) == 4 and word[0] in "12":
                return str(rng.randint(1200, 2025))
            return str(rng.randint(1, 9)) + "".join(str(rng.randint(0, 9)) for _ in word[1:])
        alike = self.of_kind[self._kind(word)]
        for other in rng.sample(alike, min(2, len(alike))):
            if other != word:
                return other
        return word

    def _kind(self, word: str) -> str:
        if word[0].isupper():
            return self.kinds.get(word, "what")
        return next(filter(word.endswith, ENDINGS), "")


def swapped(
    title: str,
    text: str,
    questions: Sequence[QA],
    words: Words,
    rng: random.Random,
    *,
    names: float = 0.8,
    things: float = 0.4,
) -> tuple[str, str, list[QA]]:
    """Names and numbers (`names`: the share of them) and content words of answers (`things`) as others, everywhere."""
    picked: set[str] = set()
    for name in (*NAMED.findall(text), *filter(str.isdigit, WORD.findall(text))):
        if rng.random() < names:
            picked.add(name)
    for q in questions:
        for word in filter(str.islower, WORD.findall(q.answer)):
            if rng.random() < things:
                picked.add(word)
    becomes = {word.lower(): words.other(word, rng) for word in sorted(picked) if _changes(word)}

    def other(match: re.Match[str]) -> str:
        """In the case of the word that it replaces."""
        word = match.group()
        new = becomes.get(word.lower())
        if new is None:
            return word
        if word.islower():
            return new.lower()
        return new if new[0].isupper() else new.capitalize()

    def replaced(line: str) -> str:
        return WORD.sub(other, line)

    return replaced(title), replaced(text), [QA(*map(replaced, q)) for q in questions]


def _changes(word: str) -> bool:
    return word.isdigit() or (len(word) > 2 and word.lower() not in KEPT)
