"""What `prepare` learns about learning, for one base model: the slow weights of the inner loop, and a reader.

Shapes: U blocks with fast weights, d width, f width of the MLP, D documents of S segments of T tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import SetupError
from core.learning.hooks import LowRank, attached, down_projections
from core.learning.inner_loop import inner_loop
from core.learning.low_rank import as_int8, by_module, from_int8, merge, new_factors, starting_with
from core.learning.packing import rounded

READER = "reader."  # begins the names of its tensors
FORM = {  # what `prepared.json` says of the shipped form; other values belong to `core.learning.forms.fast_weights`
    "rule": "muon", "token_weights": True, "start": False, "momentum": 0.0, "rank": 0, "order": "whole",
    "shared_rate": False,
}  # fmt: skip


@dataclass(frozen=True)
class FastWeightsConfig:
    layers: int = 7  # U: how many upper blocks carry fast weights
    skip: int = 0  # so many blocks above them carry none
    stride: int = 1  # from one block with fast weights to the next: 2 leaves out every other block
    steps: int = 2  # inner steps over the whole text
    segment: int = 128  # T: tokens a segment, its heading included
    section: int = 512  # tokens of a document that share fast weights: what the outer loop practised
    rate: float = 4e-3  # where the learned rates start
    reader: int = 0  # rank of the reader, a LoRA on every projection shared by all documents; 0: none

    def blocks_of(self, model: Any) -> range:
        """The blocks that carry fast weights; a small model may have fewer than `layers`."""
        uppermost = len(model.model.layers) - self.skip - 1
        lowest = uppermost - (self.layers - 1) * self.stride
        return range(lowest if lowest >= 0 else uppermost % self.stride, uppermost + 1, self.stride)


Config = TypeVar("Config", bound=FastWeightsConfig)


class Prepared(nn.Module):
    """The rates of the inner steps [steps, U], the weighting of tokens (d -> 64 -> 1), and the reader: a LoRA that is
    on while a document is learned and while it is asked about."""

    def __init__(self, config: FastWeightsConfig, width: int, model: Any = None) -> None:
        """`model` gives the shapes of the reader; without it the reader stays empty until it is loaded."""
        super().__init__()
        self.config = config
        self.reader = nn.ParameterDict()  # "MODULE/a" [rank, in] and "MODULE/b" [out, rank]; dots are slashes
        if model is not None and config.reader:
            self.reader.update(new_factors(model.model.layers, config.reader))
        self.log_rates = nn.Parameter(torch.full((config.steps, config.layers), math.log(config.rate)))
        first, last = nn.Linear(width, 64), nn.Linear(64, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.weigh = nn.Sequential(first, nn.GELU(), last)

    def modules_of(self, model: Any) -> dict[str, nn.Linear]:
        """The modules that carry fast weights, by their names in the model."""
        return down_projections(model, self.config.blocks_of(model))

    def rates(self) -> Tensor:
        """[steps, U]"""
        return self.log_rates.exp()

    def token_weights(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [...]; all ones before training (softplus(0) = ln 2)."""
        return F.softplus(self.weigh(hidden.float()).squeeze(-1)) / math.log(2)

    def low_rank(self) -> LowRank:
        """The reader by module."""
        return by_module(dict(self.reader.items()))

    def merged(self, model: nn.Module) -> nn.Module:
        """A second model with the reader in its weights; the model itself where there is no reader."""
        return merge(model, self.low_rank())

    def inner_loop(
        self, model: Any, inputs: Tensor, targets: Tensor, **options: Any
    ) -> Iterator[tuple[float | Tensor, dict[str, Tensor]]]:
        """`core.learning.inner_loop.inner_loop` with these slow weights."""
        blocks = self.config.blocks_of(model)
        return inner_loop(model, inputs, targets, blocks, self.rates(), self.token_weights, **options)

    def learn(
        self, model: Any, inputs: Tensor, targets: Tensor, *, differentiable: bool = False
    ) -> tuple[list[float | Tensor], dict[str, Tensor]]:
        """inputs, targets [D, S, T] -> the loss before each step; fast weights by name, [D, d, f], as they are
        stored."""
        losses: list[float | Tensor] = []
        fast: dict[str, Tensor] = {}
        for loss, fast in self.inner_loop(model, inputs, targets, differentiable=differentiable):  # noqa: B007
            losses.append(loss)
        return losses, self.as_stored(fast)

    def as_stored(self, fast: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What storage makes of them, with the gradient of the identity."""
        return {name: rounded(delta) for name, delta in fast.items()}

    def fast_weights_attached(
        self, model: Any, fast: Mapping[str, Tensor], rows: Sequence[int]
    ) -> AbstractContextManager[None]:
        """Within the context, each document's rows of a batch (so many, in order) have its fast weights."""
        return attached(self.modules_of(model), fast, rows)

    def describe(self) -> dict[str, Any]:
        """What `prepared.json` says."""
        return FORM | asdict(self.config)


class SlowWeights(Protocol):
    """What the outer loop trains: Prepared, or another form of `core.learning.forms`. Also a torch module."""

    config: Any  # with `segment`

    def low_rank(self) -> LowRank: ...
    def merged(self, model: Any) -> Any: ...
    def rates(self) -> Tensor: ...
    def learn(
        self, model: Any, inputs: Tensor, targets: Tensor, *, differentiable: bool = False
    ) -> tuple[Sequence[float | Tensor], dict[str, Tensor]]: ...
    def fast_weights_attached(
        self, model: Any, fast: Mapping[str, Tensor], rows: Sequence[int]
    ) -> AbstractContextManager[None]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> Any: ...
    def to(self, device: torch.device) -> Any: ...


def save_prepared(prepared: Prepared, out: Path) -> None:
    """`prepared.safetensors` and `prepared.json` (the inner loop's configuration). The reader is kept as int8 with a
    float16 scale a row."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in prepared.state_dict().items()}
    tensors = state | as_int8(starting_with(READER, state))
    save_file(tensors, out / "prepared.safetensors")
    (out / "prepared.json").write_text(json.dumps(prepared.describe(), indent=1) + "\n")


def read_form(folder: Path) -> dict[str, Any]:
    """`prepared.json`; a key that it lacks was not there yet when it was written, and has its first value."""
    return FORM | {"rule": "rms"} | json.loads((folder / "prepared.json").read_text())


def is_shipped_form(folder: Path) -> bool:
    """Whether it was prepared for the shipped form of the inner loop."""
    form = read_form(folder)
    return all(form[key] == value for key, value in FORM.items())


def read_config(folder: Path) -> FastWeightsConfig:
    """What all forms have in common."""
    return config_of(FastWeightsConfig, read_form(folder))


def config_of(kind: type[Config], form: Mapping[str, Any]) -> Config:
    """The fields of a configuration, of what `prepared.json` says."""
    return kind(**{field.name: form[field.name] for field in fields(kind) if field.name in form})


def read_state(folder: Path, *, with_reader: bool = True) -> dict[str, Tensor]:
    """The tensors of `prepared.safetensors`, the reader's as float32."""
    stored = load_file(folder / "prepared.safetensors")
    return from_int8({name: t for name, t in stored.items() if with_reader or not name.startswith(READER)})


def load_prepared(folder: Path, width: int, *, with_reader: bool = True) -> Prepared:
    """A preparation; without its reader where that is merged into the model already: it is nearly all of the memory.

    Raises: SetupError when it was prepared for another form of the inner loop.
    """
    if not is_shipped_form(folder):
        raise SetupError(f"'{folder}' was prepared for another form of the inner loop.")
    return load_state(Prepared(read_config(folder), width), read_state(folder, with_reader=with_reader))


def load_state(prepared: Prepared, state: Mapping[str, Tensor]) -> Prepared:
    """Load the state, ready to learn with."""
    prepared.reader.update(reader_tensors(state))
    prepared.load_state_dict(state)
    return prepared.eval().requires_grad_(False)


def read_reader(folder: Path) -> LowRank:
    """The reader alone, of a preparation for any form."""
    return by_module(reader_tensors(read_state(folder)))


def reader_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(READER): t for name, t in starting_with(READER, state).items()}
