"""Other forms of the inner loop, side by side with the shipped one (`core.learning.inner_loop`):

    rule        rms: a step of unit root mean square; sgd: the plain gradient; muon, as shipped
    momentum    a step goes along momentum * (sum before) + gradient (Muon; LaCT, arXiv 2505.23884, section 3.2)
    rank        a delta P M with M alone fast: see `Form`
    order       chunks: one segment after the other, each learned with what those before it left (LaCT, section 3.1)
    start       a learned delta to start from
    shared_rate, token_weights    one rate for all steps and blocks; every token weighs the same

`core.prepare.outer` trains each of them, `core.evaluation.inner_rows` measures them, and a preparation or a model that
was never prepared is learned with `FormLearner`. Shapes as in the shipped loop; r rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.learning.fast_learner import FastWeightsLearner
from core.learning.muon import Factors, muon, muon_dtype
from core.learning.preparation import FastWeightsConfig, Prepared, config_of, load_state, read_form, read_state
from core.learning.segments import IGNORE
from core.learning.text_gradient import states_below, text_gradient, text_loss
from core.model import prepared_folder


@dataclass(frozen=True)
class FormConfig(FastWeightsConfig):
    rule: str = "rms"  # rms | muon | sgd: see `direction`
    token_weights: bool = True  # learned weight of each token in the inner loss (CaMeLS; PERK)
    start: bool = False
    momentum: float = 0.0
    rank: int = 0  # 0: full
    order: str = "whole"  # whole | chunks
    shared_rate: bool = False


# A model that was never prepared gets small steps: large ones destroy it.
UNPREPARED = FormConfig(steps=4, rule="rms", rate=5e-4)


class PreparedForm(Prepared):
    """The slow weights of another form.

    With a rank, a block's delta is P M: the basis P [d, r] is slow, orthonormal at the start, and only M [r, f] is
    fast, from zero. So a gradient for M is that of the delta seen through P, the same rules apply to it, no factor has
    to leave a saddle at zero (as LoRA's two would), and the outer loop chooses into which directions is written.
    """

    config: FormConfig

    def __init__(self, config: FormConfig, width: int, model: Any = None) -> None:
        super().__init__(config, width, model)
        self.start = nn.ParameterList()  # U tensors [d, f]
        if model is not None and config.start:
            for module in self.modules_of(model).values():
                self.start.append(torch.zeros_like(module.weight, dtype=torch.float32, device="cpu"))
        if config.shared_rate:
            self.log_rates = nn.Parameter(self.log_rates.detach()[:1, :1].clone())
        if not config.token_weights:
            self.weigh = None  # type: ignore[assignment]  # every token counts alike
        self.basis = nn.ParameterList()  # U tensors [d, r]
        for _ in range(config.layers if config.rank else 0):
            self.basis.append(nn.init.orthogonal_(torch.empty(width, config.rank)))

    def rates(self) -> Tensor:
        return self.log_rates.exp().expand(self.config.steps, self.config.layers)

    def token_weights(self, hidden: Tensor) -> Tensor:
        if self.weigh is None:
            return hidden.new_ones(hidden.shape[:-1], dtype=torch.float32)
        return super().token_weights(hidden)

    def as_stored(self, fast: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was learned in two bits, on top of where it started."""
        starts = dict(zip(fast, self.start, strict=False))
        changes = super().as_stored({name: w - starts.get(name, 0.0) for name, w in fast.items()})
        return {name: starts.get(name, 0.0) + change for name, change in changes.items()}

    def describe(self) -> dict[str, Any]:
        return asdict(self.config)

    def inner_loop(  # type: ignore[override]  # its options by name
        self,
        model: Any,
        inputs: Tensor,
        targets: Tensor,
        *,
        differentiable: bool = False,
        micro_rows: int | None = None,
        measure: bool = False,
        steps: int | None = None,
    ) -> Iterator[tuple[float | Tensor, dict[str, Tensor]]]:
        """As `core.learning.inner_loop.inner_loop`. In chunks, a step is a pass over the segments; its loss is what
        they cost as they came. `steps`: other than were trained; the later ones go on with the last rate."""
        blocks = self.config.blocks_of(model)
        counts = (targets != IGNORE).flatten(1).sum(1).clamp_min(1)
        size = 1 if self.config.order == "chunks" else inputs.shape[1]
        chunks = []
        for chunk in zip(inputs.split(size, 1), targets.split(size, 1), strict=True):
            chunks.append(states_below(model, *chunk, blocks, micro_rows, differentiable))
        with torch.set_grad_enabled(differentiable):
            moving, rates = self._first(model, len(inputs)), self._rates_of(steps)
        sums: list[Tensor] = []  # of the gradients, with momentum

        def deltas() -> dict[str, Tensor]:
            with torch.set_grad_enabled(differentiable):
                return self._deltas(model, moving)

        for eta in rates:
            loss: float | Tensor = 0.0
            for text in chunks:
                part, by_name = text_gradient(model, text, counts, blocks, deltas(), self.token_weights, differentiable)
                loss = loss + part
                with torch.set_grad_enabled(differentiable):
                    goes_on = (text[0][1] != IGNORE).any(1)[:, None, None] if len(chunks) > 1 else None
                    moving, sums = self._move(model, moving, list(by_name.values()), sums, eta, goes_on)
            yield loss, deltas()
        if measure:
            whole = list(chain.from_iterable(chunks))
            yield text_loss(model, whole, counts, blocks, deltas()), deltas()

    def _move(
        self,
        model: Any,
        moving: Sequence[Tensor],
        by_module: Sequence[Tensor | Factors],
        sums: Sequence[Tensor],
        eta: Tensor,
        goes_on: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One step, from the gradients of the deltas: what moves, and the sums for the next step.

        goes_on: [D, 1, 1]; a document that has ended stays as it is, its momentum too.
        """
        if self.config.rule == "muon" and not (self.basis or self.config.momentum or goes_on is not None):
            moved = []
            for rate, old, gradient in zip(eta[: len(moving)], moving, by_module, strict=True):
                moved.append(old - rate * muon(gradient, muon_dtype(model)))
            return moved, []
        gradients = [g.matrix() if isinstance(g, Factors) else g for g in by_module]
        if self.basis:  # d/dM of deltas P M
            gradients = [p.float().T @ g for p, g in zip(self.basis, gradients, strict=False)]
        if sums:
            gradients = [self.config.momentum * before + g for before, g in zip(sums, gradients, strict=True)]
        moved, next_sums = [], []
        for rate, old, gradient, before in zip(eta[: len(moving)], moving, gradients, sums or gradients, strict=True):
            new = old - rate * direction(gradient, self.config.rule, muon_dtype(model))
            if goes_on is not None:
                new, gradient = torch.where(goes_on, new, old), torch.where(goes_on, gradient, before)
            moved.append(new)
            next_sums.append(gradient)
        return moved, next_sums if self.config.momentum else []

    def _rates_of(self, steps: int | None) -> Tensor:
        """[steps, U]"""
        rates = self.rates()
        if steps is None:
            return rates
        return torch.cat([rates[:steps], rates[-1:].expand(max(0, steps - len(rates)), -1)])

    def _first(self, model: Any, documents: int) -> list[Tensor]:
        """What moves, before the first step: M with a basis, else the deltas. [D, r or d, f]"""
        if self.start and not self.basis:
            return [start.expand(documents, -1, -1) for start in self.start]
        zeros = []
        for module in self.modules_of(model).values():
            d, f = module.weight.shape
            zeros.append(module.weight.new_zeros(documents, self.config.rank or d, f, dtype=torch.float32))
        return zeros

    def _deltas(self, model: Any, moving: Sequence[Tensor]) -> dict[str, Tensor]:
        """By module, [D, d, f]."""
        if self.basis:
            moving = [p.float() @ m for p, m in zip(self.basis, moving, strict=False)]
            if self.start:
                moving = [start + change for start, change in zip(self.start, moving, strict=True)]
        return dict(zip(self.modules_of(model), moving, strict=True))


def direction(g: Tensor, rule: str, dtype: torch.dtype | None = None) -> Tensor:
    """The normalised step for a gradient g [D, d, f]; `dtype` is that of muon's products.

    rms: unit root mean square over a matrix. muon: orthogonalised, scaled to a comparable size. sgd: as it is.
    """
    if rule == "sgd":
        return g
    if rule == "muon":
        return muon(g, dtype)
    return g * torch.rsqrt(g.square().mean((-2, -1), keepdim=True) + 1e-20)


def load_form(folder: Path, width: int, *, with_reader: bool = True) -> PreparedForm:
    """A preparation for any form, the shipped one among them."""
    form = PreparedForm(config_of(FormConfig, read_form(folder)), width)
    state = read_state(folder, with_reader=with_reader)
    for u in range(form.config.layers):
        if f"start.{u}" in state:
            form.start.append(state[f"start.{u}"])
    load_state(form, state)
    return form


class FormLearner(FastWeightsLearner):
    """Learns by the form that a model was prepared for; a model that was never prepared by small plain steps."""

    prepared: PreparedForm

    def load(self) -> PreparedForm:
        folder, width = prepared_folder(self.base), self.base.model.config.hidden_size
        return load_form(folder, width, with_reader=False) if folder else PreparedForm(UNPREPARED, width)

    def changes(self, fast: Mapping[str, Tensor]) -> dict[str, Tensor]:
        starts = dict(zip(fast, self.prepared.start, strict=False))
        return {name: w - starts[name] if name in starts else w for name, w in fast.items()}

    def fast_weights(self, changes: Tensor) -> Tensor:
        if not self.prepared.start:
            return changes
        return changes + torch.stack(list(self.prepared.start))[:, None]
