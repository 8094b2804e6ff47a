"""Learners that train an adapter: a document as packed sequences, one loss, many small steps.

What is attached to the model is the adapter's own affair (`core.learning.adapters.lora`,
`core.learning.forms.branches`).
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from core.errors import LearningFailed
from core.learning.adapters.objectives import Sample, masked, pack_samples, sum_loss, text_samples
from core.learning.base import LearnConfig
from core.learning.hooks import Branch, with_branches
from core.model import LoadedModel
from core.ports import Learned
from core.prompts import ChatFormat
from core.types import Chunk, Metrics, Step, count_tokens

Score = Callable[[Mapping[str, Tensor]], float]  # weights of one section -> how many questions they answer


class Adapter(Protocol):
    """Weights that are being learned. The model knows of them only inside `on`."""

    leaves: Sequence[Tensor]  # float32, with requires_grad

    def on(self) -> AbstractContextManager[None]: ...
    def step(self, gradients: Sequence[Tensor], done: float) -> None:
        """Move the leaves; `done` is the share of the steps that are over, 0..1."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """By module, as they are attached later, float32."""
        ...

    def norm(self) -> float:
        """L2 norm of the weight change."""
        ...


@contextmanager
def recomputed(model: Any) -> Iterator[None]:
    """Within the context the blocks keep only their inputs and compute the rest again on the way back: a third more
    time, and memory for one block instead of all. Only the blocks are told that they train: dropout stays off."""
    blocks = list(model.model.layers)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for block in blocks:
        block.training = True
    try:
        yield
    finally:
        for block in blocks:
            block.training = False
        model.gradient_checkpointing_disable()


class AdapterLearner:
    """Learns a document as one adapter, by next tokens. A subclass says which adapter, and how it is attached."""

    name: str
    segment = 128  # tokens of a sequence, its heading included
    step_tokens = 2048  # tokens of one step: what LaCT calls a large chunk
    passes: Mapping[str, int]  # over the document, by effort
    settings: Any  # a dataclass with a `rate`

    def __init__(self, base: LoadedModel, fmt: ChatFormat, config: LearnConfig) -> None:
        self.base, self.fmt, self.config = base, fmt, config
        self._rows_tokens = config.batch_tokens  # halved when memory runs out

    def start(self) -> Adapter:
        """An adapter that changes nothing yet."""
        raise NotImplementedError

    def branches(self, weights: Mapping[str, Tensor]) -> dict[str, Branch]:
        """Weights of one section, by module -> what to add to each module's output."""
        raise NotImplementedError

    def learn(
        self, chunks: Sequence[Chunk], *, title: str, extra: Sequence[Sample] = (), score: Score | None = None
    ) -> Generator[Step, None, Learned]:
        """Learn one document; `extra` sequences (study material) are mixed into every pass. With `score`, weights are
        asked questions after each pass: the best are kept, and learning ends when two passes were no better.

        Raises: LearningFailed when a loss or a weight is not finite, or memory does not suffice for one sequence.
        """
        began = time.perf_counter()
        self._rows_tokens = self.config.batch_tokens
        text = text_samples(chunks, self.fmt.heading(title), self.segment)
        passes = self.passes[self.config.effort]
        batches = self._batches([*self._weighed(text), *extra], passes)
        adapter, best = self.start(), _Best(score)
        history, initial = [], self._loss(adapter, text)
        for done, batch in enumerate(batches, 1):
            history.append(self._step(adapter, batch, (done - 1) / len(batches)))
            yield Step(done, len(batches), history[-1])
            if score and done % (len(batches) // passes) == 0 and best.is_done(adapter):
                break
        best.restore(adapter)
        final, tensors = self._loss(adapter, text), _copied_tensors(adapter)
        if not _all_finite(tensors.values()):
            raise LearningFailed
        tokens, seconds = count_tokens(chunks), time.perf_counter() - began
        metrics = Metrics(initial, final, tuple(history), len(chunks), tokens, seconds, adapter.norm())
        named = {f"0/{name}": t for name, t in tensors.items()}
        return Learned(named, (0,) * len(chunks), metrics)

    def with_rate(self, factor: float) -> AdapterLearner:
        """The same learner with its rate multiplied."""
        other = copy.copy(self)
        other.settings = replace(self.settings, rate=self.settings.rate * factor)
        return other

    def attach(self, groups: Sequence[tuple[Mapping[str, Tensor], int]]) -> AbstractContextManager[None]:
        device, dtype = self.base.device, self.base.dtype
        branches = []
        for weights, rows in groups:
            on_device = {name: t.to(device, dtype) for name, t in weights.items()}
            branches.append((self.branches(on_device), rows))
        return with_branches(self.base.model, branches)

    def answer_passes(self, groups: object, prompts: object, max_new: int) -> None:
        """Adapters are attached."""

    def _weighed(self, text: Sequence[Sample]) -> list[Sample]:
        """The document's text, as the objectives ask for it."""
        o = self.config.objectives
        samples: list[Sample] = []
        if o.text:
            samples += [replace(sample, weight=o.text) for sample in text]
        if o.masked:
            samples += masked(text, self.fmt.pad_id, o.masked)
        return samples

    def _batches(self, samples: Sequence[Sample], passes: int) -> list[list[Sample]]:
        """Every sample once a pass, in a new order each time, in equal batches of at most `step_tokens` tokens."""
        rng, batches = random.Random(0), []
        count = math.ceil(sum(len(sample.ids) for sample in samples) / self.step_tokens)
        for _ in range(passes):
            order = rng.sample(samples, len(samples))
            for start in range(min(count, len(order))):
                batches.append(order[start::count])
        return batches

    def _step(self, adapter: Adapter, batch: Sequence[Sample], done: float) -> float:
        """One step. Returns: the batch's loss before it, nats a token."""
        sums = [torch.zeros_like(leaf) for leaf in adapter.leaves]
        scale = 1024.0 if self.base.dtype == torch.float16 else 1.0  # small gradients vanish in float16

        def backward(loss: Tensor) -> None:
            gradients = torch.autograd.grad(loss * scale, adapter.leaves)
            torch._foreach_add_(sums, [g.float() for g in gradients])

        loss, count = self._run(adapter, batch, backward, lambda: torch._foreach_zero_(sums))
        torch._foreach_div_(sums, count * scale)
        if not _all_finite(sums):
            raise LearningFailed
        adapter.step(sums, done)
        return loss

    def _loss(self, adapter: Adapter, samples: Sequence[Sample]) -> float:
        """Mean next-token loss of all samples, nats."""
        with torch.no_grad():
            return self._run(adapter, samples, lambda _: None, lambda: None)[0]

    def _run(
        self, adapter: Adapter, samples: Sequence[Sample], each: Callable[[Tensor], None], again: Callable[[], None]
    ) -> tuple[float, int]:
        """Mean loss and number of learned tokens, `each` called with the sum of every part of the batch. Memory that
        runs out halves the parts and starts over (after `again`)."""
        packed = pack_samples(samples, self.segment, self.fmt.pad_id)
        count, (all_rows, width) = packed.count, packed.ids.shape
        while True:
            rows = min(all_rows, max(1, self._rows_tokens // width))
            try:
                total = 0.0
                with adapter.on(), recomputed(self.base.model) if self.config.recompute else nullcontext():
                    for part in packed.split(rows, self.base.device):
                        loss = sum_loss(self.base.model, part)
                        total += float(loss.detach())
                        each(loss)
                if not math.isfinite(total):
                    raise LearningFailed
                return total / count, count
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise LearningFailed("There is not enough memory to learn this document.") from None
                self._rows_tokens = rows * width // 2
                torch.cuda.empty_cache()
                again()


class _Best:
    """The weights that answered most questions so far."""

    patience = 2  # passes without a better score

    def __init__(self, score: Score | None) -> None:
        self.score, self.high, self.since = score, -1.0, 0
        self.kept: list[Tensor] = []  # leaves

    def is_done(self, adapter: Adapter) -> bool:
        assert self.score is not None
        reached = self.score(_copied_tensors(adapter))
        self.since = 0 if reached > self.high else self.since + 1
        if reached >= self.high:  # as good, and longer learned: the surer answers
            self.high, self.kept = reached, [leaf.detach().clone() for leaf in adapter.leaves]
        return self.since >= self.patience and self.high > 0

    def restore(self, adapter: Adapter) -> None:
        """The adapter is as it was when it answered most; as it is, when nothing was asked."""
        for leaf, kept in zip(adapter.leaves, self.kept, strict=bool(self.kept)):
            leaf.data.copy_(kept)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(tensor.isfinite().all() for tensor in tensors)


def _copied_tensors(adapter: Adapter) -> dict[str, Tensor]:
    return {name: t.detach().float().cpu().clone() for name, t in adapter.tensors().items()}
