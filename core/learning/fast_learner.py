"""The row `fast-weights`: each chunk of the document becomes one delta, by the prepared inner loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from core.errors import LearningFailed
from core.generate import Passes
from core.learning.base import LearnConfig
from core.learning.budget import budget_for, with_steps
from core.learning.fast_weights import (
    IGNORE,
    FastWeightsConfig,
    Prepared,
    attached,
    inner_steps,
    load_prepared,
    read_config,
    segments,
    token_losses,
)
from core.learning.graphs import Graphs
from core.learning.packing import SCALE, pack, unpack
from core.memory import sections_at_once
from core.model import LoadedModel, prepared_folder
from core.ports import Learned
from core.prompts import PromptFormat
from core.types import Chunk, Metrics, Step

SKIPPED = "skipped"  # stands for the weights of a chunk that the budget left out


def reading_model(base: LoadedModel) -> LoadedModel:
    """The base model with the reader that `prepare` trained merged into a second copy of its weights; the base model
    itself where there is none."""
    folder = prepared_folder(base)
    if folder is None or not read_config(folder).reader:
        return base
    return replace(base, model=load_prepared(folder, base.model.config.hidden_size).merged(base.model))


class Section(NamedTuple):
    """What was learned from one chunk."""

    tensors: dict[str, Tensor]  # packed, by module
    losses: list[float]  # nats a token, before each step and after the last
    square: float  # of the norm of the change


class FastWeightsLearner:
    """Chunks are learned independently, so a long document is as easy as a short one; the router picks the chunk."""

    name = "fast-weights"

    def __init__(self, base: LoadedModel, fmt: PromptFormat, config: LearnConfig) -> None:
        self.base, self.fmt, self.config = base, fmt, config
        folder = prepared_folder(base)
        width = base.model.config.hidden_size
        # A model that was never prepared gets small steps: large ones destroy it (science of the inner rate: LOG.md).
        self.prepared = (
            load_prepared(folder, width, with_reader=False)
            if folder
            else Prepared(FastWeightsConfig(steps=4, rule="rms", rate=5e-4), width)
        )
        self.prepared.to(base.device).requires_grad_(False)
        if config.budget:
            budget_for(config.budget, 1, folder)  # what can't be is an error now, not at the first document
        self.modules = self.prepared.modules_of(base.model)
        weight = next(iter(self.modules.values())).weight
        self.f = weight.shape[1]
        self.nothing = pack({"": torch.zeros(weight.shape)})  # stands for the weights of a chunk that was skipped
        self.graphs: Graphs | None = None

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        began = time.perf_counter()
        heading = self.fmt.heading(title)
        trained = self.prepared.config.steps
        batch_tokens = self.config.batch_tokens
        spec = self.config.budget
        budget = budget_for(spec, len(chunks), prepared_folder(self.base)) if spec else None
        plan: dict[int, int] = {} if budget else dict.fromkeys(range(len(chunks)), trained)  # chunk -> inner steps
        found: dict[int, Section] = {}
        done, total = 0, len(chunks) * trained
        at = 0
        while at < len(chunks):
            group = range(at, at + len(self._group(chunks, at, batch_tokens)))
            rows = max(1, batch_tokens // self.prepared.config.segment)
            try:
                if budget and (new := [n for n in group if n not in plan]):
                    looked = self._losses(*self._tensors([chunks[n] for n in new], heading), rows)
                    plan |= {n: budget.decide(loss) for n, loss in zip(new, looked, strict=True)}
                for steps in sorted({plan[n] for n in group}):
                    members = [n for n in group if plan[n] == steps]
                    share = len(members) * trained  # of the progress
                    learning = self._sections([chunks[n] for n in members], heading, steps, rows, done, share, total)
                    found |= dict(zip(members, (yield from learning), strict=True))
                    done += share
            except torch.OutOfMemoryError:
                if batch_tokens <= self.prepared.config.segment:
                    raise LearningFailed(
                        "There is not enough memory to learn this document, even in small parts."
                    ) from None
                torch.cuda.empty_cache()
                done = at * trained
                batch_tokens //= 2
                continue
            at = group.stop
        square = sum(section.square for section in found.values())
        if not math.isfinite(square):
            raise LearningFailed
        tensors = {f"{n}/{name}": t for n, section in found.items() for name, t in section.tensors.items()}
        losses = {n: section.losses for n, section in found.items()}
        weights = [c.token_count for c in chunks]
        history = [
            sum(w * losses[n][min(s, len(losses[n]) - 1)] for n, w in enumerate(weights)) / sum(weights)
            for s in range(max(map(len, losses.values())))
        ]
        notes = (f"{budget.skipped} of {len(chunks)} sections were skipped to keep the budget",) if budget else ()
        metrics = Metrics(
            initial_loss=history[0],
            final_loss=history[-1],
            loss_history=tuple(history),
            chunks=len(chunks),
            tokens=sum(weights),
            seconds=time.perf_counter() - began,
            delta_norm=math.sqrt(square),
            notes=notes,
        )
        return Learned(tensors, tuple(range(len(chunks))), metrics)

    def _sections(
        self, chunks: Sequence[Chunk], heading: Sequence[int], steps: int, rows: int, done: int, share: int, total: int
    ) -> Generator[Step, None, list[Section]]:
        """Learn these chunks in one batch, each a section. Progress goes from `done` to `done + share` of `total`.

        Raises: LearningFailed when a loss is not finite.
        """
        inputs, targets = self._tensors(chunks, heading)
        prepared = self.prepared if steps == self.prepared.config.steps else with_steps(self.prepared, steps)
        micro_rows = rows if len(chunks) == 1 else None
        deltas: dict[str, Tensor] = {}
        losses: list[float] = []
        for loss, deltas in inner_steps(  # noqa: B007
            self.base.model, inputs, targets, prepared, micro_rows=micro_rows, measure=True
        ):
            if not math.isfinite(float(loss)):
                raise LearningFailed
            losses.append(float(loss))
            if len(losses) <= max(steps, 1):
                yield Step(done + share * len(losses) // max(steps, 1), total, float(loss))
        for name, first in zip(self.modules, self.prepared.start, strict=False):
            deltas[name] = deltas[name] - first
        squares = sum(d.double().square().sum((1, 2)) for d in deltas.values()).tolist()
        if not steps:
            return [Section({SKIPPED: torch.zeros(1)}, losses, square) for square in squares]
        return [
            Section(pack({name: d[i] for name, d in deltas.items()}), losses, square)
            for i, square in enumerate(squares)
        ]

    @torch.no_grad()
    def _losses(self, inputs: Tensor, targets: Tensor, rows: int) -> list[float]:
        """Nats a token of each chunk before any step: the budget's signal. inputs, targets: [D, S, T]."""
        model = self.base.model
        parts = zip(inputs.flatten(0, 1).split(rows), targets.flatten(0, 1).split(rows), strict=True)
        sums = [token_losses(model, model.model(input_ids=i, use_cache=False)[0], t).sum(1) for i, t in parts]
        counted = (targets != IGNORE).flatten(1).sum(1).clamp_min(1)
        return (torch.cat(sums).view(len(inputs), -1).sum(1) / counted).tolist()

    def at(self, factor: float) -> FastWeightsLearner:
        """The same learner with its rates multiplied."""
        other = copy.copy(self)
        other.prepared = copy.deepcopy(self.prepared)
        other.prepared.log_rates.data += math.log(factor)
        return other

    @contextmanager
    def attach(self, groups: Sequence[tuple[Mapping[str, Tensor], int]]) -> Iterator[None]:
        rows = [rows for _, rows in groups]
        deltas = self._open([weights for weights, _ in groups])
        with attached(self.modules, deltas, rows):
            yield

    def recorded(
        self, groups: Sequence[tuple[Mapping[str, Tensor], int]], prompts: Sequence[Sequence[int]], max_new: int
    ) -> Passes | None:
        if self.base.device.type != "cuda" or not Graphs.can(self.base.model):
            return None
        self.graphs = self.graphs or Graphs(self.base.model, self.modules)
        passes = self.graphs.passes(prompts, self.fmt.pad_id, max_new)
        if passes:
            of = [n for n, (_, rows) in enumerate(groups) for _ in range(rows)]
            passes.attach(self._open([weights for weights, _ in groups]), of)
        return passes

    def _open(self, sections: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Stored weights of D sections, each beginning where learning does, as name -> [D, d, f]; {} of none."""
        if not sections:
            return {}
        packed = {}
        for part in ("", SCALE):
            whole = torch.stack([w.get(n + part, self.nothing[part]) for n in self.modules for w in sections])
            whole = whole.pin_memory() if self.base.device.type == "cuda" else whole
            packed["all" + part] = whole.to(self.base.device, non_blocking=True)  # at once, and nothing waits for it
        deltas = unpack(packed, self.f)["all"].unflatten(0, (len(self.modules), -1))
        if self.prepared.start:
            deltas = deltas + torch.stack(list(self.prepared.start))[:, None]
        return dict(zip(self.modules, deltas.to(self.base.dtype), strict=True))

    def _group(self, chunks: Sequence[Chunk], at: int, batch_tokens: int) -> Sequence[Chunk]:
        """As many chunks as fit into one batch and into memory, at least one."""
        padded = max(c.token_count for c in chunks) * 5 // 4
        most = sections_at_once(self.base.model, len(self.modules), padded, self.config.memory_mb)
        size, end = 0, at
        while end < len(chunks) and (end == at or size + chunks[end].token_count <= batch_tokens):
            size += chunks[end].token_count
            end += 1
        return chunks[at : end if most is None else min(end, at + most)]

    def _tensors(self, group: Sequence[Chunk], heading: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[D, S, T] inputs and targets; shorter chunks are padded with empty segments."""
        length = self.prepared.config.segment
        cut = [segments(c.token_ids, heading, length, self.fmt.pad_id) for c in group]
        most = max(len(i) for i, _ in cut)
        inputs = [i + [[self.fmt.pad_id] * length] * (most - len(i)) for i, _ in cut]
        targets = [t + [[IGNORE] * length] * (most - len(t)) for _, t in cut]
        return torch.tensor(inputs, device=self.base.device), torch.tensor(targets, device=self.base.device)
