"""Whole outer steps as CUDA graphs: forward and backward are recorded once for each shape of a batch and then replayed,
one launch instead of thousands. On a CPU the same functions run over the same buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core.learning.graphs import capture, warmed_up
from core.prepare.step import OuterStep, StepBatch, mapped, step_losses

Losses = dict[str, Tensor]


class RecordedStep:
    """Gradients of `parameters`, which keep their place; they are those of the last call alone."""

    def __init__(self, outer_step: OuterStep, parameters: Sequence[nn.Parameter], config: Any) -> None:
        self.outer_step, self.parameters, self.config = outer_step, parameters, config
        self.device = parameters[0].device
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self.kept: dict[Any, tuple[StepBatch, Callable[[], Losses]]] = {}
        self.gradients = [torch.zeros_like(p) for p in parameters]
        for p, gradient in zip(parameters, self.gradients, strict=True):
            p.grad = gradient

    def record(self, batches: Iterable[StepBatch]) -> None:
        """Record the step for batches of these shapes. All of them run once before any is recorded: a run beside a
        recording would need the memory of both. The shape with most tokens is recorded first, so that what the others
        need fits into its pieces of memory: pieces of a pool are not joined."""
        new = {}
        for batch in batches:
            if (shape := shape_of(batch)) not in self.kept and shape not in new:
                new[shape] = mapped(Tensor.clone, batch)
                warmed_up(partial(self._run, new[shape]), self.device)
        for shape, buffers in sorted(new.items(), key=lambda item: tokens_of(item[1]), reverse=True):
            run = capture(partial(self._run, buffers), self.device, self.pool, warm_up=False)
            self.kept[shape] = buffers, run

    def __call__(self, batch: StepBatch) -> Losses:
        """Returns: the losses, valid until the next call."""
        if (shape := shape_of(batch)) not in self.kept:
            self.record([batch])
        buffers, run = self.kept[shape]
        torch._foreach_copy_(list(leaves(buffers)), list(leaves(batch)))
        return run()

    def _run(self, batch: StepBatch) -> Losses:
        torch._foreach_zero_(self.gradients)
        losses = step_losses(self.outer_step, batch, self.config)
        losses["total"].backward()
        return {name: loss.detach() for name, loss in losses.items()}


def shape_of(batch: StepBatch) -> tuple[torch.Size, ...]:
    return tuple(value.shape for value in leaves(batch))


def tokens_of(batch: StepBatch) -> int:
    """Tokens of a batch's questions and texts."""
    return batch.asked.ids.numel() + batch.beside.ids.numel() + batch.inputs.numel()


def leaves(values: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples."""
    if isinstance(values, Tensor):
        yield values
    else:
        for value in values:
            yield from leaves(value)
