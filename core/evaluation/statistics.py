"""How sure a figure is. Questions of one document are alike, so documents are resampled and permuted whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

ByDocument = Sequence[Sequence[float]]  # a score for each question of each document
ROUNDS = 9_999


def bootstrap(scores: ByDocument, rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over questions, documents resampled whole; of one document its questions."""
    rng = np.random.default_rng(seed)
    units = _units(scores)
    sums, counts = np.array(list(map(sum, units))), np.array(list(map(len, units)))
    pick = rng.integers(0, len(units), (rounds, len(units)))
    means = sums[pick].sum(1) / counts[pick].sum(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def interval(scores: ByDocument) -> list[float]:
    """The same interval, rounded as it is reported."""
    return [round(value, 2) for value in bootstrap(scores)]


def paired_differences(after: ByDocument, before: ByDocument) -> list[list[float]]:
    """after - before for each question of each document."""
    differences = []
    for new, old in zip(after, before, strict=True):
        differences.append(np.subtract(new, old).tolist())
    return differences


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

    differences = paired_differences(after, before)
    flat = np.array(list(chain.from_iterable(differences)), float)
    mean = float(flat.mean())
    deviation = float(flat.std(ddof=1)) if len(flat) > 1 else 0.0
    x, y = list(chain.from_iterable(after)), list(chain.from_iterable(before))
    u = float(mannwhitneyu(x, y).statistic)
    return {
        "difference": round(mean, 2),
        "interval": interval(differences),
        "p": _sign_flip(np.array(list(map(sum, _units(differences))))),
        "cohens_d": round(mean / deviation, 3) if deviation else 0.0,
        "cliffs_delta": round(2 * u / (len(x) * len(y)) - 1, 3),
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
    if len(scores) == 1:
        return [[score] for score in scores[0]]
    return list(filter(len, scores))
