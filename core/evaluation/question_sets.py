"""What the measurements read of question sets in SQuAD's format."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from core.squad import Article, Question, read_squad


def asked_articles(path: Path, most: int | None = None, *, unanswered: bool = False) -> list[Article]:
    """The first articles that are asked about, at most so many. unanswered: as for `read_squad`. Raises: Refused."""
    return [article for article in read_squad(path, unanswered=unanswered) if article.questions][:most]


def read_questions(path: Path) -> list[Question]:
    """All questions that have answers. Raises: Refused."""
    return list(chain.from_iterable(article.questions for article in read_squad(path)))
