"""Question sets in SQuAD's format: each article is a document."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from core.errors import Refused


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


def read_squad(path: Path) -> list[Article]:
    """SQuAD v1.1 or v2.0 JSON, plain or gzipped; questions without an answer are left out. Raises: Refused."""
    try:
        data = json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text())["data"]
        return [
            Article(
                a.get("title") or f"document {n + 1}",
                tuple(dict.fromkeys(p["context"] for p in a["paragraphs"])),
                tuple(
                    Question(q["question"], tuple(dict.fromkeys(x["text"] for x in q["answers"])), p["context"])
                    for p in a["paragraphs"] for q in p["qas"] if q.get("answers")
                ),
            )
            for n, a in enumerate(data)
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"'{path.name}' is not a question set in SQuAD's format.") from error
