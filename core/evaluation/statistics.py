"""How sure a figure is. Questions of one document are alike, so documents are resampled and permuted whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

ByDocument = Sequence[Sequence[float]]  # a score for each question of each document
ROUNDS = 9_999


def bootstrap(scores: ByDocument, rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over questions, documents resampled whole; of one document its questions."""
    rng = np.random.default_rng(seed)
    units = _units(scores)
    sums, counts = np.array([sum(u) for u in units]), np.array([len(u) for u in units])
    pick = rng.integers(0, len(units), (rounds, len(units)))
    means = sums[pick].sum(1) / counts[pick].sum(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def interquartile_mean(scores: ByDocument) -> float:
    """Mean of the middle half of the documents' means (Agarwal et al. 2021): no outlier decides it."""
    means = sorted(float(np.mean(d)) for d in scores)
    cut = len(means) // 4
    return float(np.mean(means[cut : len(means) - cut]))


def compare(after: ByDocument, before: ByDocument) -> dict[str, Any]:
    """The same questions under two conditions: mean difference with its 95 % interval, p, and how large the effect is.

    p: two-sided sign-flip permutation test over documents (over questions when there is one). Cohen's d: of the paired
    differences. Cliff's delta: how much more often a score is higher after than before, -1..1.
    """
    from scipy.stats import mannwhitneyu

    difference = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(after, before, strict=True)]
    flat = np.concatenate([np.asarray(d, float) for d in difference])
    sums = np.array([sum(u) for u in _units(difference)])
    x, y = np.concatenate([*map(np.asarray, after)]), np.concatenate([*map(np.asarray, before)])
    spread = float(flat.std(ddof=1)) if len(flat) > 1 else 0.0
    return {
        "difference": round(float(flat.mean()), 2),
        "interval": [round(v, 2) for v in bootstrap(difference)],
        "p": _sign_flip(sums),
        "cohens_d": round(float(flat.mean()) / spread, 3) if spread else 0.0,
        "cliffs_delta": round(2 * float(mannwhitneyu(x, y).statistic) / (len(x) * len(y)) - 1, 3),
    }


def _sign_flip(sums: np.ndarray) -> float:
    """p of differences whose signs might as well be others. [units] -> 0..1"""
    from scipy.stats import permutation_test

    if len(sums) < 2:
        return 1.0  # proves nothing
    test = permutation_test(
        (sums, np.zeros_like(sums)), lambda x, y, axis: (x - y).sum(axis), permutation_type="samples", vectorized=True,
        n_resamples=ROUNDS, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(test.pvalue)


def _units(scores: ByDocument) -> list[Sequence[float]]:
    """What is resampled: documents, or the questions of a single one."""
    return [[x] for x in scores[0]] if len(scores) == 1 else [d for d in scores if len(d)]
