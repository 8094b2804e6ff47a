"""How much to compute on each chunk: SKIP, or 1, 2 or 4 inner steps, under a budget (PonderTTT).

A policy looks at the learner's own loss on the chunk before the update, and asks for an action; the budget grants what
it can still pay. Costs are forward passes over the chunk: a look is one, and who only looks has skipped.

    "fixed:2"      always two steps
    "random:4"     4 forward passes a chunk on average, whichever chunk it is
    "threshold:4"  the same, more for a chunk whose loss stands high among those seen so far
    "ppo:4"        a small policy, trained by PPO with a PID-controlled Lagrange multiplier
                   (`core.evaluation.budget_training`)
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from enum import IntEnum
from itertools import accumulate
from operator import mul
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.errors import SetupError
from core.learning.base import LearnConfig
from core.learning.fast_learner import BatchProgress, LearnedSection
from core.learning.forms.fast_weights import FormLearner
from core.learning.segments import IGNORE
from core.learning.text_gradient import token_losses
from core.model import POLICY, LoadedModel, prepared_folder
from core.ports import Learned
from core.prompts import ChatFormat
from core.types import Chunk, Step

SKIPPED_CHUNK = "skipped"  # stands for the weights of a chunk that the budget left out
NEWEST_WEIGHT = 0.1  # weight of the newest loss in the running mean and variance


class BudgetAction(IntEnum):
    """The value is the number of inner steps."""

    SKIP = 0
    UPDATE_1 = 1
    UPDATE_2 = 2
    UPDATE_4 = 4


BUDGET_ACTIONS = tuple(BudgetAction)
COST = dict(zip(BUDGET_ACTIONS, (1, 3, 5, 12), strict=True))  # in forward passes over the chunk


class Observation(NamedTuple):
    """What a policy sees before a chunk."""

    loss: float  # nats a token, before any update
    score: float  # how far above the losses so far, in standard deviations
    done: float  # share of the chunks that is behind
    spare: float  # what is left for each chunk that is left, as a multiple of the budget


Policy = Callable[[Observation], BudgetAction]


class Budget:
    """Decides chunk by chunk; spends at most `each` forward passes a chunk on average, unless not `capped`.

    Raises: SetupError when not even looking at every chunk is paid for.
    """

    def __init__(self, policy: Policy, each: float, chunks: int, *, capped: bool = True) -> None:
        if each < COST[BudgetAction.SKIP]:
            raise SetupError(f"A budget of {each:g} forward passes a chunk is too small; give at least 1.")
        self.policy, self.each, self.chunks, self.capped = policy, each, chunks, capped
        self.actions: list[BudgetAction] = []
        self.mean = self.variance = 0.0

    @property
    def spent(self) -> int:
        return sum(map(COST.__getitem__, self.actions))

    @property
    def skipped(self) -> int:
        return self.actions.count(BudgetAction.SKIP)

    def decide(self, loss: float) -> BudgetAction:
        return self.take(self.policy(self.observe(loss)))

    def observe(self, loss: float) -> Observation:
        left = self.chunks - len(self.actions)
        spare = (self.each * self.chunks - self.spent) / left / self.each
        return Observation(loss, self._score(loss), 1 - left / self.chunks, spare)

    def take(self, wanted: BudgetAction) -> BudgetAction:
        """The most steps that are wanted and paid for, when every later chunk is still looked at."""
        later = self.chunks - len(self.actions) - 1
        most = self.each * self.chunks - self.spent - later * COST[BudgetAction.SKIP] if self.capped else math.inf
        paid_for = [BudgetAction.SKIP]
        for action in BUDGET_ACTIONS:
            if action <= wanted and COST[action] <= most:
                paid_for.append(action)
        self.actions.append(max(paid_for))
        return self.actions[-1]

    def _score(self, loss: float) -> float:
        """And remember the loss."""
        if not self.actions:
            self.mean, self.variance = loss, 0.25**2  # nats; about the spread of the chunks of one document
        away = loss - self.mean
        score = away / math.sqrt(self.variance)
        self.mean += NEWEST_WEIGHT * away
        self.variance += NEWEST_WEIGHT * (away * away - self.variance)
        return score


def budget_for(spec: str, chunks: int, folder: Path | None = None) -> Budget:
    """The budget that a setting such as "threshold:4" describes. `folder`: where a trained policy lies.

    Raises: SetupError.
    """
    name, _, number = spec.partition(":")
    try:
        each = float(number)
        if name == "fixed":
            action = BudgetAction(int(number))
            return Budget(lambda _: action, COST[action], chunks)
        policies: dict[str, Callable[[], Policy]] = {
            "random": lambda: by_chance(each),
            "threshold": lambda: by_threshold(each),
            "ppo": lambda: load_policy(folder),
        }
        return Budget(policies[name](), each, chunks)
    except (KeyError, ValueError) as error:
        hint = "write 'fixed:2' (0, 1, 2 or 4 steps), or 'threshold:4', 'random:4' or 'ppo:4'"
        raise SetupError(f"There is no budget '{spec}'; {hint} (forward passes a chunk).") from error


# Schedules


def action_shares(each: float) -> list[float]:
    """How often to take each action so that the mean cost is `each`: the flattest way, p ~ exp(-t cost)."""
    costs = list(COST.values())

    def tilted(t: float) -> list[float]:
        weights = [math.exp(-t * (cost - min(costs))) for cost in costs]
        return [weight / sum(weights) for weight in weights]

    low, high = -20.0, 20.0  # the mean cost falls as t grows
    for _ in range(60):
        t = (low + high) / 2
        if sum(map(mul, tilted(t), costs)) > each:
            low = t
        else:
            high = t
    return tilted(t)


def quantile_action(u: float, each: float) -> BudgetAction:
    """The action for a chunk that stands at quantile u: the lowest are skipped, the highest get most."""
    tops = list(accumulate(action_shares(each)))
    return BUDGET_ACTIONS[min(bisect_left(tops, u), len(BUDGET_ACTIONS) - 1)]


def by_chance(each: float, seed: int = 0) -> Policy:
    rng = random.Random(seed)
    return lambda seen: quantile_action(rng.random(), each * seen.spare)


def by_threshold(each: float) -> Policy:
    """More for a chunk whose loss stands higher than those before it, taken as normal."""
    normal = NormalDist()
    return lambda seen: quantile_action(normal.cdf(seen.score), each * seen.spare)


# A trained policy


class PolicyNet(nn.Module):
    """Observations [N, 4] -> action logits [N, 4] and values [N]."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        width = len(Observation._fields)
        self.actor = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, len(BUDGET_ACTIONS)))
        self.critic = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(observations), self.critic(observations).squeeze(-1)

    @torch.no_grad()
    def decide(self, observation: Observation) -> BudgetAction:
        return BUDGET_ACTIONS[int(self(torch.tensor([observation]))[0].argmax())]


def load_policy(folder: Path | None) -> Policy:
    """Raises: SetupError when none was trained for this model."""
    if folder is None or not (folder / POLICY).exists():
        raise SetupError("No budget policy was trained for this model; choose 'threshold:4', or train one.")
    net = PolicyNet()
    net.load_state_dict(load_file(folder / POLICY))
    return net.eval().decide


# The learner


class BudgetedLearner(FormLearner):
    """Decides chunk by chunk how many steps to take; what is skipped answers as the base model."""

    def __init__(self, base: LoadedModel, fmt: ChatFormat, config: LearnConfig) -> None:
        super().__init__(base, fmt, config)
        self._budget_for(1)  # fail at start-up, not at the first document

    def _budget_for(self, chunks: int) -> Budget:
        return budget_for(self.config.budget, chunks, prepared_folder(self.base))

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        self.budget = self._budget_for(len(chunks))
        self.plan: list[BudgetAction] = []  # for each chunk that was looked at
        learned = yield from super().learn(chunks, title=title)
        note = f"{self.budget.skipped} of {len(chunks)} sections were skipped to keep the budget"
        return replace(learned, metrics=replace(learned.metrics, notes=(note,)))

    def learn_group(
        self, chunks: Sequence[Chunk], numbers: range, heading: Sequence[int], rows: int
    ) -> Generator[Step, None, list[LearnedSection]]:
        new = [chunks[n] for n in numbers if n >= len(self.plan)]
        if new:
            losses = self.losses_before(*self.tensors(new, heading), rows)
            self.plan += [self.budget.decide(loss) for loss in losses]
        sections: dict[int, LearnedSection] = {}
        trained = self.prepared.config.steps
        for action in sorted({self.plan[n] for n in numbers}):
            members = [n for n in numbers if self.plan[n] == action]
            done = (numbers.start + len(sections)) * trained
            progress = BatchProgress(done, len(members) * trained, len(chunks) * trained)
            own = [chunks[n] for n in members]
            learned = yield from self.learn_batch(own, heading, rows, progress, steps=int(action))
            if action == BudgetAction.SKIP:
                learned = [section._replace(tensors={SKIPPED_CHUNK: torch.zeros(1)}) for section in learned]
            sections |= zip(members, learned, strict=True)
        return [sections[n] for n in numbers]

    @torch.no_grad()
    def losses_before(self, inputs: Tensor, targets: Tensor, rows: int) -> list[float]:
        """Nats a token of each chunk before any step: the budget's signal. inputs, targets: [D, S, T]."""
        model = self.base.model
        sums = []
        for ids, goal in zip(inputs.flatten(0, 1).split(rows), targets.flatten(0, 1).split(rows), strict=True):
            hidden = model.model(input_ids=ids, use_cache=False)[0]
            sums.append(token_losses(model, hidden, goal).sum(1))
        counts = (targets != IGNORE).flatten(1).sum(1).clamp_min(1)
        return (torch.cat(sums).view(len(inputs), -1).sum(1) / counts).tolist()
