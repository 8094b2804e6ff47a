"""The row `lora`: low-rank adapters, learned with AdamW. The product's one home of peft.

    y = W x + s B (A x),    s = alpha / sqrt(rank)  (rsLoRA, arXiv 2312.03732),    B = 0 at the start

peft makes the adapted layers; they stand in the model while a loss is computed and at no other time. What is stored is
A and s B, in plain tensors, which hooks add to any batch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from core.learning.adapters.adapter import AdapterLearner
from core.learning.base import LearnConfig
from core.learning.hooks import Branch, down_projections
from core.learning.preparation import read_config
from core.model import LoadedModel, prepared_folder
from core.prompts import ChatFormat

A, B = ".lora_A", ".lora_B"


@dataclass(frozen=True)
class LoraSettings:
    rank: int = 16
    alpha: int = 16
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    rate: float = 1e-3  # AdamW's, at its highest
    warm_up: float = 0.1  # share of the steps
    clip: float = 1.0  # norm of all gradients together


class LoraAdapter:
    """Implements core.learning.adapters.adapter.Adapter with peft's layers."""

    def __init__(self, model: nn.Module, settings: LoraSettings) -> None:
        self.model, self.settings = model, settings
        self.layers = make_layers(model, settings)
        self.leaves: Sequence[Tensor] = list(chain.from_iterable(map(_pair, self.layers.values())))
        self.optimiser = torch.optim.AdamW(self.leaves, lr=settings.rate, weight_decay=0.0)

    @contextmanager
    def on(self) -> Iterator[None]:
        base = {name: self.model.get_submodule(name) for name in self.layers}
        try:
            for name, layer in self.layers.items():
                self.model.set_submodule(name, layer)
            yield
        finally:
            for name, module in base.items():
                self.model.set_submodule(name, module)

    def step(self, gradients: Sequence[Tensor], done: float) -> None:
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            leaf.grad = gradient
        nn.utils.clip_grad_norm_(self.leaves, self.settings.clip)
        ramp = self.settings.warm_up
        factor = max(done, 0.02) / ramp if done < ramp else (1 - done) / (1 - ramp)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * min(1.0, factor)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        pairs = {}
        for name, layer in self.layers.items():
            a, b = _pair(layer)
            pairs[name + A], pairs[name + B] = a, b * layer.scaling["default"]
        return pairs

    def norm(self) -> float:
        """|| s B A || of all layers, without forming B A: trace((B^T B)(A A^T))."""
        tensors = {name: t.detach().double() for name, t in self.tensors().items()}
        square = 0.0
        for name in self.layers:
            a, b = tensors[name + A], tensors[name + B]
            square += float(((b.T @ b) * (a @ a.T)).sum())
        return math.sqrt(square)


class LoraLearner(AdapterLearner):
    """One adapter a document; the text and any study material are learned together."""

    name = "lora"
    step_tokens = 512
    passes = {"quick": 3, "standard": 6, "deep": 20}  # noqa: RUF012

    def __init__(self, base: LoadedModel, fmt: ChatFormat, config: LearnConfig) -> None:
        super().__init__(base, fmt, config)
        self.settings = default_settings(base)

    def start(self) -> LoraAdapter:
        return LoraAdapter(self.base.model, self.settings)

    def branches(self, weights: Mapping[str, Tensor]) -> dict[str, Branch]:
        by_module = {}
        for name, a in weights.items():
            if name.endswith(A):
                module = name.removesuffix(A)
                by_module[module] = _branch(a.T, weights[module + B].T)
        return by_module


def default_settings(base: LoadedModel) -> LoraSettings:
    """A prepared model answers from what lies where it was prepared: upper down-projections, in few large steps. Such
    steps would ruin any other model."""
    folder = prepared_folder(base)
    if folder is None:
        return LoraSettings()
    c = read_config(folder)
    return LoraSettings(targets=tuple(down_projections(base.model, c.blocks_of(base.model))), rate=1e-2)


def make_layers(model: nn.Module, settings: LoraSettings) -> dict[str, LoraLayer]:
    """peft's layer for each target, by module name, around the model's own modules; the model is left as it was.

    The start of A is the same for every document. Raises: ValueError when the model has no such module.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        use_rslora=True,
        lora_dropout=0.0,
    )
    needed_gradients = {name: p.requires_grad for name, p in model.named_parameters()}
    had = set(vars(model))
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            inject_adapter_in_model(config, model)
        layers = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    finally:
        for name, m in list(model.named_modules()):
            if isinstance(m, LoraLayer):
                model.set_submodule(name, m.get_base_layer())
        for name in set(vars(model)) - had:
            delattr(model, name)
        for name, p in model.named_parameters():
            p.requires_grad_(needed_gradients[name])
    for layer in layers.values():
        for factor in _pair(layer):
            factor.data = factor.data.float()
    return layers


def _pair(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank]."""
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def _branch(a: Tensor, b: Tensor) -> Branch:
    return lambda x: (x @ a.to(x.dtype)) @ b.to(x.dtype)
