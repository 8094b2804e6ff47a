"""Whole outer steps as CUDA graphs: forward and backward are recorded once for each shape of a batch and then replayed,
one launch instead of thousands. On a CPU the same functions run over the same buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core.learning.graphs import recorded
from core.prepare.step import OuterStep, StepBatch, step_losses

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

    def __call__(self, batch: StepBatch) -> Losses:
        """Returns: the losses, valid until the next call."""
        values = list(leaves(batch))
        shape = tuple(value.shape for value in values)
        if shape not in self.kept:
            buffers = copied(batch)
            self.kept[shape] = buffers, recorded(partial(self._run, buffers), self.device, self.pool)
        buffers, run = self.kept[shape]
        torch._foreach_copy_(list(leaves(buffers)), values)
        return run()

    def _run(self, batch: StepBatch) -> Losses:
        torch._foreach_zero_(self.gradients)
        losses = step_losses(self.outer_step, batch, self.config)
        losses["total"].backward()
        return {name: loss.detach() for name, loss in losses.items()}


def leaves(values: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples."""
    if isinstance(values, Tensor):
        yield values
    else:
        for value in values:
            yield from leaves(value)


def copied(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.clone()
    each = [copied(value) for value in values]
    return type(values)(*each) if hasattr(values, "_fields") else tuple(each)
