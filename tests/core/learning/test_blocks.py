"""Products with the weight as the left factor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.learning.blocks import FEW_COLUMNS, add_product, has_amx, weight_first

SHAPES = [(1, 1), (2, 1), (1, 8), (FEW_COLUMNS, 1)]  # rows, tokens


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_weight_may_be_the_left_factor(shape) -> None:
    y, weight = draw(*shape, 576), draw(960, 576)
    result, usual = weight_first(weight, y), F.linear(y, weight)
    assert result.is_contiguous()
    torch.testing.assert_close(result, usual)
    if has_amx():
        assert result.equal(usual)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_delta", [True, False])
def test_sums_are_those_with_the_weight_as_the_right_factor(shape, with_delta, monkeypatch) -> None:
    x, y, weight = draw(*shape, 576), draw(*shape, 1536), draw(576, 1536)
    delta = draw(shape[0], 576, 1536) if with_delta else None
    sums = []
    for is_first in (True, False):
        monkeypatch.setattr("core.learning.blocks.is_quicker_first", lambda y, answer=is_first: answer)
        sums.append(add_product(x.clone(), y, weight, delta, in_place=True))
    torch.testing.assert_close(*sums)
    if has_amx():
        assert sums[0].equal(sums[1])
