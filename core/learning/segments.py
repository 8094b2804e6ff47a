"""A text as segments of equal length, each with the document's heading before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE = -100  # a target that is not learned; what torch's cross-entropy leaves out

Segments = tuple[list[list[int]], list[list[int]]]  # inputs and targets, S lists of T token ids


def segments(ids: Sequence[int], heading: Sequence[int], length: int, pad: int) -> Segments:
    """Cut a text into segments of at most `length` tokens, each after the heading; even lengths, nothing lost.

    Returns: inputs and targets, S lists of `length` tokens; a target is IGNORE on the heading and on padding.
    """
    heading = list(heading)[: length // 2]
    room = length - len(heading)
    count = max(1, math.ceil(len(ids) / room))
    each = max(1, math.ceil(len(ids) / count))
    inputs, targets = [], []
    for start in range(0, len(ids), each):
        part = list(ids[start : start + each])
        row = heading + part
        inputs.append(row + [pad] * (length - len(row)))
        goal = [IGNORE] * len(heading) + part
        targets.append((goal[1:] + [IGNORE] * length)[:length])  # position i predicts token i + 1
    return inputs, targets


def stack_segments(documents: Sequence[Segments], length: int, pad: int, count: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and targets [D, S, T] of documents; shorter ones get empty segments.

    Args:
        count: S, where documents are cut to it; otherwise that of the longest document.
    """
    count = count or max(len(inputs) for inputs, _ in documents)
    all_inputs, all_targets = [], []
    for inputs, targets in documents:
        missing = max(0, count - len(inputs))
        all_inputs.append(inputs[:count] + [[pad] * length] * missing)
        all_targets.append(targets[:count] + [[IGNORE] * length] * missing)
    return torch.tensor(all_inputs), torch.tensor(all_targets)
