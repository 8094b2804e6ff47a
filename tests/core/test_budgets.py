"""Quality against compute: lessons from a model, and the scores of policies."""

from __future__ import annotations

import pytest

from core.evaluation import budgets
from core.evaluation.budget_training import Lesson
from core.evaluation.budgets import lessons_of, policy_scores
from core.squad import Article, Question
from tests.core.conftest import STORY


def test_a_lesson_has_a_loss_and_four_gains_for_each_chunk(engine) -> None:
    asked = (Question("Who is the master?", ("Orla Quint",), STORY), Question("When was it built?", ("1874",), STORY))
    (found,), (base,) = lessons_of(engine, [Article("Vessin", (STORY * 3,), asked)])
    assert len(found.losses) == len(found.gains) > 1 and base >= 0
    assert all(row[0] == 0 and len(row) == 4 for row in found.gains) and all(x > 0 for x in found.losses)


def test_no_policy_beats_the_oracle_and_none_spends_more_than_its_budget(monkeypatch) -> None:
    monkeypatch.setattr(budgets, "BUDGETS", (3.0, 5.0))
    lessons = [Lesson([2.0, 4.0, 3.0], [[0, 0.1, 0.2, 0.2], [0, 0.5, 1, 1.1], [0, 0.3, 0.6, 0.5]])] * 2
    found = policy_scores(lessons, base=[0.2, 0.3], questions=[5, 5])
    for s in found:
        if not s.policy.startswith("fixed"):
            best = next(o for o in found if o.policy == "oracle" and o.budget == s.budget)
            assert s.cost <= s.budget and s.f1 <= best.f1 + 1e-9
        assert s.interval[0] - 1e-9 <= s.f1 <= s.interval[1] + 1e-9
    assert {s.policy: s.f1 for s in found}["fixed:0"] == pytest.approx(5)
