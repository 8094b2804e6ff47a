"""SQuAD: question sets in its format, each article a document; exact match and F1 with the normalisation of its
official script (Rajpurkar et al. 2016)."""

from __future__ import annotations

import gzip
import json
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.document.text import one_line
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
        return [_article(article, number, unanswered) for number, article in enumerate(data, start=1)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"'{path.name}' is not a question set in SQuAD's format.") from error


def _article(data: Mapping[str, Any], number: int, unanswered: bool) -> Article:
    questions = []
    for paragraph in data["paragraphs"]:
        for asked in paragraph["qas"]:
            answers = tuple(dict.fromkeys(answer["text"] for answer in asked.get("answers") or ()))
            if answers or unanswered:
                questions.append(Question(asked["question"], answers, paragraph["context"]))
    paragraphs = dict.fromkeys(paragraph["context"] for paragraph in data["paragraphs"])
    return Article(data.get("title") or f"document {number}", tuple(paragraphs), tuple(questions))


def normalise_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    text = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION))
    return one_line(text)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 when the prediction equals one of the answers after normalisation."""
    return float(normalise_answer(prediction) in map(normalise_answer, answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Token F1 against the best of the answers, 0..1. Two empty texts match, as in the official script."""
    predicted = normalise_answer(prediction).split()
    return max((_f1(predicted, normalise_answer(answer).split()) for answer in answers), default=0.0)


def _f1(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted))
