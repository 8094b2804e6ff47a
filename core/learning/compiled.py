"""The outer step on pure functions that `torch.compile` can take, block by block.

It computes what `core.learning.outer.step_losses` does with hooks on the model (a test holds both to the same
gradients), 2.7 times as fast on a GPU (LOG.md). Compiled code can't be differentiated twice, so a block's own gradient
(`block_pull`) is a function of its own, which the outer loop differentiates once. All blocks share what is compiled for
one.

Shapes: R rows, T tokens, d width, f MLP width, V vocabulary, D documents (R a multiple of D), U upper blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.embedded.llama import rotate
from core.learning.fast_weights import IGNORE, Prepared, direction
from core.learning.packing import rounded


class Block(NamedTuple):
    """Weights of one Llama block; no grouped keys, no biases."""

    norm1: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    norm2: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor

    @classmethod
    def of(cls, layer: Any) -> Block:
        a, m = layer.self_attn, layer.mlp
        modules = (
            layer.input_layernorm, a.q_proj, a.k_proj, a.v_proj, a.o_proj,
            layer.post_attention_layernorm, m.gate_proj, m.up_proj, m.down_proj,
        )  # fmt: skip
        return cls(*(module.weight for module in modules))


class Weigh(NamedTuple):
    """The token weighting of `Prepared`: d -> 64 -> 1."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def rms(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight


def attend(q: Tensor, k: Tensor, v: Tensor, exact: bool) -> Tensor:
    """Causal attention [R, heads, T, h]; `exact` is written out, since the fused kernels have no second derivative."""
    if not exact:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = (q @ k.transpose(-2, -1)).float() * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1).to(v.dtype) @ v


def block(x: Tensor, w: Block, cos: Tensor, sin: Tensor, delta: Tensor | None, exact: bool) -> Tensor:
    """x [R, T, d], cos and sin [T, h], delta [D, d, f] on the down-projection, or None -> [R, T, d]."""
    rows, length, _ = x.shape
    y = rms(x, w.norm1)
    q, k, v = (F.linear(y, m).view(rows, length, -1, cos.shape[-1]).transpose(1, 2) for m in (w.q, w.k, w.v))
    y = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, exact)
    x = x + F.linear(y.transpose(1, 2).flatten(2), w.o)
    y = rms(x, w.norm2)
    y = F.silu(F.linear(y, w.gate)) * F.linear(y, w.up)
    out = F.linear(y, w.down)
    if delta is not None:
        out = out + torch.bmm(y.reshape(len(delta), -1, y.shape[-1]), delta.transpose(1, 2)).view_as(out)
    return x + out


def block_pull(
    x: Tensor, w: Block, cos: Tensor, sin: Tensor, delta: Tensor | None, above: Tensor
) -> tuple[Tensor, ...]:
    """Gradient of a block at x and, where there is one, at delta, for the gradient `above` [R, T, d] at its output."""
    at = (x,) if delta is None else (x, delta)
    _, pull = torch.func.vjp(lambda x, delta=None: block(x, w, cos, sin, delta, True), *at)
    return pull(above)


def weighted_loss(
    x: Tensor, norm: Tensor, head: Tensor, weigh: Weigh | None, targets: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """x [R, T, d] above the last block, targets [R, T], share [R, 1] (one over the tokens of the row's document)
    -> the inner loss, summed over documents; and the plain mean, nats a token."""
    hidden = rms(x, norm)
    each = F.cross_entropy(
        F.linear(hidden, head).float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
    ).view_as(targets)
    weight: Tensor | float = 1.0
    if weigh is not None:
        inside = F.gelu(F.linear(hidden.float(), weigh.w1, weigh.b1))
        weight = F.softplus(F.linear(inside, weigh.w2, weigh.b2).squeeze(-1)) / math.log(2)
    return (each * weight * share).sum(), each.sum() / (targets != IGNORE).sum()


def loss_pull(
    x: Tensor, norm: Tensor, head: Tensor, weigh: Weigh | None, targets: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of the inner loss at x [R, T, d], and the plain mean loss."""
    return torch.func.grad(weighted_loss, has_aux=True)(x, norm, head, weigh, targets, share)


def stepped(delta: Tensor, gradient: Tensor, rate: Tensor, rule: str) -> Tensor:
    return delta - rate * direction(gradient.float(), rule)


class OuterStep:
    """The losses of an outer step for one model and its preparation, which must have no start and no read-out."""

    def __init__(self, model: Any, prepared: Prepared, *, compiled: bool) -> None:
        c = prepared.config
        if prepared.start or prepared.readout or c.momentum or c.rank or c.order != "whole" or c.shared_rate:
            raise ValueError(
                "a learned start, a read-out, momentum, a low rank, chunks or a shared rate need "
                "core.learning.outer.step_losses"
            )
        self.model, self.prepared = model, prepared
        wrap: Callable[[Any], Any] = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        torch._dynamo.config.recompile_limit = 64  # a block: with and without delta, of each shape
        self.block, self.block_pull, self.loss_pull = wrap(block), wrap(block_pull), wrap(loss_pull)
        self.stepped, self.rounded, self.cross_entropy = wrap(stepped), wrap(rounded), wrap(answer_entropy)
        config = model.config
        h = config.head_dim
        inverse = config.rope_parameters["rope_theta"] ** -(torch.arange(0, h, 2, device=model.device).float() / h)
        angles = torch.outer(torch.arange(2048, device=model.device).float(), inverse).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()

    def run(self, x: Tensor, blocks: Sequence[Block], deltas: Sequence[Tensor | None], exact: bool) -> list[Tensor]:
        """What goes into each block, and what comes out of the last."""
        cos, sin = (a[: x.shape[1]].to(x.dtype) for a in (self.cos, self.sin))
        xs = [x]
        for w, delta in zip(blocks, deltas, strict=True):
            xs.append(self.block(xs[-1], w, cos, sin, delta, exact))
        return xs

    def learn(self, inputs: Tensor, targets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """inputs, targets [D, S, T] -> loss before each step, nats a token; a delta [D, d, f] for each upper block."""
        model, config, layers = self.model.model, self.prepared.config, self.model.model.layers
        blocks = [Block.of(layer) for layer in layers]
        cut = len(blocks) - config.skip - config.layers
        documents = len(inputs)
        share = 1.0 / (targets != IGNORE).flatten(1).sum(1).clamp_min(1)
        share = share.repeat_interleave(inputs.shape[1])[:, None]
        goal = targets.flatten(0, 1)
        weigh = None
        if self.prepared.weigh is not None:
            first, _, second = self.prepared.weigh
            weigh = Weigh(first.weight, first.bias, second.weight, second.bias)
        x = self.run(model.embed_tokens(inputs.flatten(0, 1)), blocks[:cut], [None] * cut, False)[-1]
        cos, sin = (a[: x.shape[1]].to(x.dtype) for a in (self.cos, self.sin))
        deltas = [torch.zeros(documents, *b.down.shape, device=x.device) for b in blocks[cut:][: config.layers]]
        losses = []
        for step in range(config.steps):
            cast: list[Tensor | None] = [*(delta.to(x.dtype) for delta in deltas), *[None] * config.skip]
            xs = self.run(x, blocks[cut:], cast, True)
            above, loss = self.loss_pull(xs[-1], model.norm.weight, self.model.lm_head.weight, weigh, goal, share)
            losses.append(loss)
            rates = self.prepared.log_rates[step].exp()
            for i in reversed(range(len(cast))):
                above, *gradient = self.block_pull(xs[i], blocks[cut + i], cos, sin, cast[i], above)
                if gradient:
                    deltas[i] = self.stepped(deltas[i], gradient[0], rates[i], config.rule)
        return losses, deltas

    def answer(self, questions: Tensor, labels: Tensor, deltas: Sequence[Tensor]) -> Tensor:
        """As `core.learning.outer.answer_loss`. questions, labels [D * n, Q]."""
        x = self._read(questions[:, :-1], deltas)
        goal = labels[:, 1:]
        here = goal != IGNORE
        weight = (1.0 / here.sum(1).clamp_min(1))[:, None].expand_as(goal)[here] / len(goal)
        return self._entropy(x[here], goal[here], weight)

    def read(self, rows: Tensor, deltas: Sequence[Tensor] = ()) -> Tensor:
        """As `core.learning.outer.reading_loss`. rows [R, 2, L + 1]: tokens, weights; a delta [R, d, f] for each."""
        ids, w = rows[:, 0], rows[:, 1, 1:].float()
        x = self._read(ids[:, :-1], deltas)
        here = w > 0
        return self._entropy(x[here], ids[:, 1:][here], w[here] / w[here].sum().clamp_min(1e-6))

    def _read(self, ids: Tensor, deltas: Sequence[Tensor]) -> Tensor:
        """ids [R, T], no deltas or one for each upper block -> [R, T, d] above the last block."""
        model = self.model.model
        x = model.embed_tokens(ids)
        some = [d.to(x.dtype) for d in deltas]
        skip = self.prepared.config.skip
        lower = len(model.layers) - skip - len(some)
        blocks = [Block.of(layer) for layer in model.layers]
        return self.run(x, blocks, [*[None] * lower, *some, *[None] * skip], False)[-1]

    def _entropy(self, x: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
        """Summed weighted cross-entropy of N picked positions; padded to a few sizes, so that few are compiled."""
        more = -len(goal) % 4096
        x, goal, weight = F.pad(x, (0, 0, 0, more)), F.pad(goal, (0, more)), F.pad(weight, (0, more))
        parts = zip(x.split(4096), goal.split(4096), weight.split(4096), strict=True)
        norm, head = self.model.model.norm.weight, self.model.lm_head.weight
        return torch.stack([self.cross_entropy(*part, norm, head) for part in parts]).sum()

    def losses(self, batch: Any, config: Any) -> dict[str, Tensor]:
        """As `core.learning.outer.step_losses`; `config` is its OuterConfig."""
        terms: dict[str, Tensor] = {}
        if len(batch.inputs):
            inner, deltas = self.learn(batch.inputs, batch.targets)
            stored = [self.rounded(d) for d in deltas] if config.two_bits else deltas
            answer = self.answer(batch.questions, batch.labels, stored)
            terms = {"answer": answer, "before": inner[0], "after": inner[-1]}
            if count := len(batch.beside):
                terms["beside"] = self.read(batch.beside, [d[:count] for d in stored])
        if len(batch.reading):
            terms["reading"] = self.read(batch.reading)
        return weighed(terms, config)


def weighed(terms: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The terms of an outer step, and their "total", which carries the graph."""
    weights = {"answer": 1.0, "before": config.language, "beside": config.beside_weight, "reading": config.reading}
    return terms | {"total": sum(weights[k] * v for k, v in terms.items() if k in weights)}


def answer_entropy(x: Tensor, goal: Tensor, weight: Tensor, norm: Tensor, head: Tensor) -> Tensor:
    """x [N, d] above the last block, goal [N], weight [N] -> sum of weight * cross-entropy, nats."""
    losses = F.cross_entropy(F.linear(rms(x, norm), head).float(), goal, reduction="none")
    return (losses * weight).sum()
