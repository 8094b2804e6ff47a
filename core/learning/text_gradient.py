"""The loss of a text under fast weights, and its gradient.

Shapes: D documents of S segments of T tokens; R rows are segments; d width, f width of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.learning.hooks import attached, decoder_slice, down_projections
from core.learning.muon import Factors
from core.learning.segments import IGNORE

TokenWeights = Callable[[Tensor], Tensor]  # last hidden states [..., d] -> the weight of each token's loss [...]
Text = Sequence[tuple[Tensor, Tensor]]  # parts of R rows: states below the fast weights [R, T, d], targets [R, T]
LOGITS_AT_ONCE = (
    512  # tokens whose logits are there together; the logits of a whole batch would be the largest tensor by far
)


def states_below(
    model: Any, inputs: Tensor, targets: Tensor, blocks: range, micro_rows: int | None, differentiable: bool
) -> Text:
    """The text as states below the first of the blocks, which no step changes. inputs, targets [D, S, T].

    Raises: ValueError (`micro_rows` for several documents).
    """
    documents, segments, _ = inputs.shape
    if micro_rows and documents > 1:
        raise ValueError("micro_rows needs one document at a time")
    rows = micro_rows or documents * segments
    text = []
    with torch.set_grad_enabled(differentiable), decoder_slice(model, 0, blocks.start, norm=False) as lower:
        for ids, goals in zip(inputs.flatten(0, 1).split(rows), targets.flatten(0, 1).split(rows), strict=True):
            text.append((lower(input_ids=ids, use_cache=False).last_hidden_state, goals))
    return text


def text_gradient(
    model: Any,
    text: Text,
    counts: Tensor,
    blocks: range,
    fast: Mapping[str, Tensor],
    token_weights: TokenWeights,
    differentiable: bool,
) -> tuple[float | Tensor, dict[str, Tensor | Factors]]:
    """The plain mean loss, nats a token, and the gradient of the weighted one at the fast weights, [D, d, f] each; that
    of a text in one part as its factors, from which a step is quicker to compute.

    Args:
        counts: tokens of each document, [D].
        fast: module name -> [D, d, f].
        differentiable: both carry the graph; the text is one part.
    """
    leaves = {}
    for name, w in fast.items():
        leaves[name] = w if differentiable and w.requires_grad else w.detach().requires_grad_()
    loss: float | Tensor = 0.0
    parts: list[list[Factors]] = []
    for below, targets in text:
        captured: dict[str, tuple[Tensor, Tensor]] = {}
        with torch.enable_grad(), second_order() if differentiable else nullcontext():
            hidden = upper_states(model, below, blocks, leaves, captured)
        inputs, added = zip(*(captured[name] for name in leaves), strict=True)
        if differentiable:
            losses = token_losses(model, hidden, targets)
            weighted = (losses * token_weights(hidden)).view(len(counts), -1).sum(1) / counts
            loss = loss + losses.sum() / counts.sum()
            at_outputs = torch.autograd.grad(weighted.sum(), added, create_graph=True)
        else:
            share = (1.0 / counts).repeat_interleave(len(below) // len(counts))
            at_hidden, losses = gradient_at_hidden(model, hidden, targets, share, token_weights)
            loss += float(losses.sum() / counts.sum())
            at_outputs = torch.autograd.grad(hidden, added, at_hidden)
            inputs = tuple(x.detach() for x in inputs)
        parts.append([Factors(*pair) for pair in zip(at_outputs, inputs, strict=True)])
    if len(parts) == 1:
        return loss, dict(zip(leaves, parts[0], strict=True))
    sums = [torch.stack(list(map(Factors.matrix, same))).sum(0) for same in zip(*parts, strict=True)]
    return loss, dict(zip(leaves, sums, strict=True))


@torch.no_grad()
def text_loss(model: Any, text: Text, counts: Tensor, blocks: range, fast: Mapping[str, Tensor]) -> float:
    """The plain mean loss, nats a token."""
    loss = 0.0
    for below, targets in text:
        losses = token_losses(model, upper_states(model, below, blocks, fast), targets)
        loss += float(losses.sum() / counts.sum())
    return loss


def upper_states(
    model: Any,
    below: Tensor,
    blocks: range,
    fast: Mapping[str, Tensor],
    captured: dict[str, tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Last hidden states [R, T, d] from the states below the first of the blocks, with the fast weights `attached`."""
    documents = len(next(iter(fast.values())))
    rows = [len(below) // documents] * documents
    with (
        attached(down_projections(model, blocks), fast, rows, captured),
        decoder_slice(model, blocks.start, len(model.model.layers), norm=True) as upper,
    ):
        return upper(inputs_embeds=below, use_cache=False).last_hidden_state


def token_losses(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Next-token cross-entropy, nats. hidden [R, T, d], targets [R, T] (IGNORE gives 0) -> [R, T], float32. Only what
    counts meets the vocabulary, by far the largest product."""
    here = targets != IGNORE
    losses = F.cross_entropy(model.lm_head(hidden[here]).float(), targets[here], reduction="none")
    return losses.new_zeros(targets.shape).masked_scatter(here, losses)


def gradient_at_hidden(
    model: Any, hidden: Tensor, targets: Tensor, share: Tensor, token_weights: TokenWeights
) -> tuple[Tensor, Tensor]:
    """The weighted loss's gradient at hidden [R, T, d], and the plain losses [R, T], nats, a few tokens at a time.

    share [R]: one over the tokens of a row's document.
    """
    here = (targets != IGNORE).nonzero(as_tuple=True)
    states, goals, shares = hidden.detach()[here], targets[here], share[here[0]]
    gradients, losses = [], []
    for h, goal, s in zip(*(t.split(LOGITS_AT_ONCE) for t in (states, goals, shares)), strict=True):
        with torch.enable_grad():
            h = h.requires_grad_()
            loss = F.cross_entropy(model.lm_head(h).float(), goal, reduction="none")
            gradients += torch.autograd.grad((loss * token_weights(h) * s).sum(), h)
        losses.append(loss.detach())
    at_hidden, plain = torch.zeros_like(hidden), hidden.new_zeros(targets.shape, dtype=torch.float32)
    if losses:
        at_hidden[here], plain[here] = torch.cat(gradients), torch.cat(losses)
    return at_hidden, plain


def second_order() -> AbstractContextManager[None]:
    """Attention that can be differentiated twice: the fused kernels cannot."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)
