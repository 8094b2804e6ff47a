"""A LoRA on a model that stays as it is (Hu et al. 2021, arXiv 2106.09685): y = W x + b a x.

Its factors are named "MODULE/a" [rank, in] and "MODULE/b" [out, rank]; in the module's name a slash stands for each
dot, which a ParameterDict does not allow.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.learning.hooks import LowRank
from core.learning.packing import SCALE


def new_factors(blocks: nn.Module, rank: int) -> dict[str, Tensor]:
    """For every projection of these blocks, `model.model.layers` or a part of them: `a` random, `b` zero."""
    factors = {}
    for name, linear in blocks.named_modules(prefix="model.layers"):
        if isinstance(linear, nn.Linear):
            a = torch.empty(rank, linear.in_features)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            key = name.replace(".", "/")
            factors[f"{key}/a"] = a
            factors[f"{key}/b"] = torch.zeros(linear.out_features, rank)
    return factors


def factors_of_lower_blocks(factors: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """A copy of the factors of the first `count` blocks."""
    return {name: f.detach().clone() for name, f in factors.items() if int(name.split("/")[2]) < count}


def starting_with(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def by_module(factors: Mapping[str, Tensor]) -> LowRank:
    """The pairs (a, b) by the name of their module in the model, with dots."""
    pairs = {}
    for key, a in factors.items():
        if key.endswith("/a"):
            name = key.removesuffix("/a")
            pairs[name.replace("/", ".")] = a, factors[f"{name}/b"]
    return pairs


def merge(model: nn.Module, low_rank: LowRank) -> nn.Module:
    """A second model with W + b a in place of W, in the model's dtype; all else is shared with the first. The model
    itself where there is no LoRA."""
    if not low_rank:
        return model
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    second = copy.deepcopy(model, shared)
    for name, (a, b) in low_rank.items():
        linear: Any = second.get_submodule(name)
        weight = linear.weight
        change = b.float().to(weight.device) @ a.float().to(weight.device)
        linear.weight = nn.Parameter(change.add_(weight).to(weight.dtype), requires_grad=False)
    return second


def as_int8(factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Factors as they are stored: int8, with a float16 scale for each row."""
    stored = {}
    for name, factor in factors.items():
        value = factor.detach().float().cpu()
        scale = (value.abs().amax(1) / 127).clamp_min(1e-8).half()
        stored[name] = (value / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        stored[name + SCALE] = scale
    return stored


def from_int8(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `as_int8` stored as float32; other tensors stay as they are."""
    tensors = {}
    for name, tensor in stored.items():
        if not name.endswith(SCALE):
            scale = stored.get(name + SCALE)
            tensors[name] = tensor if scale is None else tensor.float() * scale.float()[:, None]
    return tensors
