"""SQuAD: question sets in its format, each article a document; exact match and F1 with the normalisation of its
official script (Rajpurkar et al. 2016)."""

from __future__ import annotations

import gzip
import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Refused

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Question:
    text: str
    answers: tuple[str, ...]
    context: str  # the gold paragraph


@dataclass(frozen=True)
class Article:
    title: str
    text: tuple[str, ...]  # paragraphs, each once
    questions: tuple[Question, ...]


def read_squad(path: Path, *, unanswered: bool = False) -> list[Article]:
    """SQuAD v1.1 or v2.0 JSON, plain or gzipped. unanswered: also questions without an answer. Raises: Refused."""
    try:
        data = json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text())["data"]
        return [
            Article(
                a.get("title") or f"document {n + 1}",
                tuple(dict.fromkeys(p["context"] for p in a["paragraphs"])),
                tuple(
                    Question(q["question"], tuple(dict.fromkeys(x["text"] for x in q.get("answers", []))), p["context"])
                    for p in a["paragraphs"] for q in p["qas"] if unanswered or q.get("answers")
                ),
            )
            for n, a in enumerate(data)
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"'{path.name}' is not a question set in SQuAD's format.") from error


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
