"""TTT-Linear and TTT-MLP: the hidden state is a small network, trained while it reads (Sun et al., arXiv 2407.04620).

For each token a key k, a value v and a query q, of f numbers a head. The state f_W learns t = v - k from k:

    Z = f_W(k),    loss = 1/2 || LN(Z) - t ||^2,    output = q + LN(f_W(q))

W takes one gradient step a token, with the gradient taken at the weights of the start of its mini-batch (K tokens), so
that a mini-batch is a few matrix products (`dual`) and gives what K single steps give (`step`).

Shapes: ... batch and heads, T tokens, K tokens of a mini-batch, f head width, h hidden width (4 f). Tokens are rows.
A state is one affine layer (TTT-Linear: f -> f) or two with a GELU between (TTT-MLP: f -> h -> f).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Affine(NamedTuple):
    """x -> x w + b."""

    w: Tensor  # [..., in, out]
    b: Tensor  # [..., 1, out]


State = tuple[Affine, ...]  # one layer: TTT-Linear; two: TTT-MLP


class Norm(NamedTuple):
    """Scale and shift of a head's LayerNorm."""

    gamma: Tensor  # [..., 1, f]
    beta: Tensor  # [..., 1, f]


class Memory(NamedTuple):
    """What decoding carries from token to token."""

    start: State  # the weights at the start of the unfinished mini-batch
    moved: State  # sum over its tokens of (rate * gradient), without the position's factor
    length: int  # tokens of the unfinished mini-batch, 0..K-1


class Rates(NamedTuple):
    """eta_ij = factor_i * token_j, for output position i and token j <= i of one mini-batch."""

    token: Tensor  # [..., T]
    factor: Tensor  # [K]


def init_state(heads: int, width: int, depth: int = 1, *, generator: torch.Generator | None = None) -> State:
    """The learned starting point before any training: N(0, 0.02), zero shift. depth 1: TTT-Linear, 2: TTT-MLP."""
    widths = (width, width) if depth == 1 else (width, 4 * width, width)
    pairs = pairwise(widths)
    return tuple(
        Affine(torch.randn(heads, i, o, generator=generator) * 0.02, torch.zeros(heads, 1, o)) for i, o in pairs
    )


def init_norm(heads: int, width: int) -> Norm:
    return Norm(torch.ones(heads, 1, width), torch.zeros(heads, 1, width))


def rates(x: Tensor, w: Tensor, c: Tensor, a: Tensor, base: float, width: int) -> Rates:
    """Learned rates: token_j = base * sigmoid(x_j . w + c) / f,  factor_i = max(0, 1/i + a_i), i = 1..K.

    x [..., T, d], w [heads, d], c [heads], a [K] (0 at the start); base is 1.0 for TTT-Linear and 0.1 for TTT-MLP.
    Returns: token [..., heads, T] and factor [K].
    """
    token = base * torch.sigmoid(x @ w.T + c) / width
    place = torch.arange(1, len(a) + 1, device=a.device, dtype=a.dtype)
    return Rates(token.transpose(-2, -1), (1 / place + a).clamp_min(0))


def layer_norm(z: Tensor, norm: Norm, eps: float = 1e-6) -> Tensor:
    """[..., f] -> [..., f], normalised over f (biased variance), scaled and shifted by the head's own numbers."""
    return F.layer_norm(z, z.shape[-1:], eps=eps) * norm.gamma + norm.beta


def loss(z: Tensor, target: Tensor, norm: Norm) -> Tensor:
    """The inner loss 1/2 || LN(z) - target ||^2 of each token. [..., T, f] -> [..., T]."""
    return 0.5 * (layer_norm(z, norm) - target).square().sum(-1)


def loss_gradient(z: Tensor, target: Tensor, norm: Norm, eps: float = 1e-6) -> Tensor:
    """d loss / d z, closed form: (f u - sum(u) - xhat sum(u xhat)) / (f s), u = (LN(z) - target) gamma. [..., T, f]."""
    f = z.shape[-1]
    s = (z.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    xhat = (z - z.mean(-1, keepdim=True)) / s
    u = (xhat * norm.gamma + norm.beta - target) * norm.gamma
    return (f * u - u.sum(-1, keepdim=True) - xhat * (u * xhat).sum(-1, keepdim=True)) / (f * s)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def gelu_slope(x: Tensor) -> Tensor:
    """d gelu(x) / d x, tanh form."""
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)


def apply(state: State, x: Tensor) -> Tensor:
    """f_W(x). [..., T, f] -> [..., T, f]."""
    for n, (w, b) in enumerate(state):
        x = (gelu(x) if n else x) @ w + b
    return x


def read(state: State, q: Tensor, norm: Norm) -> Tensor:
    """The output for queries at fixed weights: q + LN(f_W(q)). [..., T, f]."""
    return q + layer_norm(apply(state, q), norm)


def token_gradients(state: State, k: Tensor, v: Tensor, norm: Norm) -> list[tuple[Tensor, Tensor]]:
    """For each layer (x, g): its inputs [..., T, in] and d loss / d output [..., T, out] at `state`, token by token.

    The gradient of a token for the layer's w is x^T g, for its b it is g.
    """
    inputs, outs, x = [], [], k
    for n, (w, b) in enumerate(state):
        inputs.append(gelu(x) if n else x)
        x = inputs[-1] @ w + b
        outs.append(x)
    g = loss_gradient(outs[-1], v - k, norm)
    pairs = [(inputs[-1], g)]
    for n in range(len(state) - 1, 0, -1):
        g = (g @ state[n].w.transpose(-2, -1)) * gelu_slope(outs[n - 1])
        pairs.insert(0, (inputs[n - 1], g))
    return pairs


def dual(state: State, q: Tensor, k: Tensor, v: Tensor, eta: Tensor, norm: Norm) -> tuple[Tensor, State]:
    """One mini-batch at once (the dual form). q, k, v [..., K, f], eta [..., K, K] -> outputs [..., K, f], state.

    Output i has seen the tokens j <= i, its own included.
    """
    eta = eta.tril()
    last = eta[..., -1:, :].transpose(-2, -1)  # [..., K, 1]
    x, after = q, []
    for n, ((w, b), (inputs, g)) in enumerate(zip(state, token_gradients(state, k, v, norm), strict=True)):
        x = gelu(x) if n else x
        x = x @ w - (eta * (x @ inputs.transpose(-2, -1))) @ g + b - eta @ g
        after.append(Affine(w - (last * inputs).transpose(-2, -1) @ g, b - (last * g).sum(-2, keepdim=True)))
    return q + layer_norm(x, norm), tuple(after)


def step(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, factor: Tensor, norm: Norm
) -> tuple[Tensor, Memory]:
    """One token (the primal form, for decoding). q, k, v [..., 1, f], rate [..., 1], factor [K] -> output, memory."""
    pairs = token_gradients(memory.start, k, v, norm)
    rate = rate[..., None]
    steps: list[Affine] = []
    here: list[Affine] = []
    for (w, b), before, (x, g) in zip(memory.start, memory.moved, pairs, strict=True):
        after = Affine(before.w + (rate * x).transpose(-2, -1) @ g, before.b + rate * g)
        steps.append(after)
        here.append(Affine(w - factor[memory.length] * after.w, b - factor[memory.length] * after.b))
    moved, now = tuple(steps), tuple(here)
    out = read(now, q, norm)
    full = memory.length + 1 == len(factor)
    return out, start_memory(now) if full else Memory(memory.start, moved, memory.length + 1)


def start_memory(state: State) -> Memory:
    return Memory(state, tuple(Affine(torch.zeros_like(w), torch.zeros_like(b)) for w, b in state), 0)


def scan(memory: Memory, q: Tensor, k: Tensor, v: Tensor, rate: Rates, norm: Norm) -> tuple[Tensor, Memory]:
    """Read T tokens: whole mini-batches by `dual`, the rest (and what completes an unfinished one) by `step`.

    q, k, v [..., T, f], rate.token [..., T] -> outputs [..., T, f], memory. Causal: output i depends on tokens <= i.
    """
    outs, start, size, total = [], 0, len(rate.factor), q.shape[-2]
    while start < total:
        if memory.length == 0 and start + size <= total:
            part = slice(start, start + size)
            eta = rate.factor[:, None] * rate.token[..., None, part]
            out, state = dual(memory.start, q[..., part, :], k[..., part, :], v[..., part, :], eta, norm)
            memory = start_memory(state)
        else:
            part = slice(start, start + 1)
            out, memory = step(
                memory, q[..., part, :], k[..., part, :], v[..., part, :], rate.token[..., part], rate.factor, norm
            )
        outs.append(out)
        start = part.stop
    return torch.cat(outs, -2), memory
