"""The row `fast-weights`: each chunk of the document becomes one delta, by the prepared inner loop."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from core.errors import LearningFailed
from core.learning.base import LearnConfig
from core.learning.fast_weights import (
    IGNORE,
    FastWeightsConfig,
    Prepared,
    attached,
    inner_steps,
    load_prepared,
    segments,
    target_modules,
)
from core.model import LoadedModel, dequantise, prepared_folder, quantise
from core.ports import Learned
from core.prompts import PromptFormat
from core.types import Chunk, Metrics, Step


class FastWeightsLearner:
    """Chunks are learned independently, so a long document is as easy as a short one; the router picks the chunk."""

    name = "fast-weights"

    def __init__(self, base: LoadedModel, fmt: PromptFormat, config: LearnConfig) -> None:
        self.base, self.fmt, self.config = base, fmt, config
        folder = prepared_folder(base)
        width = base.model.config.hidden_size
        # A model that was never prepared gets small steps: large ones destroy it (science of the inner rate: LOG.md).
        self.prepared = (
            load_prepared(folder, width)
            if folder
            else Prepared(FastWeightsConfig(steps=4, rule="rms", rate=5e-4), width)
        )
        self.prepared.to(base.device).requires_grad_(False)
        self.modules = target_modules(base.model, self.prepared.config.layers)

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        began = time.perf_counter()
        heading = self.fmt.heading(title)
        steps = self.prepared.config.steps
        batch_tokens = self.config.batch_tokens
        tensors: dict[str, Tensor] = {}
        square, done = 0.0, 0
        total = len(chunks) * steps
        losses: list[list[float]] = []
        at = 0
        while at < len(chunks):
            group = self._group(chunks, at, batch_tokens)
            try:
                inputs, targets = self._tensors(group, heading)
                rows = max(1, batch_tokens // self.prepared.config.segment) if len(group) == 1 else None
                found: dict[str, Tensor] = {}
                mine: list[float] = []
                for loss, found in inner_steps(
                    self.base.model, inputs, targets, self.prepared, micro_rows=rows, measure=True
                ):
                    if not math.isfinite(float(loss)):
                        raise LearningFailed
                    mine.append(float(loss))
                    if len(mine) <= steps:
                        done += len(group)
                        yield Step(done, total, float(loss))
            except torch.OutOfMemoryError:
                if batch_tokens <= self.prepared.config.segment:
                    raise LearningFailed(
                        "There is not enough memory to learn this document, even in small parts."
                    ) from None
                torch.cuda.empty_cache()
                done = at * steps
                batch_tokens //= 2
                continue
            losses += [mine] * len(group)
            for module, delta in found.items():
                square += float(delta.double().square().sum())
                for i in range(len(group)):  # int8 answers exactly as float16 does, in half the bytes (LOG.md)
                    tensors |= quantise({f"{at + i}/{module}": delta[i]})
            at += len(group)
        if not math.isfinite(square):
            raise LearningFailed
        weights = [c.token_count for c in chunks]
        history = [
            sum(w * row[s] for w, row in zip(weights, losses, strict=True)) / sum(weights) for s in range(steps + 1)
        ]
        metrics = Metrics(
            initial_loss=history[0], final_loss=history[-1], loss_history=tuple(history), chunks=len(chunks), tokens=sum(weights),
            seconds=time.perf_counter() - began, delta_norm=math.sqrt(square),
        )  # fmt: skip
        return Learned(tensors, tuple(range(len(chunks))), metrics)

    def attach(self, groups: Sequence[tuple[Mapping[str, Tensor], int]]) -> AbstractContextManager[None]:
        opened = [dequantise({n: w.to(self.base.device) for n, w in weights.items()}) for weights, _ in groups]
        deltas = {n: torch.stack([weights[n] for weights in opened]) for n in (opened[0] if opened else ())}
        return attached(self.modules, deltas, [rows for _, rows in groups])

    def _group(self, chunks: Sequence[Chunk], at: int, batch_tokens: int) -> Sequence[Chunk]:
        """As many chunks as fit into one batch, at least one."""
        size, end = 0, at
        while end < len(chunks) and (end == at or size + chunks[end].token_count <= batch_tokens):
            size += chunks[end].token_count
            end += 1
        return chunks[at:end]

    def _tensors(self, group: Sequence[Chunk], heading: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[D, S, T] inputs and targets; shorter chunks are padded with empty segments."""
        length = self.prepared.config.segment
        cut = [segments(c.token_ids, heading, length, self.fmt.pad_id) for c in group]
        most = max(len(i) for i, _ in cut)
        inputs = [i + [[self.fmt.pad_id] * length] * (most - len(i)) for i, _ in cut]
        targets = [t + [[IGNORE] * length] * (most - len(t)) for _, t in cut]
        return torch.tensor(inputs, device=self.base.device), torch.tensor(targets, device=self.base.device)
