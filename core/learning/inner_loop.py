"""The inner loop: a text is learned into fast weights, by a few gradient steps on its own next-token loss.

    W_l  <-  W_l - eta[s, l] * sqrt(f) * NS(g_l),      s = 1 .. steps,      W_l = 0 at the start
    g_l   =  d/dW_l  (1 / n) sum_t  omega(h_t) * -log p(x_t+1 | x_1 .. x_t; W)

W_l [d, f] is added to the down-projection of block l, n is the number of tokens of the document, h_t [d] the last
hidden state, and NS Muon's orthogonalisation. eta and omega are slow weights: the outer loop (`core.prepare.outer`)
trains them by differentiating through this function.

Source: test-time training (Sun et al., arXiv 2407.04620, section 2.1: the hidden state is a model, its update a step on
a self-supervised loss), with the next-token loss, one large chunk and Muon as in LaCT (arXiv 2505.23884, section 3).
Other forms of the loop are in `core.learning.forms`.

Shapes: D documents of S segments of T tokens, U blocks with fast weights, d width, f width of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from core.learning.hooks import down_projections
from core.learning.muon import muon, muon_dtype
from core.learning.segments import IGNORE
from core.learning.text_gradient import TokenWeights, states_below, text_gradient, text_loss


def inner_loop(
    model: Any,
    inputs: Tensor,
    targets: Tensor,
    blocks: range,
    rates: Tensor,
    token_weights: TokenWeights,
    *,
    differentiable: bool = False,
    micro_rows: int | None = None,
    measure: bool = False,
) -> Iterator[tuple[float | Tensor, dict[str, Tensor]]]:
    """Yield (loss before the step in nats a token, fast weights after it), once a step.

    Args:
        inputs, targets: token ids [D, S, T]; IGNORE in the targets is not learned.
        blocks: those that carry fast weights.
        rates: eta, [steps, U].
        token_weights: omega, [..., d] -> [...].
        differentiable: the losses and fast weights carry the graph to the slow weights (second order).
        micro_rows: at most so many segments at once; the same gradient in less memory, for one document, not
            differentiable.
        measure: yield once more, with the loss after the last step.

    The fast weights are float32, module name -> [D, d, f].
    """
    counts = (targets != IGNORE).flatten(1).sum(1).clamp_min(1)  # tokens of each document
    text = states_below(model, inputs, targets, blocks, micro_rows, differentiable)
    modules = down_projections(model, blocks)
    fast = {}
    for name, module in modules.items():
        fast[name] = module.weight.new_zeros(len(inputs), *module.weight.shape, dtype=torch.float32)
    for eta in rates:
        loss, gradients = text_gradient(model, text, counts, blocks, fast, token_weights, differentiable)
        with torch.set_grad_enabled(differentiable):
            for u, name in enumerate(modules):
                fast[name] = fast[name] - eta[u] * muon(gradients[name], muon_dtype(model))
        yield loss, dict(fast)
    if measure:
        yield text_loss(model, text, counts, blocks, fast), fast
