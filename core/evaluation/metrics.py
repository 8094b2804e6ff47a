"""Exact match and F1 with the normalisation of SQuAD's official script (Rajpurkar et al. 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    text = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION))
    return " ".join(text.split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 when the prediction equals one of the answers after normalisation."""
    return float(any(normalise(prediction) == normalise(a) for a in answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Token F1 against the best of the answers, 0..1. Two empty texts match, as in the official script."""
    return max((_f1(normalise(prediction).split(), normalise(a).split()) for a in answers), default=0.0)


def _f1(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted))
