"""Several answers to one question, and the one that most of them agree on (self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import attrgetter

from core.squad import f1, normalise_answer
from core.types import Completion

MIN_ALIKE_F1 = 0.75  # F1 from which two answers are the same vote
TEMPERATURE = 0.7  # of votes for which there is no other wording


def ballots(question: str, votes: int) -> list[tuple[str, float]]:
    """Ways of asking, each with its temperature: the question as it is, then in other words by rule, then sampled."""
    worded = list(dict.fromkeys([question, *paraphrases(question)]))
    sampled = [(question, TEMPERATURE)] * (votes - len(worded))
    return [*zip(worded[:votes], repeat(0.0), strict=False), *sampled]


def paraphrases(question: str) -> list[str]:
    """Small changes that leave the meaning as it is."""
    bare = question.strip().rstrip("?").strip()
    small = bare[:1].lower() + bare[1:]
    return [f"{small}?", f"According to the text, {small}?", bare, f"Can you tell me {small}?"]


def vote(answers: Sequence[Completion]) -> Completion:
    """The answer with the most confidence behind it, every vote weighed by its own; of alike answers the surest. Its
    confidence is the share of all votes that it got, so weighed: agreement."""

    def support(answer: Completion) -> tuple[float, float]:
        agreeing = sum(other.confidence for other in answers if alike(answer, other))
        return agreeing, answer.confidence

    best = max(answers, key=support)
    agreeing = [answer for answer in answers if alike(answer, best)]
    surest = max(agreeing, key=attrgetter("confidence"))
    agreement = sum(answer.confidence for answer in agreeing) / len(answers)
    return Completion(surest.text, surest.tokens, max(answer.seconds for answer in answers), agreement)


def alike(a: Completion, b: Completion) -> bool:
    return normalise_answer(a.text) == normalise_answer(b.text) or f1(a.text, [b.text]) >= MIN_ALIKE_F1
