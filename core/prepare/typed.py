"""Questions as people type them: without a question mark, in lower case, with a greeting, a typo, an emoji."""

from __future__ import annotations

import random
from collections.abc import Callable

GREETINGS = ("hi, ", "Hello! ", "hey ", "Hi there, ", "ok, ", "please tell me: ", "quick question: ", "so ", "hm, ")
THANKS = (" thanks", " Thanks!", " please", " thank you", " pls", " 🙏", " 🤔", " :)", "??", " ?", "...")


def as_typed(question: str, rng: random.Random) -> str:
    """The same question with one or two of the changes; never empty."""
    for change in rng.sample(CHANGES, rng.choice((1, 1, 2))):
        question = change(question, rng)
    return question.strip() or "?"


def _mistyped(question: str, rng: random.Random) -> str:
    """One long word with two neighbouring letters swapped, or one left out."""
    words = question.split(" ")
    places = [n for n, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if not places:
        return question
    place = rng.choice(places)
    word = words[place]
    cut = rng.randrange(1, len(word) - 2)
    swapped = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    words[place] = swapped if rng.random() < 0.5 else word[:cut] + word[cut + 1 :]
    return " ".join(words)


CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    lambda question, rng: question.rstrip(" ?.!"),
    lambda question, rng: question.lower(),
    lambda question, rng: rng.choice(GREETINGS) + question,
    lambda question, rng: question.rstrip(" ?") + rng.choice(("?", "")) + rng.choice(THANKS),
    _mistyped,
    lambda question, rng: question.upper() if rng.random() < 0.3 else question[:1].lower() + question[1:],
)
