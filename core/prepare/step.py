"""The losses of one outer step:

    answer loss with the document's fast weights attached, only the question in the prompt
    + answer loss with the fast weights attached *and* the text in the prompt ("beside")
    + upkeep: next-token loss on the document before learning, reading with the text in the prompt alone

Two ways to compute them: `HookStep` for any model, `core.prepare.compiled.LlamaStep` for Llama's architecture, faster.

Shapes: D documents of S segments of T tokens, n questions each of Q tokens; R rows of L tokens; d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from core.learning.hooks import with_low_rank
from core.learning.preparation import SlowWeights
from core.learning.segments import IGNORE
from core.prepare.episodes import Batch

READ_AT_ONCE = 8  # rows without fast weights

Learned = Mapping[Any, Tensor]  # what a step learned of the documents, by place: [D, ...]


class OuterStep(Protocol):
    """How the passes of an outer step are computed; all results carry the graph."""

    def reader_on(self) -> AbstractContextManager[None]:
        """The rest is called within this context."""
        ...

    def learn(self, inputs: Tensor, targets: Tensor) -> tuple[Sequence[float | Tensor], Learned]:
        """inputs, targets [D, S, T] -> the loss before each inner step; what was learned, as it is stored."""
        ...

    def states(self, ids: Tensor, learned: Learned) -> Tensor:
        """ids [R, T], R a multiple of D, with each document's rows reading what was learned of it -> [R, T, d]."""
        ...

    def entropy(self, states: Tensor, goals: Tensor, weights: Tensor) -> Tensor:
        """states [N, d], goals [N], weights [N] -> sum of weight * cross-entropy, nats."""
        ...


class HookStep:
    """For any model and any slow weights, with hooks on the model's own modules."""

    def __init__(self, model: Any, slow: SlowWeights) -> None:
        self.model, self.slow = model, slow

    def reader_on(self) -> AbstractContextManager[None]:
        return with_low_rank(self.model, self.slow.low_rank())

    def learn(self, inputs: Tensor, targets: Tensor) -> tuple[Sequence[float | Tensor], Learned]:
        return self.slow.learn(self.model, inputs, targets, differentiable=True)

    def states(self, ids: Tensor, learned: Learned) -> Tensor:
        documents = len(next(iter(learned.values()))) if learned else 1
        with self.slow.reading(self.model, learned, [len(ids) // documents] * documents):
            return self.model.model(input_ids=ids, use_cache=False).last_hidden_state

    def entropy(self, states: Tensor, goals: Tensor, weights: Tensor) -> Tensor:
        losses = F.cross_entropy(self.model.lm_head(states).float(), goals, reduction="none")
        return (losses * weights).sum()


def answer_loss(step: OuterStep, batch: Batch, learned: Learned) -> Tensor:
    """Mean over questions of the mean cross-entropy of the answer's tokens, nats."""
    states = step.states(batch.questions[:, :-1], learned)
    goals = batch.labels[:, 1:]
    here = goals != IGNORE
    weights = (1.0 / here.sum(1).clamp_min(1))[:, None].expand_as(goals)[here] / len(goals)
    return step.entropy(states[here], goals[here], weights)


def reading_loss(step: OuterStep, rows: Tensor, learned: Learned) -> Tensor:
    """Texts with questions. rows [R, 2, L + 1]: tokens and the weights of their losses -> weighted mean, nats."""
    total = rows[:, 1, 1:].sum().clamp_min(1e-6)
    losses = []
    for part in [rows] if learned else rows.split(READ_AT_ONCE):
        ids, weights = part[:, 0], part[:, 1, 1:].float()
        states = step.states(ids[:, :-1], learned)
        here = weights > 0
        losses.append(step.entropy(states[here], ids[:, 1:][here], weights[here] / total))
    return torch.stack(losses).sum()


def step_losses(step: OuterStep, batch: Batch, config: Any) -> dict[str, Tensor]:
    """All terms of one outer step; "total" carries the graph. `config` is an OuterConfig."""
    terms: dict[str, Tensor] = {}
    with step.reader_on():
        if len(batch.inputs):
            inner, learned = step.learn(batch.inputs, batch.targets)
            terms = {
                "answer": answer_loss(step, batch, learned),
                "before": torch.as_tensor(inner[0]),
                "after": torch.as_tensor(inner[-1]),
            }
            if count := len(batch.beside):
                first = {place: learned_of[:count] for place, learned_of in learned.items()}
                terms["beside"] = reading_loss(step, batch.beside, first)
        if len(batch.reading):
            terms["reading"] = reading_loss(step, batch.reading, {})
    return weighed(terms, config)


def weighed(terms: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The terms, and their "total"."""
    weights = {"answer": 1.0, "before": config.language, "beside": config.beside_weight, "reading": config.reading}
    return terms | {"total": sum(weights[k] * v for k, v in terms.items() if k in weights)}
