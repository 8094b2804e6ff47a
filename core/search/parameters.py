"""The fitted numbers of the search: how sections are chosen, whether one answers, how far its answer is trusted.

They fit one preparation of one model, and are stored beside it; `python -m core.evaluation.fit_search` fits those of
another. Without such a file the defaults count. The unit of a score is that of BM25; a confidence is the mean
probability of an answer's tokens, 0..1; odds are natural logarithms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

RANKING = "ranking.json"  # beside a model's preparation

# Headings in core/evaluation/LOG.md
SEARCH_HEAD = "2026-11-26 · A search head: which section a question is about"
WHICH_SECTION = "2026-11-25 · Which section's weights answer: the search's score counts"
DOUBT = "2026-11-25 · Questions that a document does not answer, doubt at the gate, rarity within a channel"
ONE_MORE_STAGE = (
    "2026-11-26 · One more stage in one soup, the gate again, what the search can know, every ingredient on a GPU"
)
LIKELY = "2026-11-29 · Which answers are called likely"
WORDS = "2026-11-30 · A longer answer has more words that may be wrong"


def fitted(value: float, entry: str) -> Any:
    """A field with the heading of the log entry that its default comes from."""
    return field(default=value, metadata={"entry": entry})


@dataclass(frozen=True, kw_only=True)
class RankingParameters:
    """Every number of `core.search.ranking` that was fitted to answers. Each names its entry in the log."""

    # Which sections are asked
    closeness_weight: float = fitted(3.0, SEARCH_HEAD)  # score of a cosine of 1 of a question's token of weight 1
    reranked_chunks: int = fitted(30, ONE_MORE_STAGE)  # the best by their words, whose closeness is computed
    considered_chunks: int = fitted(10, SEARCH_HEAD)  # the best of those, whose sections may be asked
    score_margin: float = fitted(3.0, SEARCH_HEAD)  # a section is asked whose score is this close to the best one's
    max_sections: int = fitted(3, WHICH_SECTION)  # that are asked
    thread_margin: float = fitted(4.0, SEARCH_HEAD)  # a thread's document is left for one whose score is higher by this

    # Which of their answers is given: the highest log confidence with what the score and the text add, in nats
    score_weight: float = fitted(0.4, SEARCH_HEAD)  # for each unit of score
    support_weight: float = fitted(2.0, DOUBT)  # when the text supports the answer

    # Whether the section is about the question: its share of the question's words against a bar
    gate_share: float = fitted(0.25, ONE_MORE_STAGE)  # the bar for a sure answer from the only chunk
    gate_doubt: float = fitted(0.3, ONE_MORE_STAGE)  # added to the bar at confidence 0, less in proportion above
    gate_size: float = fitted(0.01, ONE_MORE_STAGE)  # for each e-fold of chunks: the best of many holds more words
    gate_support: float = fitted(9.0, DOUBT)  # added to the share when the text supports the answer
    gate_odds: float = fitted(0.2, SEARCH_HEAD)  # added to the share for each nat of odds by closeness ...
    gate_usual_odds: float = fitted(-0.6, SEARCH_HEAD)  # ... above these

    # How far an answer is trusted
    min_evidence: float = fitted(0.5, LIKELY)  # share of what is asked that stands beside the answer, to support it
    likely_confidence: float = fitted(0.7, WORDS)  # that all words are right, from which a supported answer is likely
    absent_confidence: float = fitted(0.8, LIKELY)  # below which an answer that stands nowhere in the text is none
    absent_words: int = fitted(12, LIKELY)  # of an answer that must stand in the text; a longer one has its own words


def load_parameters(folder: Path | None) -> RankingParameters:
    """Those of a preparation; the defaults where none were fitted to it. Raises: ValueError, for an unknown name."""
    path = folder / RANKING if folder else None
    if path is None or not path.exists():
        return RankingParameters()
    values: Mapping[str, Any] = json.loads(path.read_text())["parameters"]
    if unknown := set(values) - {f.name for f in fields(RankingParameters)}:
        raise ValueError(f"{path} sets '{min(unknown)}', which is no parameter of the ranking.")
    return RankingParameters(**values)
