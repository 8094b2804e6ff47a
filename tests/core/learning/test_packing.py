"""Deltas in two bits."""

from __future__ import annotations

import pytest
import torch

from core.learning.packing import pack, rounded, unpack

DELTA = torch.randn(3, 8, 200, generator=torch.Generator().manual_seed(4)) * 1e-2  # a row of 50 bytes


def test_unpacking_gives_what_the_outer_loop_trained_with() -> None:
    for one in DELTA:
        assert torch.equal(unpack(pack({"m": one}), 200)["m"], rounded(one))


def test_a_weight_takes_two_bits_and_a_row_a_scale() -> None:
    packed = pack({"m": torch.randn(512, 1408)})
    assert sum(v.numel() * v.element_size() for v in packed.values()) == 512 * (1408 * 2 / 8 + 2)


def test_weights_of_former_releases_are_read() -> None:
    """They had a scale for each 64 weights of a row, and rows were padded to a multiple of 64."""
    groups = torch.arange(256).reshape(4, 64)
    packed = pack({"m": groups % 5 - 2.0})  # as if each group were a row
    former = {"m": packed["m"].reshape(1, -1), "m.s": packed["m.s"].reshape(1, -1)}
    torch.testing.assert_close(unpack(former, 200)["m"], unpack(packed, 64)["m"].reshape(1, -1)[:, :200])


def test_rounding_keeps_the_projection_and_the_noise_low() -> None:
    error = rounded(DELTA) - DELTA
    assert float((rounded(DELTA) * DELTA).sum() / DELTA.square().sum()) == pytest.approx(1, abs=0.03)
    assert -10 * (error.square().mean() / DELTA.square().mean()).log10() > 7.5


def test_the_gradient_passes_straight_through() -> None:
    delta = DELTA.clone().requires_grad_()
    rounded(delta).sum().backward()
    assert torch.equal(delta.grad, torch.ones_like(DELTA))


def test_nothing_learned_stays_nothing() -> None:
    assert not unpack(pack({"m": torch.zeros(4, 64)}), 64)["m"].any()
