"""LaCT: large-chunk test-time training (arXiv 2505.23884). A SwiGLU network is the memory, a whole chunk is one update.

    f_W(x) = W1 [ silu(W0 x) * (W2 x) ],    loss of a token = -<f_W(k), v>

A chunk's gradients are summed into one delta a matrix, given momentum or made orthogonal (Muon), added, and each row of
the matrix is scaled back to the length that it began with.

Shapes: ... batch and heads, n tokens of a chunk, T tokens of a sequence, d head width, h inner width. Tokens are rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.learning.muon import orthogonalise


class SwiGLU(NamedTuple):
    """The memory's matrices; also their deltas, and their rows' lengths."""

    w0: Tensor  # [..., h, d]
    w1: Tensor  # [..., d, h]
    w2: Tensor  # [..., h, d]


def init_memory(heads: int, width: int, inner: int, *, generator: torch.Generator | None = None) -> SwiGLU:
    """N(0, 1 / fan-in), float32."""
    shapes = ((inner, width), (width, inner), (inner, width))
    return SwiGLU(*(torch.randn(heads, o, i, generator=generator) * i**-0.5 for o, i in shapes))


def unit_length(x: Tensor) -> Tensor:
    """Queries and keys have length one in each head. [..., d] -> same."""
    return x / (x.norm(dim=-1, keepdim=True) + 1e-5)


def rates(x: Tensor, w: Tensor, base: float) -> Tensor:
    """One rate a token and matrix: softplus(x w + softplus^-1(base)). x [..., T, d], w [d, 3] -> [..., T, 3]."""
    return F.softplus((x @ w).float() + torch.tensor(base).expm1().log())


def apply(memory: SwiGLU, x: Tensor) -> Tensor:
    """f_W(x). [..., n, d] -> [..., n, d]."""
    w0, w1, w2 = (w.transpose(-2, -1) for w in memory)
    return (F.silu(x @ w0) * (x @ w2)) @ w1


def deltas(memory: SwiGLU, k: Tensor, v: Tensor, lr: Tensor) -> SwiGLU:
    """What a chunk adds: minus the gradient of -<f(k), v>, each token at its own rate, summed over the tokens.

    k, v [..., n, d], lr [..., n, 3] (for w0, w1, w2).
    """
    a, c = k @ memory.w0.transpose(-2, -1), k @ memory.w2.transpose(-2, -1)  # [..., n, h]
    s = torch.sigmoid(a)
    dh = v @ memory.w1  # [..., n, h]
    lr0, lr1, lr2 = lr.split(1, -1)
    return SwiGLU(
        (lr0 * dh * c * s * (1 + a * (1 - s))).transpose(-2, -1) @ k,
        (lr1 * v).transpose(-2, -1) @ (a * s * c),
        (lr2 * dh * a * s).transpose(-2, -1) @ k,
    )


def row_lengths(memory: SwiGLU) -> SwiGLU:
    """[..., out, 1] for each matrix: the norm over the input channel."""
    return SwiGLU(*(w.norm(dim=-1, keepdim=True) for w in memory))


def step(delta: Tensor, before: Tensor | None, momentum: Tensor | float, muon: bool) -> tuple[Tensor, Tensor]:
    """The update of one matrix: (what is added to it, what the next momentum uses).

    With `muon` the size of the rates does not matter, only their ratio between tokens.
    """
    if before is not None:
        delta = delta + momentum * before
    return (orthogonalise(delta) if muon else delta), delta


def update(memory: SwiGLU, added: SwiGLU, lengths: SwiGLU) -> SwiGLU:
    """W <- W + D, then every row back to its first length."""
    matrices = []
    for w, d, length in zip(memory, added, lengths, strict=True):
        moved = w + d
        matrices.append(moved / (moved.norm(dim=-1, keepdim=True) + 1e-5) * length)
    return SwiGLU(*matrices)


def write(
    memory: SwiGLU, k: Tensor, v: Tensor, lr: Tensor, chunk: int, *, momentum: Tensor | None = None, muon: bool = False
) -> SwiGLU:
    """The memory after a sequence, one chunk of so many tokens after the other.

    k, v [..., T, d], lr [..., T, 3], momentum [..., T, 1] in 0..1 (its mean over a chunk counts).
    """
    lengths = row_lengths(memory)
    before: tuple[Tensor | None, ...] = (None, None, None)
    for start in range(0, k.shape[-2], chunk):
        part = (..., slice(start, start + chunk), slice(None))
        m = 0.0 if momentum is None else momentum[part].mean(-2, keepdim=True)
        delta = deltas(memory, k[part], v[part], lr[part])
        stepped = [step(d, b, m, muon) for d, b in zip(delta, before, strict=True)]
        before = tuple(b for _, b in stepped)
        memory = update(memory, SwiGLU(*(d for d, _ in stepped)), lengths)
    return memory
