"""The losses of one outer step:

    answer loss with the document's fast weights attached, only the question in the prompt
    + answer loss with the fast weights attached *and* the text in the prompt ("beside")
    + upkeep: next-token loss on the document before learning, reading with the text in the prompt alone

Two ways to compute them: `HookStep` for any model, `core.prepare.compiled.LlamaStep` for Llama's architecture, faster.

Shapes: D documents of S segments of T tokens, n questions each of Q tokens; R rows of L tokens; d width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core.learning.hooks import with_low_rank
from core.learning.preparation import SlowWeights
from core.learning.segments import IGNORE
from core.learning.text_gradient import LOGITS_AT_ONCE
from core.prepare.episodes import Batch

READ_AT_ONCE = 8  # rows without fast weights
ENTROPY_AT_ONCE = 4096  # goals; of the compiled step, their logits are there together

Learned = Mapping[Any, Tensor]  # what a step learned of the documents, by place: [D, ...]


class Rows(NamedTuple):
    """With the tokens to predict, N of them: a multiple of ENTROPY_AT_ONCE and of about half of the rows' tokens, so
    that shapes are few; those that fill it up weigh nothing. Their number is known before anything is on the device,
    which never has to be waited for."""

    ids: Tensor  # [R, T]
    places: Tensor  # [N] of the states before the tokens to predict, all rows' one after the other
    tokens: Tensor  # [N]
    weights: Tensor  # [N], float32

    @classmethod
    def of_tokens(cls, ids: Tensor, weights: Tensor) -> Rows:
        """ids [R, T + 1], weights of the tokens after the first [R, T]."""
        places = weights.flatten().nonzero().squeeze(1)
        parts = places, ids[:, 1:].flatten()[places], weights.flatten()[places].float()
        half = ids.numel() // (2 * ENTROPY_AT_ONCE)
        more = -len(places) % (ENTROPY_AT_ONCE * max(1, half))
        return cls(ids[:, :-1].contiguous(), *(F.pad(t, (0, more)) for t in parts))


class StepBatch(NamedTuple):
    """A batch, or a part of one, as a step takes it."""

    inputs: Tensor  # [D, S, T]
    targets: Tensor  # [D, S, T]
    asked: Rows  # questions, [D n, Q - 1]
    beside: Rows  # of the first documents text, questions and answers, [B, W - 1]
    reading: tuple[Rows, ...]  # of READ_AT_ONCE each
    totals: Tensor  # `totals_of` the whole step, in all processes

    @classmethod
    def of_batch(cls, batch: Batch, totals: Tensor) -> StepBatch:
        answers = (batch.labels[:, 1:] != IGNORE).float()
        answers /= answers.sum(1, keepdim=True).clamp_min(1)
        beside, reading = ((rows[:, 0], rows[:, 1, 1:].float()) for rows in (batch.beside, batch.reading))
        parts = zip(*(t.split(READ_AT_ONCE) for t in reading), strict=True)
        return cls(
            batch.inputs,
            batch.targets,
            Rows.of_tokens(batch.questions, answers),
            Rows.of_tokens(*beside),
            tuple(Rows.of_tokens(*part) for part in parts) if len(batch.reading) else (),
            totals,
        )


def mapped(function: Callable[[Tensor], Tensor], values: Any) -> Any:
    """Nested tuples of tensors, with what the function makes of each tensor."""
    if isinstance(values, Tensor):
        return function(values)
    each = [mapped(function, value) for value in values]
    return type(values)(*each) if hasattr(values, "_fields") else tuple(each)


def totals_of(batch: Batch) -> Tensor:
    """What the losses are means over: questions, tokens of documents, weights beside a text, weights of reading. [4]"""
    counts = (
        len(batch.questions),
        (batch.targets != IGNORE).sum(),
        batch.beside[:, 1, 1:].sum(),
        batch.reading[:, 1, 1:].sum(),
    )
    return torch.tensor([float(n) for n in counts])


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
        """states [N, d], goals [N], weights [N], N a multiple of ENTROPY_AT_ONCE -> sum of weight * cross-entropy,
        nats."""
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
        with self.slow.fast_weights_attached(self.model, learned, [len(ids) // documents] * documents):
            return self.model.model(input_ids=ids, use_cache=False).last_hidden_state

    def entropy(self, states: Tensor, goals: Tensor, weights: Tensor) -> Tensor:
        parts = []
        for part in zip(*(t.split(LOGITS_AT_ONCE) for t in (states, goals, weights)), strict=True):
            parts.append(checkpoint(self._part_entropy, *part, use_reentrant=False, preserve_rng_state=False))
        return torch.stack(parts).sum()

    def _part_entropy(self, states: Tensor, goals: Tensor, weights: Tensor) -> Tensor:
        """Checkpointed, so that the logits of one part alone are in memory: of a large vocabulary all would not fit."""
        losses = F.cross_entropy(self.model.lm_head(states).float(), goals, reduction="none")
        return (losses * weights).sum()


def rows_loss(step: OuterStep, rows: Rows, learned: Learned, total: Tensor) -> Tensor:
    """Weighted cross-entropy of the rows' tokens to predict over the sum of all weights, nats."""
    states = step.states(rows.ids, learned).flatten(0, 1)
    return step.entropy(states.index_select(0, rows.places), rows.tokens, rows.weights) / total.clamp_min(1e-6)


def step_losses(step: OuterStep, batch: StepBatch, config: Any) -> dict[str, Tensor]:
    """All terms of one outer step, or what a part of its batch adds to them; "total" carries the graph. `config` is an
    OuterConfig."""
    terms: dict[str, Tensor] = {}
    questions, tokens, beside, reading = batch.totals
    with step.reader_on():
        if len(batch.inputs):
            inner, learned = step.learn(batch.inputs, batch.targets)
            share = (batch.targets != IGNORE).sum() / tokens.clamp_min(1)
            terms = {
                "answer": rows_loss(step, batch.asked, learned, questions),
                "before": inner[0] * share,
                "after": inner[-1] * share,
            }
            if count := len(batch.beside.ids):
                paired = {place: beside_texts(learned_of, count) for place, learned_of in learned.items()}
                terms["beside"] = rows_loss(step, batch.beside, paired, beside)
        if batch.reading:
            parts = [rows_loss(step, rows, {}, reading) for rows in batch.reading]
            terms["reading"] = torch.stack(parts).sum()
    return weighed(terms, config)


def beside_texts(learned: Tensor, count: int) -> Tensor:
    """What was learned of the documents whose texts stand in the prompt, [D, ...] -> [count, ...]: of the first half
    their own, of the others that of a document without a text, which the text has to outweigh. With too few of
    these, as in a part of a batch, each has its own."""
    own = -(-count // 2) if len(learned) >= 2 * count else count
    return torch.cat([learned[:own], learned[count : 2 * count - own]])


def weighed(terms: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The terms, and their "total"."""
    weights = {"answer": 1.0, "before": config.language, "beside": config.beside_weight, "reading": config.reading}
    return terms | {"total": sum(weights[k] * v for k, v in terms.items() if k in weights)}
