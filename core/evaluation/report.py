"""From answers to figures: scores, intervals, tests, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from core.evaluation.journal import Reply
from core.evaluation.statistics import ByDocument, bootstrap, compare, interquartile_mean
from core.squad import Article, exact_match, f1

COMPARED = (  # what the tests are about: does the first differ from the second?
    ("learned", "base"),
    ("wrong_document", "base"),
    ("learned", "in_context"),
    ("learned", "document"),
    ("both", "retrieval"),
    ("unrelated", "in_context"),
)
RIGHT = 50.0  # percent F1 from which an answer counts as right in "gained" and "lost"


def report(articles: Sequence[Article], replies: Mapping[str, Sequence[Sequence[Reply]]]) -> dict[str, Any]:
    """Figures in percent. replies: by condition, for each question of each article."""
    matches = {c: [_scores(exact_match, *pair) for pair in zip(r, articles, strict=True)] for c, r in replies.items()}
    scores = {c: [_scores(f1, *pair) for pair in zip(r, articles, strict=True)] for c, r in replies.items()}
    tests = find_spec("scipy") is not None  # a training machine may lack it; the figures do without
    pairs = [(a, b) for a, b in COMPARED if tests and a in scores and b in scores]
    lost = {"closed_book": ("base", "elsewhere"), "in_context": ("in_context", "unrelated")}
    return {
        "conditions": {c: _figures(matches[c], scores[c], scores.get("base")) | _costs(r) for c, r in replies.items()},
        "comparisons": {f"{a} - {b}": compare(scores[a], scores[b]) for a, b in pairs},
        "unrelated": {
            name: share_lost(scores[a], scores[b]) for name, (a, b) in lost.items() if a in scores and b in scores
        },
    }


def f1_scores(replies: Iterable[Reply], article: Article) -> list[float]:
    """Percent, for each question of an article."""
    return _scores(f1, replies, article)


def mean(scores: ByDocument) -> float:
    flat = list(chain.from_iterable(scores))
    return round(sum(flat) / max(1, len(flat)), 2)


def share_lost(before: ByDocument, after: ByDocument) -> dict[str, float]:
    """Of what was right before, the percentage that is not after."""
    right = sum(x >= RIGHT for x in chain.from_iterable(before))
    return {"right": right, "lost": round(100 * _became_right(after, before) / max(1, right), 2)}


def _scores(score: Any, replies: Iterable[Reply], article: Article) -> list[float]:
    return [100 * score(r.text, q.answers) for r, q in zip(replies, article.questions, strict=True)]


def _figures(matches: ByDocument, scores: ByDocument, base: ByDocument | None) -> dict[str, Any]:
    figures: dict[str, Any] = {"em": mean(matches), "f1": mean(scores)}
    figures["em_interval"], figures["f1_interval"] = ([round(v, 2) for v in bootstrap(x)] for x in (matches, scores))
    figures["f1_interquartile_mean"] = round(interquartile_mean(scores), 2)
    if base is not None:
        figures |= {"gained": _became_right(base, scores), "lost": _became_right(scores, base)}
    return figures


def _costs(replies: Sequence[Sequence[Reply]]) -> dict[str, float]:
    flat = list(chain.from_iterable(replies))
    return {
        "seconds_a_question": sum(r.seconds for r in flat) / len(flat),
        "prompt_tokens": sum(r.prompt_tokens for r in flat) / len(flat),
        "by_weights": 100 * sum(r.document is not None for r in flat) / len(flat),  # percent that weights answered
    }


def _became_right(before: ByDocument, after: ByDocument) -> int:
    pairs = zip(chain.from_iterable(before), chain.from_iterable(after), strict=True)
    return sum(x < RIGHT <= y for x, y in pairs)


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
