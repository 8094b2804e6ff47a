"""The self-check and the guard, around a learner."""

from __future__ import annotations

import math
import re
from collections.abc import Generator
from dataclasses import replace

import pytest
import torch

from core.engine import Engine, EngineConfig
from core.errors import LearningFailed
from core.generate import run_to_return, yield_at_each_step
from core.learning.adapters.lora import A, B, LoraLearner
from core.learning.adapters.study import Exercise, Tutor
from core.learning.base import LearnConfig
from core.learning.check import SelfCheck
from core.learning.course import Course
from core.learning.guard import RATE_FACTORS, Guard, worse
from core.ports import Ask, Learned
from core.types import Completion, Metrics, Stage, Step
from tests.core.conftest import STORY, chunks_of

METRICS = Metrics(3.0, 1.0, (3.0, 1.0), 2, 100, 1.0, 1.0)
ASKED = [
    Exercise(0, STORY, "Who keeps the boats?", "Orla Quint"),
    Exercise(0, STORY, "How many boats are there?", "nineteen"),
    Exercise(1, STORY, "Who built the lighthouse?", "Tam Odrey"),
    Exercise(1, STORY, "What " + "very " * 20 + "long question?", "forty crowns"),
]


class Knowing:
    """Answers what its weights say; the base model knows one thing. Two sections, one for each chunk."""

    def __init__(self) -> None:
        self.asked: list[list[Ask]] = []

    def __call__(self, asks: list[Ask]) -> list[Completion]:
        self.asked.append(list(asks))
        return [self._answer(a) for a in asks]

    def _answer(self, ask: Ask) -> Completion:
        known = {None: {"How many boats are there?": "nineteen"}, 0: {"Who keeps the boats?": "Orla Quint"}}
        known[1] = {e.question: e.answer for e in ASKED[2:]}
        section = None if ask.weights is None else int(ask.weights["m"])
        return Completion(known[section].get(ask.question, "no idea"), 2, 0.1, 0.5 + 0.1 * (section or 0))


def learned(**changes: object) -> Learned:
    tensors = {"0/m": torch.tensor(0.0), "1/m": torch.tensor(1.0)}
    return Learned(tensors, (0, 1), replace(METRICS, **changes))


def run(steps) -> Learned:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


# The self-check


def test_each_question_is_put_to_the_section_that_holds_its_chunk() -> None:
    checked = run_to_return(SelfCheck(ASKED, Knowing(), "x").after(learned()))
    metrics = checked.metrics
    assert (metrics.check_total, metrics.check_before, metrics.check_after) == (4, 1, 3)
    assert metrics.final_loss == METRICS.final_loss and checked.sections == (0, 1)


def test_examples_are_questions_that_it_answers_and_that_fit_a_button() -> None:
    checked = run_to_return(SelfCheck(ASKED, Knowing(), "x").after(learned()))
    assert checked.questions == ("Who built the lighthouse?", "Who keeps the boats?")


def test_questions_are_asked_in_batches_of_bounded_size() -> None:
    answer = Knowing()
    check = SelfCheck(ASKED * 9, answer, "x")
    assert check.score({"m": torch.tensor(1.0)}) == 18
    assert [len(batch) for batch in answer.asked] == [6] * 6
    pauses = list(check.after(learned()))
    assert len(pauses) == 12 and [len(batch) for batch in answer.asked] == [6] * 18, "the base model's and the learned"


# Adapters stop by it


@pytest.fixture
def lora(tiny, fmt) -> LoraLearner:
    learner = LoraLearner(tiny, fmt, LearnConfig("deep"))
    learner.step_tokens = 64
    return learner


def test_learning_ends_when_two_passes_were_no_better_and_the_best_is_kept(tiny, lora) -> None:
    scores, seen = iter([1.0, 3.0, 2.0, 2.0, 9.0]), []

    def score(weights) -> float:
        seen.append(weights)
        return next(scores)

    chunks = chunks_of(tiny.tokenizer, STORY)
    result = run(lora.learn(chunks, title="Vessin", score=score))
    assert len(seen) == 4 < lora.passes["deep"]
    best = result.section(0)
    assert all(torch.equal(best[n], seen[1][n]) for n in best) and any((best[n] != seen[3][n]).any() for n in best)
    names = [n.removesuffix(A) for n in best if n.endswith(A)]
    pairs = [(best[n + A].double(), best[n + B].double()) for n in names]
    norm = sum(float((b @ a).square().sum()) for a, b in pairs) ** 0.5
    assert result.metrics.delta_norm == pytest.approx(norm, rel=1e-4), "of the weights that are kept"


def test_while_nothing_is_answered_learning_goes_on(tiny, lora) -> None:
    lora.config = LearnConfig("standard")
    seen = []
    result = run(lora.learn(chunks_of(tiny.tokenizer, STORY), title="Vessin", score=lambda w: seen.append(w) or 0.0))
    assert len(seen) == lora.passes["standard"]
    assert torch.equal(result.section(0)[min(seen[-1])], seen[-1][min(seen[-1])])


# The guard


@pytest.fixture
def guard(tiny, fmt) -> Guard:
    return Guard(tiny, fmt, max_shift=0.1)


def large(lora: LoraLearner, factor: float) -> Learned:
    result = run(lora.with_rate(factor).learn(chunks_of(lora.base.tokenizer, STORY), title="Vessin"))
    return result


@pytest.fixture
def good(lora) -> Learned:
    lora.config = LearnConfig("quick")
    return large(lora, 0.1)


def harm(steps: Generator[object, None, object]) -> str:
    """What an operator is told of weights that are not kept."""
    with pytest.raises(LearningFailed) as failure:
        run(steps)
    assert str(failure.value) == LearningFailed.__doc__
    return str(failure.value.__cause__)


def test_sound_weights_pass(guard, lora, good) -> None:
    run_to_return(guard.check(good, lora))
    assert 0 <= guard.shift(good, lora) < 0.1


def test_no_change_moves_nothing_and_large_weights_move_much(guard, lora, good) -> None:
    none = replace(good, tensors={n: 0 * t for n, t in good.tensors.items()})
    much = replace(good, tensors={n: 100 * t for n, t in good.tensors.items()})
    assert guard.shift(none, lora) == pytest.approx(0.0, abs=1e-5)
    assert guard.shift(much, lora) > 0.1
    why = harm(guard.check(much, lora))
    assert re.fullmatch(r"unrelated answers changed too much: \d+\.\d nats, at most 0\.1", why)


def test_the_shift_is_the_textbook_s_divergence(guard, tiny, fmt, lora, good) -> None:
    total = 0.0
    for prompt in guard.prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            plain = tiny.model(input_ids=ids).logits[0, -1].log_softmax(-1)
            with lora.attach([(good.section(0), 1)]):
                now = tiny.model(input_ids=ids).logits[0, -1].log_softmax(-1)
        total += float((plain.exp() * (plain - now)).sum())
    assert guard.shift(good, lora) == pytest.approx(total / len(guard.prompts), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"delta_norm": 1e9}, "more than is safe"),
        ({"delta_norm": math.nan}, "more than is safe"),
        ({"check_total": 10, "check_before": 5, "check_after": 3}, "3 right instead of 5 of 10"),
    ],
)
def test_what_is_too_large_or_worse_is_rolled_back(guard, lora, good, change, why) -> None:
    assert why in harm(guard.check(replace(good, metrics=replace(good.metrics, **change)), lora))


def test_weights_that_are_no_numbers_are_rolled_back(guard, lora, good) -> None:
    name = min(good.tensors)
    broken = {**good.tensors, name: good.tensors[name] * torch.nan, "0/packed": torch.zeros(2, dtype=torch.int8)}
    assert "no numbers" in harm(guard.check(replace(good, tensors=broken), lora))


def test_one_question_less_may_be_chance() -> None:
    def fell(before: int, after: int, total: int) -> bool:
        return worse(replace(METRICS, check_total=total, check_before=before, check_after=after))

    assert not fell(3, 2, 10) and fell(3, 1, 10) and not fell(20, 15, 52) and fell(20, 14, 52) and not fell(0, 0, 0)


# The rate of a model that was never prepared


class Rated:
    """A learner whose loss and damage follow its rate."""

    name = "rated"
    config = LearnConfig("deep")

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def with_rate(self, factor: float) -> Rated:
        return Rated(factor)

    def learn(self, chunks, *, title):
        assert len(chunks) <= 2 and self.config.effort == "quick"
        yield Step(1, 1, 2.0)
        if self.factor > 3:
            raise LearningFailed
        return Learned({"0/m": torch.zeros(1)}, (0, 0), replace(METRICS, final_loss=2 - self.factor))


def test_the_search_takes_the_rate_that_learns_most_and_harms_nothing(guard, monkeypatch) -> None:
    monkeypatch.setattr(guard, "shift", lambda learned, learner: 0.05 * learner.factor)
    found, factor = run(guard.with_safe_rate(Rated(), [None] * 5, "x"))
    assert (found.factor, factor, found.config.effort) == (1.0, 1.0, "deep")  # 4: failed
    monkeypatch.setattr(guard, "shift", lambda learned, learner: 0.2 * learner.factor)
    assert run(guard.with_safe_rate(Rated(), [None] * 5, "x"))[1] == 0.25  # 1: moved too far
    monkeypatch.setattr(guard, "shift", lambda learned, learner: math.nan)
    assert "can't be taught safely at any rate" in harm(guard.with_safe_rate(Rated(), [None] * 5, "x"))


def test_the_search_hands_the_device_over_and_reports_no_loss(guard, monkeypatch) -> None:
    monkeypatch.setattr(guard, "shift", lambda learned, learner: 0.0)
    steps = list(guard.with_safe_rate(Rated(), [None], "x"))
    assert len(steps) == len(RATE_FACTORS) and all(s.done == 0 and math.isnan(s.loss) for s in steps)


def test_a_cancelled_search_closes_the_learner(lora, tiny) -> None:
    inner = lora.learn(chunks_of(tiny.tokenizer, STORY), title="Vessin")
    steps = yield_at_each_step(Step(0, 1, math.nan), inner)
    next(steps)
    steps.close()
    assert inner.gi_frame is None


# All of it


def test_a_course_writes_learns_asks_and_guards(tiny, fmt, lora, monkeypatch) -> None:
    monkeypatch.setattr(Tutor, "checks", lambda self, chunks, each, most: iter([ASKED[:2], ASKED[2:3]]))
    monkeypatch.setattr(Tutor, "exercises", lambda self, chunks: iter([ASKED[3:]]))
    learning = LearnConfig("quick")
    lora.config = learning
    answers = lambda asks: [Completion("Orla Quint", 2, 0.1, 0.5) for _ in asks]  # noqa: E731
    course = Course(tiny, fmt, lora, learning, answers, study=True, short=0)
    chunks, steps, found = chunks_of(tiny.tokenizer, STORY * 2), [], None
    running = course.run(chunks, title="Vessin")
    try:
        while True:
            steps.append(next(running))
    except StopIteration as end:
        found = end.value
    assert (found.metrics.check_total, found.metrics.check_before, found.metrics.check_after) == (3, 1, 1)
    assert found.questions == ("Who keeps the boats?",) and "rate was multiplied by" in found.metrics.notes[0]
    assert [s.stage for s in steps].count(Stage.CHECKING) > 2 and steps[-1].stage is Stage.CHECKING
    assert all(s.done == 0 for s in steps[:3]) and course.rate_is_safe
    assert sum(s.done == 0 for s in run_again(course, chunks)) < sum(s.done == 0 for s in steps)  # the rate is known


def test_a_short_document_is_learned_without_a_self_check(tiny, fmt, lora, monkeypatch) -> None:
    monkeypatch.setattr(Tutor, "checks", lambda self, chunks, each, most: iter([ASKED]))
    learning = LearnConfig("quick")
    lora.config = learning
    course = Course(tiny, fmt, lora, learning, lambda asks: [])
    running = course.run(chunks_of(tiny.tokenizer, STORY), title="Vessin")
    with pytest.raises(StopIteration) as end:
        while True:
            next(running)
    assert end.value.value.metrics.check_total == 0


def run_again(course: Course, chunks) -> list[Step]:
    return list(course.run(chunks, title="Vessin"))


def test_an_engine_without_check_and_guard_only_learns(tiny) -> None:
    config = EngineConfig(learner="lora", effort="quick", check=False, guard=False, chunk_size=64)
    engine = Engine(tiny, config)
    steps = list(engine.learn(chunks_of(tiny.tokenizer, STORY), title="Vessin"))
    assert [s.stage for s in steps[:-1]] == [Stage.LEARNING] * (len(steps) - 1)
    assert all(s.done for s in steps)
