"""The row `fast-weights`: each chunk of a document becomes one section of fast weights, by the prepared inner loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.errors import LearningFailed
from core.generate import Passes
from core.learning.base import LearnConfig
from core.learning.blocks import can_run
from core.learning.graphs import Graphs
from core.learning.hooks import attached
from core.learning.low_rank import merge
from core.learning.packing import SCALE, pack, unpack
from core.learning.preparation import Prepared, load_prepared, read_reader
from core.learning.segments import segments, stack_segments
from core.learning.shared_passes import Shared
from core.memory import max_sections
from core.model import LoadedModel, prepared_folder
from core.ports import Learned
from core.prompts import ChatFormat
from core.types import Chunk, Metrics, Step

Groups = Sequence[tuple[Mapping[str, Tensor], int]]  # weights of one section, number of batch rows


def reading_model(base: LoadedModel) -> LoadedModel:
    """The base model with the reader that `prepare` trained merged into a second copy of its weights; the base model
    itself where there is none."""
    folder = prepared_folder(base)
    reader = read_reader(folder) if folder else {}
    return replace(base, model=merge(base.model, reader)) if reader else base


class LearnedSection(NamedTuple):
    """What was learned from one chunk."""

    tensors: dict[str, Tensor]  # packed, by module
    losses: list[float]  # nats a token, before each step and after the last
    square: float  # of the norm of the change


class FastWeightsLearner:
    """Chunks are learned independently, so a long document is as easy as a short one; the search picks the chunk."""

    name = "fast-weights"

    def __init__(self, base: LoadedModel, fmt: ChatFormat, config: LearnConfig) -> None:
        self.base, self.fmt, self.config = base, fmt, config
        self.prepared = self.load().to(base.device).requires_grad_(False)
        self.modules = self.prepared.modules_of(base.model)
        weight = next(iter(self.modules.values())).weight
        self.nothing = pack({"": torch.zeros(weight.shape)})  # stands for the weights of a chunk that was skipped
        self.graphs: Graphs | None = None
        self.shared: Shared | None = None

    def load(self) -> Prepared:
        """What `prepare` left for this model, without the reader: it is merged into the model."""
        folder = prepared_folder(self.base)
        assert folder is not None  # or nothing would be loaded
        return load_prepared(folder, self.base.model.config.hidden_size, with_reader=False)

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        began = time.perf_counter()
        heading = self.fmt.heading(title)
        batch_tokens = self.config.batch_tokens
        sections: list[LearnedSection] = []
        while len(sections) < len(chunks):
            numbers = self._group(chunks, len(sections), batch_tokens)
            rows = max(1, batch_tokens // self.prepared.config.segment)
            try:
                sections += yield from self.learn_group(chunks, numbers, heading, rows)
            except torch.OutOfMemoryError:
                if batch_tokens <= self.prepared.config.segment:
                    raise LearningFailed(
                        "There is not enough memory to learn this document, even in small parts."
                    ) from None
                torch.cuda.empty_cache()
                batch_tokens //= 2
        square = sum(section.square for section in sections)
        if not math.isfinite(square):
            raise LearningFailed from ValueError("weights that are no numbers")
        tensors = {}
        for number, section in enumerate(sections):
            for name, tensor in section.tensors.items():
                tensors[f"{number}/{name}"] = tensor
        tokens = [chunk.token_count for chunk in chunks]
        history = mean_losses([section.losses for section in sections], tokens)
        metrics = Metrics(
            initial_loss=history[0],
            final_loss=history[-1],
            loss_history=tuple(history),
            chunks=len(chunks),
            tokens=sum(tokens),
            seconds=time.perf_counter() - began,
            delta_norm=math.sqrt(square),
        )
        return Learned(tensors, tuple(range(len(chunks))), metrics)

    def learn_group(
        self, chunks: Sequence[Chunk], numbers: range, heading: Sequence[int], rows: int
    ) -> Generator[Step, None, list[LearnedSection]]:
        """Learn the chunks of these numbers, at most `rows` segments of one chunk at once."""
        steps = self.prepared.config.steps
        progress = BatchProgress(numbers.start * steps, len(numbers) * steps, len(chunks) * steps)
        return (yield from self.learn_batch([chunks[n] for n in numbers], heading, rows, progress))

    def learn_batch(
        self, chunks: Sequence[Chunk], heading: Sequence[int], rows: int, progress: BatchProgress, **options: Any
    ) -> Generator[Step, None, list[LearnedSection]]:
        """What the inner loop, with these options of it, learns of each chunk.

        Raises: LearningFailed when a loss is not finite.
        """
        inputs, targets = self.tensors(chunks, heading)
        steps = max(1, options.get("steps", self.prepared.config.steps))
        options |= {"micro_rows": rows} if len(chunks) == 1 else {}
        losses: list[float] = []
        fast: dict[str, Tensor] = {}
        for loss, fast in self.prepared.inner_loop(self.base.model, inputs, targets, measure=True, **options):  # noqa: B007
            if not math.isfinite(float(loss)):
                raise LearningFailed from ValueError("a loss that is no number")
            losses.append(float(loss))
            if len(losses) <= steps:
                step = progress.step(len(losses), steps, float(loss))
            yield step  # again after the loss that is measured at the end: questions need not wait for the next group
        changes = self.changes(fast)
        squares = torch.stack([change.double().square().sum((1, 2)) for change in changes.values()])
        sections = []
        for i, square in enumerate(squares.sum(0).tolist()):
            tensors = pack({name: change[i] for name, change in changes.items()})
            sections.append(LearnedSection(tensors, losses, square))
        return sections

    def changes(self, fast: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What of the fast weights is stored."""
        return fast

    def tensors(self, chunks: Sequence[Chunk], heading: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs and targets, [D, S, T]."""
        length, pad = self.prepared.config.segment, self.fmt.pad_id
        documents = [segments(self.fmt.section(chunk.text), heading, length, pad) for chunk in chunks]
        inputs, targets = stack_segments(documents, length, pad)
        return inputs.to(self.base.device), targets.to(self.base.device)

    def _group(self, chunks: Sequence[Chunk], start: int, batch_tokens: int) -> range:
        """As many chunks from `start` on as fit into one batch and into memory, at least one."""
        padded = max(chunk.token_count for chunk in chunks) * 5 // 4
        most = max_sections(self.base.model, len(self.modules), padded, self.config.memory_mb) or len(chunks)
        most = min(most, self.config.sections or most)
        size = chunks[start].token_count
        stop = start + 1
        while stop < min(len(chunks), start + most) and size + chunks[stop].token_count <= batch_tokens:
            size += chunks[stop].token_count
            stop += 1
        return range(start, stop)

    def with_rate(self, factor: float) -> FastWeightsLearner:
        """The same learner with its rates multiplied."""
        other = copy.copy(self)
        other.prepared = copy.deepcopy(self.prepared)
        other.prepared.log_rates.data += math.log(factor)
        return other

    def attach(self, groups: Groups) -> AbstractContextManager[None]:
        """By hooks on the down-projections: for any model, and for prompts too long to be recorded."""
        fast = self._unpacked([weights for weights, _ in groups])
        return attached(self.modules, fast, [rows for _, rows in groups])

    def answer_passes(self, groups: Groups, prompts: Sequence[Sequence[int]], max_new: int) -> Passes | None:
        """By blocks that have a slot for each row's weights: how a model of Llama's kind answers."""
        weights: list[Mapping[str, Tensor]] = []
        documents: list[int] = []  # of each row
        for section, rows in groups:
            documents += [len(weights)] * rows
            weights.append(section)
        if Shared.can(self.base.model):
            self.shared = self.shared or Shared(self.base.model, self.modules, self.fmt.opening)
            return self.shared.passes(prompts, self.fmt.pad_id, max_new, self._unpacked(weights), documents)
        if self.base.device.type != "cuda" or not can_run(self.base.model):
            return None
        self.graphs = self.graphs or Graphs(self.base.model, self.modules)
        passes = self.graphs.passes(prompts, self.fmt.pad_id, max_new)
        if passes:
            passes.attach(self._unpacked(weights), documents)
        return passes

    def _unpacked(self, sections: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The fast weights of D stored sections, name -> [D, d, f]; {} of none. On a CPU one section after the other:
        what is computed of one fits into its cache."""
        if not sections:
            return {}
        if self.base.device.type == "cuda":
            return dict(zip(self.modules, self._unpack_batch(sections), strict=True))
        shape = len(self.modules), len(sections), *next(iter(self.modules.values())).weight.shape
        whole = torch.empty(shape, dtype=self.base.dtype, device=self.base.device)
        for i in range(len(sections)):
            whole[:, i : i + 1] = self._unpack_batch(sections[i : i + 1])
        return dict(zip(self.modules, whole, strict=True))

    def _unpack_batch(self, sections: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Fast weights of D sections, unpacked in one batch -> [U, D, d, f]."""
        scales = next(iter(self.modules)) + SCALE
        if len({section[scales].shape for section in sections if scales in section}) > 1:
            # some were learned by a former release, with more scales a row
            return torch.cat([self._unpack_batch([section]) for section in sections], dim=1)
        packed = {}
        for part in ("", SCALE):
            tensors = []
            for name in self.modules:
                tensors += [section.get(name + part, self.nothing[part]) for section in sections]
            whole = torch.stack(tensors)
            whole = whole.pin_memory() if self.base.device.type == "cuda" else whole
            packed["all" + part] = whole.to(self.base.device, non_blocking=True)  # at once, and nothing waits for it
        width = next(iter(self.modules.values())).in_features
        changes = unpack(packed, width)["all"].unflatten(0, (len(self.modules), -1))
        return self.fast_weights(changes).to(self.base.dtype)

    def fast_weights(self, changes: Tensor) -> Tensor:
        """From what was stored, [U, D, d, f]."""
        return changes


class BatchProgress(NamedTuple):
    """Where a batch stands in the learning of its document, in inner steps of a chunk."""

    done: int  # before the batch
    share: int  # of the batch
    total: int

    def step(self, taken: int, steps: int, loss: float) -> Step:
        """After so many of the steps of the batch."""
        return Step(self.done + self.share * taken // steps, self.total, loss)


def mean_losses(losses: Sequence[Sequence[float]], tokens: Sequence[int]) -> list[float]:
    """The document's mean loss before each step and after the last one, from those of its sections; a section that took
    fewer steps stays at its last loss."""
    history = []
    for step in range(max(map(len, losses))):
        total = 0.0
        for count, section_losses in zip(tokens, losses, strict=True):
            total += count * section_losses[min(step, len(section_losses) - 1)]
        history.append(total / sum(tokens))
    return history
