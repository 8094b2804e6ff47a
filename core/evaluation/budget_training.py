"""How a budget policy is trained: PPO under a PID-controlled Lagrange multiplier; and the best plan in hindsight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add, itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.learning.forms.budget import BUDGET_ACTIONS, COST, Budget, BudgetAction, Observation, PolicyNet
from core.model import POLICY


@dataclass
class PID:
    """The Lagrange multiplier: grows while more than the budget is spent (Stooke et al. 2020)."""

    kp: float = 0.1
    ki: float = 0.01
    kd: float = 0.01
    total: float = 0.0
    last: float = 0.0

    def update(self, excess: float) -> float:
        """excess: spent / budget - 1. Returns the multiplier, at least 0."""
        self.total = max(0.0, self.total + excess)
        change, self.last = excess - self.last, excess
        return max(0.0, self.kp * excess + self.ki * self.total + self.kd * max(0.0, change))


class Lesson(NamedTuple):
    """A document to train the policy on: for each chunk its loss, and what each of the four actions gains."""

    losses: Sequence[float]
    gains: Sequence[Sequence[float]]


@dataclass(frozen=True)
class PPOConfig:
    iterations: int = 100
    epochs: int = 4  # passes over one rollout
    rate: float = 3e-3
    clip: float = 0.2
    value: float = 0.5
    entropy: float = 0.01
    discount: float = 0.99
    smoothing: float = 0.95  # lambda of generalised advantage estimation
    pid: tuple[float, float, float] = (0.5, 0.1, 0.1)


DEFAULTS = PPOConfig()


def train(lessons: Sequence[Lesson], each: float, config: PPOConfig = DEFAULTS, seed: int = 0) -> PolicyNet:
    """PPO: the reward is the gain less the multiplier times what was spent beyond the budget."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net, pid = PolicyNet(), PID(*config.pid)
    optimiser = torch.optim.Adam(net.parameters(), config.rate)
    gains_of_all = torch.cat([torch.tensor(lesson.gains).flatten() for lesson in lessons])
    spread = max(1e-6, float(gains_of_all.std()))
    multiplier = 0.0
    for _ in range(config.iterations):
        observations: list[Observation] = []
        chosen: list[int] = []  # positions in BUDGET_ACTIONS
        returns: list[float] = []
        advantages: list[float] = []
        costs: list[float] = []
        for seen, actions, gains in rollouts(net, lessons, each, generator):
            excess, rewards = [], []
            for action, gain in zip(actions, gains, strict=True):
                excess.append(COST[action] / each - 1)
                rewards.append(gain / spread - multiplier * excess[-1])
            with torch.no_grad():
                values = net(torch.tensor(seen))[1].tolist()
            better = advantage(rewards, values, config.discount, config.smoothing)
            returns += map(add, better, values)
            observations += seen
            chosen += map(BUDGET_ACTIONS.index, actions)
            advantages += better
            costs += excess
        _improve(net, optimiser, config, *map(torch.tensor, (observations, chosen, returns, advantages)))
        multiplier = pid.update(sum(costs) / len(costs))
    return net


@torch.no_grad()
def rollouts(
    net: PolicyNet, lessons: Sequence[Lesson], each: float, generator: torch.Generator
) -> list[tuple[list[Observation], list[BudgetAction], list[float]]]:
    """Observations, drawn actions and their gains of each document. The multiplier limits what is spent."""
    free = [Budget(net.decide, each, len(lesson.losses), capped=False) for lesson in lessons]
    seen: list[list[Observation]] = [[] for _ in lessons]
    for chunk in range(max(budget.chunks for budget in free)):
        active = [n for n, budget in enumerate(free) if chunk < budget.chunks]
        for n in active:
            seen[n].append(free[n].observe(lessons[n].losses[chunk]))
        logits, _ = net(torch.tensor([seen[n][-1] for n in active]))
        drawn = logits.softmax(-1).multinomial(1, generator=generator)
        for n, place in zip(active, drawn.flatten().tolist(), strict=True):
            free[n].take(BUDGET_ACTIONS[place])
    rollouts = []
    for observations, budget, lesson in zip(seen, free, lessons, strict=True):
        gains = []
        for row, action in zip(lesson.gains, budget.actions, strict=True):
            gains.append(row[BUDGET_ACTIONS.index(action)])
        rollouts.append((observations, budget.actions, gains))
    return rollouts


def advantage(rewards: Sequence[float], values: Sequence[float], discount: float, smoothing: float) -> list[float]:
    """Generalised advantage estimation over one document (Schulman et al. 2016)."""
    out, after, running = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        running = reward + discount * after - value + discount * smoothing * running
        after = value
        out.append(running)
    return out[::-1]


def _improve(
    net: PolicyNet, optimiser: torch.optim.Optimizer, c: PPOConfig,
    observations: Tensor, chosen: Tensor, returns: Tensor, advantages: Tensor,
) -> None:  # fmt: skip
    advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-6)
    with torch.no_grad():
        before = net(observations)[0].log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)
    for _ in range(c.epochs):
        logits, values = net(observations)
        logs = logits.log_softmax(-1)
        ratio = (logs.gather(1, chosen[:, None]).squeeze(1) - before).exp()
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - c.clip, 1 + c.clip) * advantages).mean()
        entropy = -(logs.exp() * logs).sum(-1).mean()
        loss = -surrogate + c.value * (values - returns).square().mean() - c.entropy * entropy
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()


def save_policy(net: PolicyNet, folder: Path) -> None:
    save_file({name: t.contiguous() for name, t in net.state_dict().items()}, folder / POLICY)


def oracle(gains: Sequence[Sequence[float]], each: float) -> list[BudgetAction]:
    """The best actions in hindsight: gains [chunks][4 actions], total cost at most `each` a chunk (exact, by cost)."""
    best: dict[int, tuple[float, list[BudgetAction]]] = {0: (0.0, [])}
    for row in gains:
        next_best: dict[int, tuple[float, list[BudgetAction]]] = {}
        for cost, (gain, chosen) in best.items():
            for action, more in zip(BUDGET_ACTIONS, row, strict=True):
                total = cost + COST[action]
                is_best = total not in next_best or gain + more > next_best[total][0]
                if is_best and total <= each * len(gains):
                    next_best[total] = (gain + more, [*chosen, action])
        best = next_best
    return max(best.values(), key=itemgetter(0))[1]
