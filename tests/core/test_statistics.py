"""Intervals, tests and effect sizes, against what is known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from core.evaluation.statistics import bootstrap, compare, interquartile_mean


def test_an_interval_holds_the_mean_and_widens_with_the_difference_between_documents() -> None:
    low, high = bootstrap([[10, 20, 30]] * 5)
    assert low == high == pytest.approx(20)
    low, high = bootstrap([[0, 0], [100, 100], [0, 0], [100, 100]])
    assert 0 <= low < 50 < high <= 100 and high - low > 50
    assert bootstrap([[0, 100] * 50])[0] > 35
    assert bootstrap([[1, 2], [3]]) == bootstrap([[1, 2], [3]])


def test_a_clustered_interval_is_wider_than_one_over_questions() -> None:
    by_document = [[100.0] * 20 if n % 2 else [0.0] * 20 for n in range(10)]
    low, high = bootstrap(by_document)
    alone, top = bootstrap([[x for d in by_document for x in d]])
    assert high - low > 2 * (top - alone)


def test_the_interval_of_many_documents_is_that_of_theory() -> None:
    rng = random.Random(0)
    scores = [[rng.gauss(50, 10)] for _ in range(400)]
    low, high = bootstrap(scores)
    assert high - low == pytest.approx(2 * 1.96 * 10 / 20, rel=0.15)


def test_the_interquartile_mean_ignores_outliers() -> None:
    assert interquartile_mean([[0.0], [40.0, 60.0], [50.0], [1000.0]]) == 50


def test_no_difference_is_not_significant_and_a_steady_one_is() -> None:
    rng = np.random.default_rng(0)
    before = [list(rng.normal(50, 10, 20)) for _ in range(12)]
    noise = [[x + e for x, e in zip(d, rng.normal(0, 5, 20), strict=True)] for d in before]
    better = [[x + 10 for x in d] for d in noise]
    assert compare(noise, before)["p"] > 0.05
    found = compare(better, before)
    assert found["p"] < 0.001 and found["interval"][0] > 5 and found["difference"] == pytest.approx(10, abs=1.5)
    assert found["cohens_d"] > 1.5 and 0.3 < found["cliffs_delta"] < 0.8


def test_the_same_scores_twice_differ_by_nothing() -> None:
    found = compare([[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0]])
    assert (found["difference"], found["p"], found["cohens_d"], found["cliffs_delta"]) == (0.0, 1.0, 0.0, 0.0)


def test_one_document_is_compared_by_its_questions() -> None:
    assert compare([[1.0] * 20], [[0.0] * 20])["p"] < 0.001
    assert compare([[1.0] * 20, [1.0]], [[0.0] * 20, [0.0]])["p"] == 0.5  # two documents prove nothing
