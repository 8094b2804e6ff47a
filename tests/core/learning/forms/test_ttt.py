"""TTT-Linear and TTT-MLP: gradients, dual and primal form, decoding, both directions."""

from __future__ import annotations

import pytest
import torch

from core.evaluation.forms import ttt
from core.evaluation.forms.ttt import Affine, Norm, Rates

HEADS, F = 2, 8
DEPTHS = pytest.mark.parametrize("depth", [1, 2], ids=["linear", "mlp"])


def problem(depth: int, tokens: int = 37, dtype: torch.dtype = torch.float32, base: float = 1.0):
    """A state, a norm with scale and shift, queries, keys, values and learned rates, all random."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    state = tuple(Affine(10 * a.w.to(dtype), draw(*a.b.shape)) for a in ttt.init_state(HEADS, F, depth, generator=g))
    norm = Norm(1 + 0.3 * draw(HEADS, 1, F), 0.3 * draw(HEADS, 1, F))
    q, k, v = (draw(HEADS, tokens, F) for _ in range(3))
    x, w, c, a = draw(tokens, 12), draw(HEADS, 12), draw(HEADS), 0.02 * draw(16)
    return state, norm, (q, k, v), ttt.rates(x, w, c, a, base, F)


def one_by_one(state, norm, qkv, rate: Rates):
    """All tokens by the primal form."""
    memory, outs = ttt.start_memory(state), []
    for i in range(qkv[0].shape[-2]):
        parts = (x[..., i : i + 1, :] for x in qkv)
        out, memory = ttt.step(memory, *parts, rate.token[..., i : i + 1], rate.factor, norm)
        outs.append(out)
    return torch.cat(outs, -2), memory


@DEPTHS
def test_gradients_are_those_of_finite_differences(depth: int) -> None:
    state, norm, (_, k, v), _ = problem(depth, tokens=3, dtype=torch.float64)
    pairs = ttt.token_gradients(state, k, v, norm)
    for n, (layer, (x, g)) in enumerate(zip(state, pairs, strict=True)):
        for name, closed in (("w", x.transpose(-2, -1) @ g), ("b", g.sum(-2, keepdim=True))):
            for at in range(0, closed.numel(), 29):
                shift = torch.zeros_like(getattr(layer, name)).view(-1)
                shift[at] = 1e-6
                layers = (layer._replace(**{name: getattr(layer, name) + s * shift.view_as(closed)}) for s in (1, -1))
                states = ((*state[:n], moved, *state[n + 1 :]) for moved in layers)
                more, less = (ttt.loss(ttt.apply(s, k), v - k, norm).sum() for s in states)
                assert torch.isclose((more - less) / 2e-6, closed.view(-1)[at], rtol=1e-5, atol=1e-7)


@DEPTHS
def test_the_dual_form_is_the_primal_form(depth: int) -> None:
    state, norm, qkv, rate = problem(depth, tokens=48)
    dual, after = ttt.scan(ttt.start_memory(state), *qkv, rate, norm)
    primal, stepped = one_by_one(state, norm, qkv, rate)
    torch.testing.assert_close(dual, primal, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.start, stepped.start, rtol=1e-5, atol=1e-5)


@DEPTHS
def test_without_a_rate_nothing_is_learned(depth: int) -> None:
    state, norm, qkv, rate = problem(depth, base=0.0)
    out, memory = ttt.scan(ttt.start_memory(state), *qkv, rate, norm)
    torch.testing.assert_close(out, qkv[0] + ttt.layer_norm(ttt.apply(state, qkv[0]), norm))
    torch.testing.assert_close(memory.start, state, rtol=0, atol=0)


@DEPTHS
@pytest.mark.parametrize("tokens", [32, 33, 47])  # 0, 1 and 15 modulo the mini-batch
def test_reading_then_decoding_is_reading_all(depth: int, tokens: int) -> None:
    state, norm, qkv, rate = problem(depth, tokens=tokens + 1)
    whole, _ = ttt.scan(ttt.start_memory(state), *qkv, rate, norm)
    first = Rates(rate.token[..., :tokens], rate.factor)
    _, memory = ttt.scan(ttt.start_memory(state), *(x[..., :tokens, :] for x in qkv), first, norm)
    out, _ = ttt.step(memory, *(x[..., tokens:, :] for x in qkv), rate.token[..., tokens:], rate.factor, norm)
    torch.testing.assert_close(out, whole[..., tokens:, :], rtol=1e-5, atol=1e-5)


@DEPTHS
@pytest.mark.parametrize("j", [0, 15, 16, 20])
def test_a_token_changes_nothing_before_it(depth: int, j: int) -> None:
    state, norm, qkv, rate = problem(depth)
    before, _ = ttt.scan(ttt.start_memory(state), *qkv, rate, norm)
    changed = [x.clone() for x in qkv]
    for x in changed:
        x[..., j, :] += 1
    after, _ = ttt.scan(ttt.start_memory(state), *changed, rate, norm)
    torch.testing.assert_close(after[..., :j, :], before[..., :j, :])
    assert (after[..., j, :] - before[..., j, :]).abs().min() > 0


@DEPTHS
def test_the_inner_loss_falls_where_it_is_read_again(depth: int) -> None:
    state, norm, (_, k, v), rate = problem(depth, tokens=16)
    memory = ttt.start_memory(state)
    for _ in range(20):
        _, memory = ttt.scan(memory, k, k, v, rate, norm)
    before, after = (ttt.loss(ttt.apply(s, k), v - k, norm).mean() for s in (state, memory.start))
    assert after < 0.8 * before
