"""The outer step on pure functions that `torch.compile` can take, block by block, for models of Llama's architecture.

It computes what `core.prepare.step.HookStep` does with hooks on the model (a test holds both to the same
gradients), 2.7 times as fast on a GPU (LOG.md). Compiled code can't be differentiated twice, so a block's own gradient
(`block_vjp`) is a function of its own, which the outer loop differentiates once. All blocks share what is compiled for
one. The reader is merged into the blocks' weights once a step: the gradient passes through the sum W + b a.

Shapes: R rows, T tokens, n heads of width h, d width, f MLP width, V vocabulary, D documents (R a multiple of D),
U upper blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from core.learning.blocks import Block, block, can_run, norm, rotation
from core.learning.muon import Factors, muon
from core.learning.packing import rounded
from core.learning.preparation import Prepared
from core.learning.segments import IGNORE
from core.prepare.step import ENTROPY_AT_ONCE

LONGEST = 2048  # tokens of a row

PARTS = {  # of a `Block` -> names in the model of what is one product there
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def stack_weights(model: Any) -> dict[str, Tensor]:
    """The weights of all blocks by name, each [blocks, out, in], in which the model's own, the same as before, lie from
    now on: what is done to one block's can be done to all at once."""
    stacked = {}
    for name in chain.from_iterable(PARTS.values()):
        linears = [layer.get_submodule(name) for layer in model.model.layers]
        stacked[name] = torch.stack([linear.weight.data for linear in linears])
        for linear, weight in zip(linears, stacked[name], strict=True):
            linear.weight.data = weight
    return stacked


def blocks_of(model: Any, stacked: Mapping[str, Tensor], prepared: Prepared) -> list[Block]:
    """All blocks with the reader in their weights: one batched product for all weights of a name."""
    low_rank, layers = prepared.low_rank(), model.model.layers
    parts: dict[str, Sequence[Tensor]] = {}
    for part, names in PARTS.items():
        merged = []
        for name in names:
            w = stacked[name]
            if low_rank:
                pairs = [low_rank[f"model.layers.{n}.{name}"] for n in range(len(layers))]
                a, b = (torch.stack(factors).to(w.dtype) for factors in zip(*pairs, strict=True))
                w = torch.baddbmm(w, b, a)
            merged.append(w)
        parts[part] = (torch.cat(merged, 1) if len(merged) > 1 else merged[0]).unbind()
    blocks = []
    for n, layer in enumerate(layers):
        norm1, norm2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        blocks.append(Block(norm1=norm1, norm2=norm2, **{part: weights[n] for part, weights in parts.items()}))
    return blocks


class Weigh(NamedTuple):
    """The token weighting of `Prepared`: d -> 64 -> 1."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def attend(y: Tensor, heads: int, exact: bool) -> Tensor:
    """Causal attention; y: queries, keys and values [R, T, n + 2 heads, h] -> [R, T, n h]. `exact` is written out: the
    fused kernels have no second derivative."""
    y = y.transpose(1, 2)
    q, k, v = y.split((y.shape[1] - 2 * heads, heads, heads), 1)
    groups = q.shape[1] // heads
    if groups > 1:
        k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    if exact:
        scores = (q @ k.transpose(-2, -1)).float() * q.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        read = scores.masked_fill(future, -torch.inf).softmax(-1).to(v.dtype) @ v
    else:
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return read.transpose(1, 2).flatten(2)


def causal_block(
    x: Tensor, w: Block, cos: Tensor, sin: Tensor, delta: Tensor | None, exact: bool, eps: float
) -> Tensor:
    """x [R, T, d], cos and sin [T, 1, h], delta [D, d, f] on the down-projection, or None -> [R, T, d]."""
    return block(x, w, cos, sin, partial(attend, exact=exact), delta, eps)[0]


def block_vjp(
    x: Tensor, w: Block, cos: Tensor, sin: Tensor, delta: Tensor | None, above: Tensor, eps: float
) -> tuple[Tensor, ...]:
    """Gradient of a block at x for the gradient `above` [R, T, d] at its output; where there is a delta also what its
    down-projection reads, [R, T, f]: with `above` these are the factors of the delta's own gradient."""
    exactly = partial(attend, exact=True)
    pulled: Any = torch.func.vjp(lambda x: block(x, w, cos, sin, exactly, delta, eps), x, has_aux=True)
    _, pull, inner = pulled
    return pull(above) if delta is None else (*pull(above), inner)


def weighted_loss(
    x: Tensor, final: Tensor, head: Tensor, weigh: Weigh, targets: Tensor, share: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x [R, T, d] above the last block, weights `final` of the norm there, targets [R, T], share [R, 1] (one over the
    tokens of the row's document) -> the inner loss, summed over documents; and the plain mean, nats a token."""
    hidden = norm(x, final, eps)
    logits = F.linear(hidden, head).float().flatten(0, 1)
    each = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="none").view_as(targets)
    inside = F.gelu(F.linear(hidden.float(), weigh.w1, weigh.b1))
    weight = F.softplus(F.linear(inside, weigh.w2, weigh.b2).squeeze(-1)) / math.log(2)
    return (each * weight * share).sum(), each.sum() / (targets != IGNORE).sum()


def loss_gradient(
    x: Tensor, final: Tensor, head: Tensor, weigh: Weigh, targets: Tensor, share: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradient of the inner loss at x [R, T, d], and the plain mean loss."""
    return torch.func.grad(weighted_loss, has_aux=True)(x, final, head, weigh, targets, share, eps)


def muon_step(delta: Tensor, outputs: Tensor, inputs: Tensor, rate: Tensor) -> Tensor:
    """delta [U, D, d, f], its gradient's factors [U, D, N, d] and [U, D, N, f], rate [U] -> delta; Newton and Schulz
    take all matrices together."""
    return delta - rate[: len(delta), None, None, None] * muon(Factors(outputs, inputs))


class LlamaStep:
    """Implements core.prepare.step.OuterStep for one model and its preparation."""

    def __init__(self, model: Any, prepared: Prepared, *, mode: str = "none") -> None:
        """`mode` of torch.compile; "none" leaves the functions as they are."""
        self.model, self.prepared = model, prepared
        torch._dynamo.config.recompile_limit = 64  # a block: with and without delta, of each shape

        def wrap(function: Any) -> Any:
            return function if mode == "none" else torch.compile(function, dynamic=False, mode=mode)

        self.block, self.block_vjp, self.loss_gradient = wrap(causal_block), wrap(block_vjp), wrap(loss_gradient)
        self.muon_step, self.rounded, self.cross_entropy = wrap(muon_step), wrap(rounded), wrap(answer_entropy)
        self.eps = float(model.config.rms_norm_eps)
        positions = torch.arange(LONGEST, device=model.device)[None]
        self.rotation = [each[0] for each in rotation(model, positions.float(), positions)]  # cos, sin [LONGEST, 1, h]
        self.stacked = stack_weights(model)
        self.blocks: list[Block] = []  # of the step that is being computed
        self.fast_blocks = prepared.config.blocks_of(model)  # those with a delta

    @staticmethod
    def can(model: Any, prepared: Any) -> bool:
        """Whether it computes this model's step; the plain step does all others."""
        return can_run(model) and type(prepared) is Prepared

    def run(self, x: Tensor, blocks: Sequence[Block], deltas: Sequence[Tensor | None], exact: bool) -> list[Tensor]:
        """What goes into each block, and what comes out of the last."""
        cos, sin = self._rotation(x)
        xs = [x]
        for w, delta in zip(blocks, deltas, strict=True):
            xs.append(self.block(xs[-1], w, cos, sin, delta, exact, self.eps))
        return xs

    def _rotation(self, x: Tensor) -> list[Tensor]:
        """cos and sin for the tokens of x [R, T, d], [T, 1, h]."""
        return [each[: x.shape[1]].to(x.dtype) for each in self.rotation]

    @contextmanager
    def reader_on(self) -> Iterator[None]:
        self.blocks = blocks_of(self.model, self.stacked, self.prepared)
        try:
            yield
        finally:
            self.blocks = []  # they hold the step's graph, which is to go with the step

    def learn(self, inputs: Tensor, targets: Tensor) -> tuple[Sequence[Tensor], dict[int, Tensor]]:
        """What was learned is by number of the block, [D, d, f]."""
        model, blocks = self.model.model, self.blocks
        cut = self.fast_blocks.start
        share = 1.0 / (targets != IGNORE).flatten(1).sum(1).clamp_min(1)
        share = share.repeat_interleave(inputs.shape[1])[:, None]
        first, _, second = cast(Sequence[Any], self.prepared.weigh)
        weigh = Weigh(first.weight, first.bias, second.weight, second.bias)
        above = model.norm.weight, self.model.lm_head.weight, weigh, targets.flatten(0, 1), share, self.eps
        x = self.run(model.embed_tokens(inputs.flatten(0, 1)), blocks[:cut], [None] * cut, False)[-1]
        cos, sin = self._rotation(x)
        shape = len(self.fast_blocks), len(inputs), *blocks[cut].down.shape
        deltas = torch.zeros(shape, device=x.device)
        losses = []
        for rates in self.prepared.rates():
            delta_per_block = self._delta_per_block(dict(zip(self.fast_blocks, deltas.to(x.dtype), strict=True)))
            xs = self.run(x, blocks[cut:], delta_per_block[cut:], True)
            pull, loss = self.loss_gradient(xs[-1], *above)
            losses.append(loss)
            factors: list[tuple[Tensor, Tensor]] = []  # of each delta's gradient, from above
            for i in reversed(range(cut, len(blocks))):
                above_block = pull
                pull, *inner = self.block_vjp(xs[i - cut], blocks[i], cos, sin, delta_per_block[i], pull, self.eps)
                factors += [(above_block, read) for read in inner]
            outputs, reads = (torch.stack(each) for each in zip(*reversed(factors), strict=True))  # [U, R, T, d or f]
            by_document = [each.reshape(*shape[:2], -1, each.shape[-1]) for each in (outputs, reads)]
            deltas = self.muon_step(deltas, *by_document, rates)
        return losses, dict(zip(self.fast_blocks, self.rounded(deltas).to(x.dtype), strict=True))

    def states(self, ids: Tensor, learned: Mapping[int, Tensor]) -> Tensor:
        """Below the final norm, which `entropy` applies."""
        x = self.model.model.embed_tokens(ids)
        return self.run(x, self.blocks, self._delta_per_block(learned), False)[-1]

    def _delta_per_block(self, deltas: Mapping[int, Tensor]) -> list[Tensor | None]:
        """Of each block its delta, if it has one."""
        return [deltas.get(i) for i in range(len(self.blocks))]

    def entropy(self, states: Tensor, goals: Tensor, weights: Tensor) -> Tensor:
        parts = zip(*(t.split(ENTROPY_AT_ONCE) for t in (states, goals, weights)), strict=True)
        final, head = self.model.model.norm.weight, self.model.lm_head.weight
        return torch.stack([self.cross_entropy(*part, final, head, self.eps) for part in parts]).sum()


def answer_entropy(x: Tensor, goal: Tensor, weight: Tensor, final: Tensor, head: Tensor, eps: float) -> Tensor:
    """x [N, d] above the last block, goal [N], weight [N] -> sum of weight * cross-entropy, nats."""
    losses = F.cross_entropy(F.linear(norm(x, final, eps), head).float(), goal, reduction="none")
    return (losses * weight).sum()
