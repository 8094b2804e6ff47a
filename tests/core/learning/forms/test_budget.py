"""How much to compute on each chunk: costs, schedules, the trained policy, and the learner under a budget."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from core.errors import SetupError
from core.evaluation.budget_training import PID, Lesson, PPOConfig, advantage, oracle, save_policy, train
from core.learning.base import LearnConfig
from core.learning.forms.budget import (
    BUDGET_ACTIONS,
    COST,
    Budget,
    BudgetAction,
    BudgetedLearner,
    Observation,
    action_shares,
    budget_for,
    load_policy,
)
from core.learning.forms.fast_weights import FormConfig, PreparedForm
from tests.core.conftest import STORY, WIDTH, chunks_of
from tests.core.learning.test_fast_learner import finish, logits, section

LOSSES = [random.Random(n).gauss(3, 0.4) for n in range(60)]


@pytest.mark.parametrize("spec", ["random:3", "random:6", "threshold:2", "threshold:5", "fixed:4"])
def test_no_schedule_spends_more_than_its_budget_and_none_saves_half_of_it(spec: str) -> None:
    budget = budget_for(spec, len(LOSSES))
    for loss in LOSSES:
        budget.decide(loss)
    assert 0.6 * budget.each * len(LOSSES) <= budget.spent <= budget.each * len(LOSSES)


def test_a_threshold_gives_more_to_the_chunks_whose_loss_is_high() -> None:
    budget = budget_for("threshold:5", len(LOSSES))
    steps = [int(budget.decide(loss)) for loss in LOSSES]
    low, high = (sum(s for s, x in zip(steps, LOSSES, strict=True) if (x > 3) == above) for above in (False, True))
    assert high > 2 * low and set(steps) == {0, 1, 2, 4}


def test_shares_have_the_mean_cost_that_was_asked_for() -> None:
    for each in (1.5, 4, 8):
        assert sum(p * COST[a] for p, a in zip(action_shares(each), BUDGET_ACTIONS, strict=True)) == pytest.approx(
            each, abs=1e-3
        )


def test_the_oracle_is_the_best_of_all_assignments() -> None:
    rng = random.Random(1)
    gains = [[0.0, *(rng.random() for _ in range(3))] for _ in range(4)]
    worth = lambda chosen: sum(g[BUDGET_ACTIONS.index(a)] for g, a in zip(gains, chosen, strict=True))  # noqa: E731
    affordable = (c for c in itertools.product(BUDGET_ACTIONS, repeat=4) if sum(COST[a] for a in c) <= 16)
    assert worth(oracle(gains, 4)) == pytest.approx(max(map(worth, affordable)))


@pytest.mark.parametrize("spec", ["", "fixed", "fixed:3", "threshold:0.5", "greedy:4", "threshold:x", "ppo:4"])
def test_a_budget_that_cannot_be_is_a_set_up_error(spec: str) -> None:
    with pytest.raises(SetupError):
        budget_for(spec, 8)


def test_the_multiplier_grows_while_too_much_is_spent_and_falls_to_zero_again() -> None:
    pid = PID()
    grown = [pid.update(0.5) for _ in range(5)]
    assert grown == sorted(grown) and grown[-1] > grown[0] > 0
    assert [pid.update(-0.5) for _ in range(20)][-1] == 0


def test_the_advantage_of_one_step_is_what_the_value_missed() -> None:
    assert advantage([1.0], [0.25], 0.99, 0.95) == [0.75]
    assert advantage([0.0, 1.0], [0.0, 0.0], 1.0, 1.0) == [1.0, 1.0]


def test_ppo_learns_to_spend_where_it_gains_within_the_budget(tmp_path) -> None:
    rng = random.Random(2)
    lessons = []
    for _ in range(6):  # only what surprises is worth two steps, nothing is worth more
        losses = [rng.choice((2.0, 4.0)) for _ in range(16)]
        lessons.append(Lesson(losses, [[0.0, 0.3, 1.0, 1.0] if x > 3 else [0.0] * 4 for x in losses]))
    net = train(lessons, 3.5, PPOConfig(iterations=60))
    save_policy(net, tmp_path)
    policy = load_policy(tmp_path)
    budget = Budget(policy, 3.5, 16)
    gain = sum(lessons[0].gains[n][BUDGET_ACTIONS.index(budget.decide(x))] for n, x in enumerate(lessons[0].losses))
    chance = Budget(budget_for("random:3.5", 16).policy, 3.5, 16)
    luck = sum(lessons[0].gains[n][BUDGET_ACTIONS.index(chance.decide(x))] for n, x in enumerate(lessons[0].losses))
    assert budget.spent <= 56 and gain > luck
    assert policy(Observation(4.0, 1.0, 0.5, 1.0)) == net.decide(Observation(4.0, 1.0, 0.5, 1.0))


def test_a_single_chunk_can_be_trained_on() -> None:
    net = train([Lesson([2.0], [[0.0, 0.1, 0.2, 0.3]])], 3.0, PPOConfig(iterations=2))
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("shared", [False, True])
def test_other_numbers_of_steps_begin_as_trained_and_go_on_with_the_last_rate(tiny, shared: bool) -> None:
    form = PreparedForm(FormConfig(steps=2, layers=2, start=True, rank=4, shared_rate=shared), WIDTH, tiny.model)
    torch.nn.init.uniform_(form.log_rates, -6, -5)
    for start in form.start:
        torch.nn.init.normal_(start)
    ids = torch.arange(9, 17).view(1, 1, 8)
    trained = [list(fast.values()) for _, fast in form.inner_loop(tiny.model, ids, ids)]
    for steps, expected in ((0, [list(form.start)]), (1, trained[:1]), (2, trained), (4, trained)):
        loop = list(form.inner_loop(tiny.model, ids, ids, measure=True, steps=steps))
        assert len(loop) == steps + 1 and [x for x, _ in loop] == sorted((x for x, _ in loop), reverse=True)
        for (_, fast), then in zip(loop, expected, strict=False):
            assert all(torch.equal(a, b.expand_as(a)) for a, b in zip(fast.values(), then, strict=True))
    assert torch.equal(form._rates_of(4)[2:], form.rates()[[1, 1]])


@pytest.fixture
def budgeted(tiny, fmt):
    return lambda budget, batch_tokens: BudgetedLearner(
        tiny, fmt, LearnConfig(batch_tokens=batch_tokens, budget=budget)
    )


def test_under_a_budget_skipped_chunks_answer_as_the_base_and_the_others_as_without_it(learner, budgeted) -> None:
    chunks = chunks_of(learner.base.tokenizer, STORY * 6)
    _, whole = finish(learner.learn(chunks, title="Vessin"))
    seen, learned = finish(budgeted("random:6", 256).learn(chunks, title="Vessin"))
    assert learned.sections == whole.sections and seen[-1].done == seen[-1].total
    norms = [sum(float(t.abs().sum()) for n, t in section(learned, c).items()) for c in range(len(chunks))]
    assert 0 < sum(n == 0 for n in norms) < len(chunks)
    assert any("skipped" in note for note in learned.metrics.notes)
    base, skipped = logits(learner), norms.index(0)
    with learner.attach([(section(learned, skipped), 2), (section(whole, 0), 2)]):
        assert torch.equal(logits(learner)[:2], base[:2])


def test_four_steps_by_budget_are_the_steps_that_were_trained(learner, budgeted) -> None:
    chunks = chunks_of(learner.base.tokenizer, STORY * 2)
    _, whole = finish(learner.learn(chunks, title="Vessin"))  # the unprepared model's own number of steps
    _, learned = finish(budgeted("fixed:4", 1024).learn(chunks, title="Vessin"))
    assert learned.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(t, whole.tensors[n]) for n, t in learned.tensors.items())
    assert learned.metrics.final_loss == pytest.approx(whole.metrics.final_loss)


def test_every_action_is_priced() -> None:
    assert [
        COST[a] for a in (BudgetAction.SKIP, BudgetAction.UPDATE_1, BudgetAction.UPDATE_2, BudgetAction.UPDATE_4)
    ] == [1, 3, 5, 12]
