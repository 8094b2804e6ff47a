"""The rows `ttt-linear` and `ttt-mlp`: the states of TTT as branches beside the upper MLPs of any Llama-like model.

    y = MLP(x) + f_W(x),    f_W = 0 at the start

A model that was never trained with TTT layers has no projections that say what a token's key and value are. Its own
next-token loss does: with v = -d loss / d y, LaCT's loss -<f_W(x), v> has the gradient of the next-token loss. So the
delta of a chunk is that gradient, and the step is LaCT's (`core.evaluation.forms.lact.step`): the loss of a large chunk
is measured with what came before, then the chunk is written.

Shapes: R rows, T tokens, d width, n heads of f = d / n, h hidden width of a head (4 f).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from core.learning.adapters.adapter import AdapterLearner
from core.learning.hooks import Branch, upper_mlps, with_branches
from core.learning.muon import orthogonalise
from core.model import LoadedModel


@dataclass(frozen=True)
class BranchSettings:
    depth: int = 1  # 1: TTT-Linear, 2: TTT-MLP
    heads: int = 1
    layers: int = 7  # how many upper blocks carry a branch
    rate: float = 4e-3  # root mean square of a step's change of a matrix


class BranchAdapter:
    """Implements Adapter. Its tensors: `model.layers.I.mlp.w1` [n, f, f or h] and `.w2` [n, h, f]."""

    def __init__(self, base: LoadedModel, settings: BranchSettings) -> None:
        self.model, self.settings = base.model, settings
        self.first: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        for mlp in upper_mlps(base.model, settings.layers):
            for name, tensor in zero_branch(base.model.config.hidden_size, settings).items():
                self.first[f"{mlp}.{name}"] = tensor.to(base.device)
                self.weights[f"{mlp}.{name}"] = tensor.to(base.device, copy=True).requires_grad_(True)
        self.leaves: Sequence[Tensor] = list(self.weights.values())

    def on(self) -> AbstractContextManager[None]:
        return with_branches(self.model, [(branches(self.weights), 1 << 30)])

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], done: float) -> None:
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            move = orthogonalise(gradient)
            leaf -= self.settings.rate * move * torch.rsqrt(move.square().mean() + 1e-20)

    def tensors(self) -> dict[str, Tensor]:
        return self.weights

    def norm(self) -> float:
        square = 0.0
        for name, weight in self.weights.items():
            square += float((weight.detach() - self.first[name]).double().square().sum())
        return math.sqrt(square)


class TTTLinearLearner(AdapterLearner):
    """One linear map a block (and head)."""

    name = "ttt-linear"
    passes = {"quick": 2, "standard": 4, "deep": 8}  # noqa: RUF012
    settings = BranchSettings()

    def start(self) -> BranchAdapter:
        return BranchAdapter(self.base, self.settings)

    def branches(self, weights: Mapping[str, Tensor]) -> dict[str, Branch]:
        return branches(weights)


class TTTMLPLearner(TTTLinearLearner):
    """Two layers with a GELU between; the second is zero at the start."""

    name = "ttt-mlp"
    settings = replace(TTTLinearLearner.settings, depth=2, heads=4)


def zero_branch(width: int, settings: BranchSettings) -> dict[str, Tensor]:
    """Weights of a branch that adds nothing yet. The first of two layers begins as a fixed draw."""
    n, f = settings.heads, width // settings.heads
    if settings.depth == 1:
        return {"w1": torch.zeros(n, f, f)}
    draw = torch.randn(n, f, 4 * f, generator=torch.Generator().manual_seed(0))
    return {"w1": draw * f**-0.5, "w2": torch.zeros(n, 4 * f, f)}


def branches(weights: Mapping[str, Tensor]) -> dict[str, Branch]:
    """By module, what to add to an MLP's output."""
    by_module = {}
    for name, w1 in weights.items():
        if name.endswith(".w1"):
            module = name.removesuffix(".w1")
            by_module[module] = _branch(w1, weights.get(f"{module}.w2"))
    return by_module


def _branch(w1: Tensor, w2: Tensor | None) -> Branch:
    def run(x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (w1.shape[0], -1)).transpose(-3, -2)  # [R, n, T, f]
        z = heads @ w1.to(x.dtype)
        z = z if w2 is None else F.gelu(z, approximate="tanh") @ w2.to(x.dtype)
        return z.transpose(-3, -2).flatten(-2)

    return run
