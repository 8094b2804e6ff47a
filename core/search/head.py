"""The search head: what a section is about, read off the base model's states, for `core.search.closeness`.

A LoRA on the blocks below one of the middle layers is for searching alone. That layer's states are centred and
projected, and of each dimension only the sign is kept; a question's tokens keep their numbers, and each has a weight.
A model without a head is searched by words alone; `train_search` makes one.

Shapes: T tokens, d the model's width, D dimensions of the head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.generate import pad_right
from core.learning.blocks import can_run, fuse_projections
from core.learning.graphs import capture
from core.learning.hooks import LowRank, decoder_slice
from core.learning.low_rank import as_int8, by_module, from_int8, merge, starting_with
from core.model import SEARCH, LoadedModel
from core.search.closeness import NAME_BYTES, Query, encode

WIDTH = 256
RECORDED_LENGTHS = (32, 64, 128, 256)  # tokens of a question
DEPTH_SHARE = 4 / 7  # of the model's depth, whose states tell most (LOG.md)
READS = "public model"  # what a file says of the states that its head was trained on
FACTORS = "factors."  # begins the names of the LoRA's tensors


class SearchHead(nn.Module):
    """Projects states of one layer."""

    mean: Tensor  # [d]
    scale: Tensor  # a number

    def __init__(
        self, layer: int, d: int, width: int = WIDTH, factors: Mapping[str, Tensor] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.layer = layer  # so many blocks are run
        self.factors = nn.ParameterDict(factors)  # of the LoRA on them (core.learning.low_rank)
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("scale", torch.ones(()))
        self.project = nn.Parameter(torch.empty(d, width))
        self.weigh = nn.Parameter(torch.zeros(d))
        self.bias = nn.Parameter(torch.tensor(0.5))
        self.odds = nn.Parameter(torch.tensor([10.0, -4.5]))  # slope and offset of the log-odds

    def low_rank(self) -> LowRank:
        """The LoRA by module."""
        return by_module(dict(self.factors.items()))

    def centred(self, states: Tensor) -> Tensor:
        return (states.float() - self.mean) / self.scale

    def question(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """[..., T, d] -> vectors of length 1 [..., T, D], weights [..., T]."""
        x = self.centred(states)
        return F.normalize(x @ self.project, dim=-1), F.softplus(x @ self.weigh + self.bias)

    def section(self, states: Tensor) -> Tensor:
        """[..., T, d] -> signs [..., T, D], bool."""
        return self.centred(states) @ self.project > 0


class Searcher:
    """A base model with its search head."""

    def __init__(self, base: LoadedModel, head: SearchHead, name: bytes, pad_id: int) -> None:
        self.base = replace(base, model=merge(base.model, head.low_rank()))
        self.name, self.pad_id = name, pad_id
        self.odds = head.odds.tolist()  # read once: from a GPU it would be waited for
        self.head = head.to(base.device)
        self.recordings: dict[int, tuple[Tensor, Callable[[], Any]]] = {}  # by length: tokens, and what reads them

    @classmethod
    def for_model(cls, base: LoadedModel, folder: Path | None, pad_id: int) -> Searcher | None:
        """None when this model has no head."""
        head = load_head(folder / SEARCH) if folder else None
        if folder is None or head is None:
            return None
        name = hashlib.sha256((folder / SEARCH).read_bytes()).digest()[:NAME_BYTES]
        searcher = cls(base, head, name, pad_id)
        head.factors.clear()  # merged into the searcher's own weights
        return searcher

    @torch.no_grad()
    def queries(self, questions: Sequence[str]) -> list[Query | None]:
        """Of each question, None where it has no tokens. On a CPU several take hardly longer than one."""
        rows = [self.base.tokenizer.encode(question, add_special_tokens=False) for question in questions]
        asked = [ids for ids in rows if ids]
        if len(asked) > 1 and self.base.device.type == "cpu":
            read = map(self.head.question, states(self.base.model, asked, self.head.layer, self.pad_id))
        else:
            read = map(self._read, asked)
        queries = map(self._query, asked, read)
        return [next(queries) if ids else None for ids in rows]

    def _query(self, ids: Sequence[int], read: tuple[Tensor, Tensor]) -> Query:
        vectors, weights = (t[: len(ids)].cpu().numpy() for t in read)
        return Query(self.name, vectors, weights, *self.odds)

    def _read(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of a question's tokens, and of padding after them: vectors and weights. On a GPU the pass is recorded once
        and replayed, since launching it takes longer than running it."""
        length = next((n for n in RECORDED_LENGTHS if n >= len(ids)), None)
        if self.base.device.type != "cuda" or length is None or not can_run(self.base.model):
            return self._vectors(torch.tensor([ids], device=self.base.device))
        if length not in self.recordings:
            fuse_projections(self.base.model)
            tokens = torch.full((1, length), self.pad_id, device=self.base.device)
            self.recordings[length] = tokens, capture(partial(self._vectors, tokens), self.base.device)
        tokens, replay = self.recordings[length]
        tokens[0, : len(ids)] = torch.tensor(ids)
        return replay()

    @torch.no_grad()
    def _vectors(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids [1, T] -> [T, D], [T]."""
        return self.head.question(blocks(self.base.model, ids, self.head.layer)[0])

    @torch.no_grad()
    def codes(self, sections: Sequence[Sequence[int]]) -> list[bytes]:
        """Of sections, as token ids; one batch."""
        read = states(self.base.model, sections, self.head.layer, self.pad_id)
        return [encode(self.name, self.head.section(s).cpu().numpy()) for s in read]


def states(model: Any, texts: Sequence[Sequence[int]], layer: int, pad_id: int) -> list[Tensor]:
    """What the first `layer` blocks make of texts (at least one token each), in one batch -> [T, d] of each. Padding is
    on the right, where no token looks."""
    rows = blocks(model, pad_right(texts, pad_id).to(model.device), layer)
    return [row[: len(text)] for row, text in zip(rows, texts, strict=True)]


def blocks(model: Any, ids: Tensor, layer: int) -> Tensor:
    """What the first `layer` blocks make of ids [R, T] -> [R, T, d]."""
    with decoder_slice(model, 0, layer, norm=False) as lower:
        return lower(input_ids=ids, use_cache=False).last_hidden_state


def save_head(head: SearchHead, out: Path) -> None:
    """`search.safetensors`: the matrix in half precision, the LoRA in int8."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    tensors["project"] = tensors["project"].half()
    tensors |= as_int8(starting_with(FACTORS, tensors))
    save_file(tensors, out / SEARCH, metadata={"layer": str(head.layer), "reads": READS})


def load_head(path: Path) -> SearchHead | None:
    """None where there is none, or one that reads the states of another model, as older heads did."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        if file.metadata().get("reads") != READS:
            return None
        tensors = from_int8({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        factors = {name.removeprefix(FACTORS): t for name, t in starting_with(FACTORS, tensors).items()}
        d, width = tensors["project"].shape
        head = SearchHead(int(file.metadata()["layer"]), d, width, factors)
    head.load_state_dict(tensors)
    return head.eval().requires_grad_(False)
