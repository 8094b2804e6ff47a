"""A text as segments of equal length, each with the document's heading before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

IGNORE = -100  # a target that is not learned; what torch's cross-entropy leaves out

Segments = tuple[list[list[int]], list[list[int]]]  # inputs and targets, S lists of T token ids


def split_text(ids: Sequence[int], heading: Sequence[int], length: int) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a text into segments of at most `length` tokens, each after the heading; even lengths, nothing lost.

    Yields: the tokens of a segment, and the target of each: the token after it, IGNORE within the heading and at the
    end.
    """
    heading = list(heading)[: length // 2]
    count = max(1, math.ceil(len(ids) / (length - len(heading))))
    each = max(1, math.ceil(len(ids) / count))
    for start in range(0, len(ids), each):
        part = list(ids[start : start + each])
        targets = [IGNORE] * len(heading) + part
        yield heading + part, [*targets[1:], IGNORE]


def segments(ids: Sequence[int], heading: Sequence[int], length: int, pad: int) -> Segments:
    """The same, inputs padded with `pad` and targets with IGNORE to `length`."""
    inputs, targets = [], []
    for tokens, goals in split_text(ids, heading, length):
        inputs.append(tokens + [pad] * (length - len(tokens)))
        targets.append(goals + [IGNORE] * (length - len(goals)))
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
