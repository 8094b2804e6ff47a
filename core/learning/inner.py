"""The inner loop of learners that train an adapter: a document as packed sequences, one loss, many small steps.

What is attached to the model is the adapter's own affair (`core.learning.lora`, `core.learning.branches`).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import LearningFailed
from core.learning.base import LearnConfig
from core.learning.fast_weights import IGNORE, segments
from core.model import LoadedModel
from core.ports import Learned
from core.prompts import PromptFormat
from core.types import Chunk, Metrics, Step

Branch = Callable[[Tensor], Tensor]  # a module's input [R, T, in] -> what is added to its output [R, T, out]


@dataclass(frozen=True)
class Sample:
    """One training sequence."""

    ids: Sequence[int]
    targets: Sequence[int]  # the token that should follow each; IGNORE: not learned


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
def added(model: nn.Module, groups: Sequence[tuple[Mapping[str, Branch], int]]) -> Iterator[None]:
    """Within the context each module's output gains its branch, on the rows of each group; further rows gain nothing.

    groups: (module name -> branch, number of batch rows), in row order.
    """

    def hook(mine: Sequence[tuple[Branch | None, int]]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(_module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            parts, at = [], 0
            for branch, rows in mine:
                part = slice(at, at + rows)
                parts.append(y[part] + branch(args[0][part]) if branch else y[part])
                at += rows
            return torch.cat([*parts, y[at:]])

        return add

    with ExitStack() as stack:
        for name in sorted({name for branches, _ in groups for name in branches}):
            mine = [(branches.get(name), rows) for branches, rows in groups]
            stack.callback(model.get_submodule(name).register_forward_hook(hook(mine)).remove)
        yield


def text_samples(chunks: Sequence[Chunk], heading: Sequence[int], length: int) -> list[Sample]:
    """The document, cut into even segments of at most `length` tokens, each after the heading."""
    ids = [i for chunk in chunks for i in chunk.token_ids]
    cut = zip(*segments(ids, heading, length, pad=0), strict=True)
    ends = [(row, goal, max(i for i, t in enumerate(goal) if t != IGNORE) + 1) for row, goal in cut]
    return [Sample(row[:end], goal[:end]) for row, goal, end in ends]


def pack(samples: Sequence[Sample], length: int, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Several sequences a row, first fit, so that next to nothing is computed on padding.

    Returns: ids, targets, positions, each [R, L], L <= max(length, longest). Positions begin at 0 with each sequence:
    transformers then keeps the sequences of a row apart.
    """
    rows: list[list[Sample]] = []
    length = max(length, *(len(s.ids) for s in samples))
    for s in sorted(samples, key=lambda s: -len(s.ids)):
        row = next((r for r in rows if sum(len(x.ids) for x in r) + len(s.ids) <= length), None)
        if row is None:
            rows.append([s])
        else:
            row.append(s)
    widest = max(sum(len(s.ids) for s in row) for row in rows)
    fill = lambda parts, empty: (parts + [empty] * widest)[:widest]  # noqa: E731
    ids = [fill([i for s in row for i in s.ids], pad) for row in rows]
    targets = [fill([t for s in row for t in s.targets], IGNORE) for row in rows]
    positions = [fill([p for s in row for p in range(len(s.ids))], 0) for row in rows]
    return torch.tensor(ids), torch.tensor(targets), torch.tensor(positions)


def sum_loss(model: nn.Module, ids: Tensor, targets: Tensor, positions: Tensor) -> Tensor:
    """Sum of the next-token cross-entropies, nats, float32. All [R, L]; logits only where something is learned."""
    hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    wanted = targets != IGNORE
    return F.cross_entropy(model.lm_head(hidden[wanted]).float(), targets[wanted], reduction="sum")


class AdapterLearner:
    """Learns a document as one adapter, by next tokens. A subclass says which adapter, and how it is attached."""

    name: str
    segment = 128  # tokens of a sequence, its heading included
    step_tokens = 2048  # tokens of one step: what LaCT calls a large chunk
    passes: Mapping[str, int]  # over the document, by effort

    def __init__(self, base: LoadedModel, fmt: PromptFormat, config: LearnConfig) -> None:
        self.base, self.fmt, self.config = base, fmt, config
        self._rows_tokens = config.batch_tokens  # halved when memory runs out

    def start(self) -> Adapter:
        """An adapter that changes nothing yet."""
        raise NotImplementedError

    def branches(self, weights: Mapping[str, Tensor]) -> dict[str, Branch]:
        """Weights of one section, by module -> what to add to each module's output."""
        raise NotImplementedError

    def learn(
        self, chunks: Sequence[Chunk], *, title: str, extra: Sequence[Sample] = ()
    ) -> Generator[Step, None, Learned]:
        """Learn one document; `extra` sequences (study material) are mixed into every pass.

        Raises: LearningFailed when a loss or a weight is not finite, or memory does not suffice for one sequence.
        """
        began = time.perf_counter()
        self._rows_tokens = self.config.batch_tokens
        text = text_samples(chunks, self.fmt.heading(title), self.segment)
        batches = self._batches([*text, *extra], self.passes[self.config.effort])
        adapter = self.start()
        history, initial = [], self._loss(adapter, text)
        for done, batch in enumerate(batches):
            history.append(self._step(adapter, batch, done / len(batches)))
            yield Step(done + 1, len(batches), history[-1])
        final = self._loss(adapter, text)
        tensors = {f"0/{name}": t.detach().float().cpu() for name, t in adapter.tensors().items()}
        if not all(t.isfinite().all() for t in tensors.values()):
            raise LearningFailed
        tokens, seconds = sum(c.token_count for c in chunks), time.perf_counter() - began
        metrics = Metrics(initial, final, tuple(history), len(chunks), tokens, seconds, adapter.norm())
        return Learned(tensors, (0,) * len(chunks), metrics)

    def attach(self, groups: Sequence[tuple[Mapping[str, Tensor], int]]) -> AbstractContextManager[None]:
        place = {"device": self.base.device, "dtype": self.base.dtype}
        ready = [({n: t.to(**place) for n, t in weights.items()}, rows) for weights, rows in groups]
        return added(self.base.model, [(self.branches(weights), rows) for weights, rows in ready])

    def _batches(self, samples: Sequence[Sample], passes: int) -> list[list[Sample]]:
        """Every sample once a pass, in a new order each time, in equal batches of at most `step_tokens` tokens."""
        rng, batches = random.Random(0), []
        count = math.ceil(sum(len(s.ids) for s in samples) / self.step_tokens)
        for _ in range(passes):
            order = rng.sample(samples, len(samples))
            batches += [order[i::count] for i in range(count) if order[i::count]]
        return batches

    def _step(self, adapter: Adapter, batch: Sequence[Sample], done: float) -> float:
        """One step. Returns: the batch's loss before it, nats a token."""
        sums = [torch.zeros_like(leaf) for leaf in adapter.leaves]
        scale = 1024.0 if self.base.dtype == torch.float16 else 1.0  # small gradients vanish in float16

        def backward(loss: Tensor) -> None:
            found = torch.autograd.grad(loss * scale, adapter.leaves)
            torch._foreach_add_(sums, [g.float() for g in found])

        loss, count = self._run(adapter, batch, backward, lambda: torch._foreach_zero_(sums))
        torch._foreach_div_(sums, count * scale)
        if not all(g.isfinite().all() for g in sums):
            raise LearningFailed
        adapter.step(sums, done)
        return loss

    def _loss(self, adapter: Adapter, samples: Sequence[Sample]) -> float:
        """Mean next-token loss of all samples, nats."""
        with torch.no_grad():
            return self._run(adapter, samples, lambda _: None, lambda: None)[0]

    def _run(
        self,
        adapter: Adapter,
        samples: Sequence[Sample],
        each: Callable[[Tensor], None],
        again: Callable[[], None],
    ) -> tuple[float, int]:
        """Mean loss and number of learned tokens, `each` called with the sum of every part of the batch. Memory that
        runs out halves the parts and starts over (after `again`)."""
        packed = pack(samples, self.segment, self.fmt.pad_id)
        count = int((packed[1] != IGNORE).sum())
        while True:
            rows = min(len(packed[0]), max(1, self._rows_tokens // packed[0].shape[1]))
            try:
                total = 0.0
                with adapter.on():
                    for part in zip(*(t.to(self.base.device).split(rows) for t in packed), strict=True):
                        loss = sum_loss(self.base.model, *part)
                        total += float(loss.detach())
                        each(loss)
                if not math.isfinite(total):
                    raise LearningFailed
                return total / count, count
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise LearningFailed("There is not enough memory to learn this document.") from None
                self._rows_tokens = rows * packed[0].shape[1] // 2
                torch.cuda.empty_cache()
                again()
