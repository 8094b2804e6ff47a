"""LaCT: the chunk's deltas, the rows' lengths, the order of tokens, recall."""

from __future__ import annotations

import pytest
import torch

from core.evaluation.forms import lact
from core.evaluation.forms.lact import SwiGLU

HEADS, D, H, T = 2, 8, 12, 24


def problem(dtype: torch.dtype = torch.float32, scale: float = 1.0):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    memory = SwiGLU(*(w.to(dtype) for w in lact.init_memory(HEADS, D, H, generator=g)))
    k, v = lact.unit_length(draw(HEADS, T, D)), draw(HEADS, T, D)
    return memory, k, v, scale * torch.rand(HEADS, T, 3, generator=g).to(dtype)


def test_deltas_are_those_of_finite_differences() -> None:
    memory, k, v, lr = problem(torch.float64)
    found = lact.deltas(memory, k, v, lr)
    for m, delta in enumerate(found):
        for at in range(0, delta.numel(), 11):
            shift = torch.zeros(delta.numel(), dtype=torch.float64)
            shift[at] = 1e-6
            moved = (memory._replace(**{f"w{m}": memory[m] + s * shift.view_as(delta)}) for s in (1, -1))
            more, less = ((lr[..., m] * (lact.apply(w, k) * v).sum(-1)).sum() for w in moved)
            assert torch.isclose((more - less) / 2e-6, delta.view(-1)[at], rtol=1e-6, atol=1e-8)


def test_without_a_rate_the_memory_stays() -> None:
    memory, k, v, lr = problem(scale=0.0)
    after = lact.write(memory, k, v, lr, 8)
    torch.testing.assert_close(after, memory, rtol=1e-4, atol=1e-5)  # the row scale divides by its length + 1e-5


@pytest.mark.parametrize("muon", [False, True])
def test_rows_keep_their_length(muon: bool) -> None:
    memory, k, v, lr = problem()
    after = lact.write(memory, k, v, lr, 8, momentum=torch.full((HEADS, T, 1), 0.9), muon=muon)
    torch.testing.assert_close(lact.row_lengths(after), lact.row_lengths(memory), rtol=1e-4, atol=1e-5)
    assert all((a - b).norm() > 0.1 for a, b in zip(after, memory, strict=True))


@pytest.mark.parametrize("muon", [False, True])
def test_the_order_of_tokens_in_a_chunk_does_not_matter(muon: bool) -> None:
    memory, k, v, lr = problem()
    p = torch.randperm(T, generator=torch.Generator().manual_seed(1))
    one = lact.write(memory, k, v, lr, T, muon=muon)
    other = lact.write(memory, k[:, p], v[:, p], lr[:, p], T, muon=muon)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("muon", [False, True])
def test_eight_pairs_are_written_and_found_again(muon: bool) -> None:
    g = torch.Generator().manual_seed(3)
    memory = lact.init_memory(1, 64, 64, generator=g)
    k, v = (lact.unit_length(torch.randn(1, 8, 64, generator=g)) for _ in range(2))
    after = lact.write(memory, k, v, torch.full((1, 8, 3), 10.0), 8, muon=muon)
    assert (lact.apply(after, k) @ v.mT)[0].argmax(-1).tolist() == list(range(8))
    assert (lact.apply(memory, k) @ v.mT)[0].argmax(-1).tolist() != list(range(8))


def test_momentum_carries_the_last_chunk_on() -> None:
    memory, k, v, lr = problem()
    plain, none, some = (
        lact.write(memory, k, v, lr, 12, momentum=m)
        for m in (None, torch.zeros(HEADS, T, 1), torch.full((HEADS, T, 1), 0.5))
    )
    torch.testing.assert_close(plain, none)
    assert (some.w1 - plain.w1).norm() > 1e-2


def test_rates_begin_at_their_base() -> None:
    x = torch.randn(3, T, D)
    torch.testing.assert_close(lact.rates(x, torch.zeros(D, 3), 0.001), torch.full((3, T, 3), 0.001))
