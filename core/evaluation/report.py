"""From answers to figures: scores, intervals, tests, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from core.evaluation.journal import RecordedReply
from core.evaluation.statistics import ByDocument, compare, interquartile_mean, interval
from core.squad import Article, exact_match, f1

COMPARED = (  # what the tests are about: does the first differ from the second?
    ("learned", "base"),
    ("wrong_document", "base"),
    ("learned", "in_context"),
    ("learned", "document"),
    ("both", "retrieval"),
    ("unrelated", "in_context"),
)
RIGHT_F1 = 50.0  # percent, from which an answer counts as right in "gained" and "lost"
CLOSED_BOOK, IN_CONTEXT = ("base", "elsewhere"), ("in_context", "unrelated")  # before and after learning another text


def report(articles: Sequence[Article], replies: Mapping[str, Sequence[Sequence[RecordedReply]]]) -> dict[str, Any]:
    """Figures in percent. replies: by condition, for each question of each article."""
    f1s = {condition: _scores(f1, rows, articles) for condition, rows in replies.items()}
    conditions = {}
    for condition, rows in replies.items():
        matches = _scores(exact_match, rows, articles)
        conditions[condition] = _figures(matches, f1s[condition], f1s.get("base")) | _costs(rows)
    comparisons = {}
    if find_spec("scipy"):  # a training machine may lack it; the figures do without
        for first, second in COMPARED:
            if first in f1s and second in f1s:
                comparisons[f"{first} - {second}"] = compare(f1s[first], f1s[second])
    unrelated = {}
    for name, (before, after) in {"closed_book": CLOSED_BOOK, "in_context": IN_CONTEXT}.items():
        if before in f1s and after in f1s:
            unrelated[name] = share_lost(f1s[before], f1s[after])
    return {"conditions": conditions, "comparisons": comparisons, "unrelated": unrelated}


def f1_scores(replies: Iterable[RecordedReply], article: Article) -> list[float]:
    """Percent, for each question of an article."""
    return _article_scores(f1, replies, article)


def mean(scores: ByDocument) -> float:
    flat = list(chain.from_iterable(scores))
    return round(sum(flat) / max(1, len(flat)), 2)


def share_lost(before: ByDocument, after: ByDocument) -> dict[str, float]:
    """Of what was right before, the percentage that is not after."""
    right = sum(score >= RIGHT_F1 for score in chain.from_iterable(before))
    return {"right": right, "lost": round(100 * _became_right(after, before) / max(1, right), 2)}


def _scores(score: Any, replies: Sequence[Sequence[RecordedReply]], articles: Sequence[Article]) -> list[list[float]]:
    return [_article_scores(score, *pair) for pair in zip(replies, articles, strict=True)]


def _article_scores(score: Any, replies: Iterable[RecordedReply], article: Article) -> list[float]:
    scores = []
    for reply, question in zip(replies, article.questions, strict=True):
        scores.append(100 * score(reply.text, question.answers))
    return scores


def _figures(matches: ByDocument, f1s: ByDocument, base: ByDocument | None) -> dict[str, Any]:
    figures = {
        "em": mean(matches),
        "f1": mean(f1s),
        "em_interval": interval(matches),
        "f1_interval": interval(f1s),
        "f1_interquartile_mean": round(interquartile_mean(f1s), 2),
    }
    if base is not None:
        figures |= {"gained": _became_right(base, f1s), "lost": _became_right(f1s, base)}
    return figures


def _costs(replies: Sequence[Sequence[RecordedReply]]) -> dict[str, float]:
    flat = list(chain.from_iterable(replies))
    by_weights = sum(reply.document is not None for reply in flat)
    return {
        "seconds_a_question": fmean(map(attrgetter("seconds"), flat)),
        "prompt_tokens": fmean(map(attrgetter("prompt_tokens"), flat)),
        "by_weights": 100 * by_weights / len(flat),  # percent that weights answered
    }


def _became_right(before: ByDocument, after: ByDocument) -> int:
    pairs = zip(chain.from_iterable(before), chain.from_iterable(after), strict=True)
    return sum(old < RIGHT_F1 <= new for old, new in pairs)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Quality against seconds a question, with the intervals; the format is the file's ending."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, c in result["conditions"].items():
        low, high = c["f1_interval"]
        axes.errorbar(c["seconds_a_question"], c["f1"], [[c["f1"] - low], [high - c["f1"]]], fmt="o", capsize=3)
        place = (c["seconds_a_question"], c["f1"])
        axes.annotate(name.replace("_", " "), place, (6, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="seconds a question", ylabel="F1, % (95 % interval)", ylim=(0, None))
    axes.set_title(f"{result['model']}: {result['documents']} documents, {result['questions']} questions", loc="left")
    axes.grid(alpha=0.3)
    figure.savefig(path)
    pyplot.close(figure)
