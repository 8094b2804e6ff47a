"""Several answers to one question, and the one that most of them agree on (self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.squad import f1, normalise
from core.types import Completion

ALIKE = 0.75  # F1 from which two answers are the same vote
WARMTH = 0.7  # temperature of votes for which there is no other wording


@dataclass(frozen=True)
class Ballot:
    """One way of asking."""

    question: str
    temperature: float = 0.0


def ballots(question: str, votes: int) -> list[Ballot]:
    """The question as it is, then in other words by rule, then sampled."""
    worded = list(dict.fromkeys([question, *paraphrases(question)]))
    return [Ballot(q) for q in worded[:votes]] + [Ballot(question, WARMTH)] * (votes - len(worded))


def paraphrases(question: str) -> list[str]:
    """Small changes that leave the meaning as it is."""
    bare = question.strip().rstrip("?").strip()
    small = bare[:1].lower() + bare[1:]
    return [f"{small}?", f"According to the text, {small}?", bare, f"Can you tell me {small}?"]


def vote(answers: Sequence[Completion]) -> Completion:
    """The answer with the most confidence behind it, every vote weighed by its own; of alike answers the surest. Its
    confidence is the share of all votes that it got, so weighed: agreement."""
    best = max(answers, key=lambda a: (sum(b.confidence for b in answers if alike(a, b)), a.confidence))
    behind = [a for a in answers if alike(a, best)]
    said = max(behind, key=lambda a: a.confidence)
    agreement = sum(a.confidence for a in behind) / len(answers)
    return Completion(said.text, said.tokens, max(a.seconds for a in answers), agreement)


def alike(a: Completion, b: Completion) -> bool:
    return normalise(a.text) == normalise(b.text) or f1(a.text, [b.text]) >= ALIKE
