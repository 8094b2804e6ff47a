"""How much each layer of a model was changed by what it learned."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

from core.learning.packing import SCALE, unpack

LAYER_NUMBER = re.compile(r"\blayers\.(\d+)\b")
UNCUT = 2**31  # more columns than any delta has


def layer_norms(weights: Mapping[str, Tensor]) -> dict[int, float]:
    """L2 norm of the change by layer, of one section's weights as they are stored.

    Args:
        weights: module name -> tensor: packed deltas [d, f], the two factors of a LoRA, whose product counts, or other
            matrices.
    """
    packed: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name + SCALE in weights or name.endswith(SCALE):
            packed[name] = tensor
        elif name.endswith(".lora_A"):
            changes[name] = weights[name.removesuffix(".lora_A") + ".lora_B"].float() @ tensor.float()
        elif not name.endswith(".lora_B"):
            changes[name] = tensor.float()
    changes |= unpack(packed, UNCUT)
    squares: defaultdict[int, float] = defaultdict(float)
    for name, change in changes.items():
        if match := LAYER_NUMBER.search(name):
            squares[int(match[1])] += change.square().sum().item()
    return {layer: square**0.5 for layer, square in sorted(squares.items())}
