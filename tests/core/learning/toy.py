"""Toy texts and slow weights for tests of the inner loop."""

from __future__ import annotations

from dataclasses import fields

import torch

from core.learning.forms.fast_weights import FormConfig, PreparedForm
from core.learning.hooks import attached, down_projections
from core.learning.preparation import FastWeightsConfig, Prepared
from core.learning.segments import IGNORE
from core.learning.text_gradient import token_losses
from tests.core.conftest import WIDTH

UPPER = range(1, 3)  # blocks of the toy model
FORMS = {
    "momentum": {"momentum": 0.9},
    "rank": {"rank": 8},
    "chunks": {"order": "chunks"},
    "shared rate": {"shared_rate": True},
    "all": {"momentum": 0.9, "rank": 8, "order": "chunks", "shared_rate": True, "rule": "muon"},
}


def prepared(**options) -> Prepared:
    """The shipped form, or the one that an option belongs to."""
    torch.manual_seed(2)
    config = {"layers": 2, "rate": 3e-3, **options}
    shipped = config.keys() <= {f.name for f in fields(FastWeightsConfig)}
    made = Prepared(FastWeightsConfig(**config), WIDTH) if shipped else PreparedForm(FormConfig(**config), WIDTH)
    if made.weigh is not None:
        torch.nn.init.normal_(made.weigh[2].weight, 0, 0.3)  # tokens weigh differently, as after training
    return made


def run(model, texts, with_, **options) -> tuple[list[float], dict[str, torch.Tensor]]:
    pairs = list(with_.inner_loop(model, *texts, **options))
    return [float(torch.as_tensor(loss).detach()) for loss, _ in pairs], pairs[-1][1]


def loss_with(model, texts, deltas) -> torch.Tensor:
    """Summed over documents: the mean loss of each."""
    inputs, targets = texts
    with torch.no_grad(), attached(down_projections(model, UPPER), deltas, [inputs.shape[1]] * len(inputs)):
        hidden = model.model(input_ids=inputs.flatten(0, 1)).last_hidden_state
    each = token_losses(model, hidden, targets.flatten(0, 1)).double().view(len(inputs), -1).sum(1)
    return (each / (targets != IGNORE).flatten(1).sum(1)).sum()
