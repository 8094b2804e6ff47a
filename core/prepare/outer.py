"""Learning to learn (the outer loop) for a base model that stays frozen: train the reader, the inner rates and the
token weights so that after a few inner steps on a raw document, questions about it are answered without it.

The losses are in `core.prepare.step`. Their gradient passes through `core.learning.inner_loop`, the product's own inner
loop (second order). MAML (Finn et al. 2017) in the form of PERK (arXiv 2507.06415) with full-rank deltas instead of
LoRA. Before it, the reader is trained to read alone, which is quick.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from core.learning.preparation import Prepared, SlowWeights
from core.prepare.compiled import LlamaStep
from core.prepare.episodes import Batch, EpisodeStream, Reading, Shape
from core.prepare.material import Material
from core.prepare.step import HookStep, OuterStep, step_losses, weighed
from core.prompts import format_for


@dataclass(frozen=True)
class OuterConfig:
    reading_seconds: float = 150  # the reader alone
    seconds: float = 600  # learning to learn
    max_steps: int = 10**9  # of each of the two
    shapes: str = "1x64x4x72,1x64x4x72,1x64x4x72,1x64x2x144"  # SEGMENTSxDOCUMENTSxQUESTIONSxWIDTH of a batch, in turn
    reading_rows: int = 8  # of 1,024 tokens, a step of learning to learn
    rows_alone: int = 24  # ... a step of the reader alone
    length: int = 1024  # tokens of such a row
    strangers: float = 0.25  # chance that one of a document's questions is not answered by it
    typed: float = 0.15  # share of the questions written as people type
    beside: float = 0.25  # share of the documents whose text is read beside their delta, too
    beside_weight: float = 0.5
    language: float = 0.2  # weight of the next-token loss before learning
    reading: float = 0.6  # weight of reading without a delta
    reader_lr: float = 1e-3
    learning_lr: float = 6e-4  # of the reader, in learning to learn
    rate_lr: float = 2e-2
    weigh_lr: float = 1e-3
    warmup_steps: int = 30
    decay: float = 0.6  # share of the time in which the rates fall
    workers: int = 12
    every: int = 50  # steps between two reports
    save_every: int = 200  # steps between two states to resume from
    seed: int = 0
    compiled: bool = True  # core.prepare.compiled, where it can


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(parameters: Iterable[Tensor], world: int) -> None:
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(grads)
    dist.all_reduce(flat)
    for g, mean in zip(grads, torch._utils._unflatten_dense_tensors(flat / world, grads), strict=True):
        g.copy_(mean)


class Trainer:
    """What is trained, and an optimiser's step on it. Memory that runs out cuts the batches into more parts."""

    def __init__(self, model: Any, prepared: SlowWeights, config: OuterConfig) -> None:
        self.slow, self.config = prepared, config
        self.device = next(model.parameters()).device
        named = list(prepared.named_parameters())
        reader = [p for name, p in named if name.startswith("reader.")]
        rates = [p for name, p in named if name == "log_rates"]
        rest = [p for name, p in named if not name.startswith("reader.") and name != "log_rates"]
        with_rates = ((reader, config.reader_lr), (rates, config.rate_lr), (rest, config.weigh_lr))
        groups = [{"params": params, "lr": lr} for params, lr in with_rates if params]
        cuda = self.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=cuda)
        self.lr = [g["lr"] for g in self.optimiser.param_groups]
        self.moved = [p for _, p in named]
        self.parts = 1  # of a batch, as memory allows
        self.outer_step: OuterStep = HookStep(model, prepared)
        if config.compiled and LlamaStep.can(model, prepared):
            self.outer_step = LlamaStep(model, cast(Prepared, prepared), compiled=cuda)

    def state(self) -> dict[str, Any]:
        """To resume from."""
        return {"prepared": self.slow.state_dict(), "optimiser": self.optimiser.state_dict()}

    def compile(self, batches: Iterable[Batch]) -> None:
        """Compile the step for batches of these shapes, without moving anything."""
        for batch in batches:
            _gradients(self.outer_step, batch, self.config, 1)
        self.optimiser.zero_grad()

    def step(self, batch: Batch, scale: float) -> dict[str, float]:
        """One step at `scale` times the learning rates; one that is not finite moves nothing. Returns: the losses."""
        while True:
            try:
                losses = _gradients(self.outer_step, batch, self.config, self.parts)
                break
            except torch.OutOfMemoryError:
                if self.parts >= len(batch.inputs):
                    raise
                self.parts *= 2
                self.optimiser.zero_grad()
                torch.cuda.empty_cache()
        if (world := world_size()) > 1:
            average_gradients(self.moved, world)
        norm = torch.nn.utils.clip_grad_norm_([p for p in self.moved if p.grad is not None], 1.0)
        if bool(torch.isfinite(norm)):
            for group, rate in zip(self.optimiser.param_groups, self.lr, strict=True):
                group["lr"] = rate * scale
            self.optimiser.step()
        self.optimiser.zero_grad()
        return losses | {"norm": float(norm)}


def _gradients(outer_step: OuterStep, batch: Batch, config: OuterConfig, parts: int) -> dict[str, float]:
    """Forward and backward, documents in so many parts. Returns: the losses, each a mean over what it is of."""
    sums: dict[str, Any] = {}
    for piece in batch.split(parts) if parts > 1 else [batch]:
        losses = step_losses(outer_step, piece, config)
        shares = dict.fromkeys(losses, len(piece.inputs) / max(1, len(batch.inputs))) | {"reading": 1.0}
        if len(batch.beside):  # a mean over weighed tokens
            shares["beside"] = float(piece.beside[:, 1].sum() / batch.beside[:, 1].sum().clamp_min(1))
        scaled = {k: v * shares[k] for k, v in losses.items() if k != "total"}
        weighed(scaled, config)["total"].backward()
        for k, v in scaled.items():
            sums[k] = sums.get(k, 0.0) + v.detach()
    return {k: float(v) for k, v in weighed(sums, config).items()}


class Clock:
    """The share of a stage's time that is over, the same for all processes."""

    def __init__(self, seconds: float, before: float, device: torch.device) -> None:
        """`before`: seconds of the stage that an earlier process spent."""
        self.whole, self.began = max(seconds, 1e-9), time.time() - before
        self.flag = torch.zeros(1, device=device)

    @property
    def seconds(self) -> float:
        return time.time() - self.began

    def done(self) -> float:
        self.flag.fill_(self.seconds / self.whole)
        if world_size() > 1:
            dist.broadcast(self.flag, 0)
        return float(self.flag)


class Means:
    """Of losses, between two reports."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def values(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}


@dataclass(frozen=True)
class StageOfTraining:
    name: str  # reading | learning
    seconds: float
    lr: float  # of the reader
    falls: float  # share of the time in which the rates fall
    shapes: str  # of batches of documents; "": the reader alone
    rows: int  # to read, a step


def run_outer(
    model: Any,
    tokenizer: Any,
    prepared: SlowWeights,
    material: Material,
    config: OuterConfig,
    *,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
    resume: dict[str, Any] | None = None,
    checkpoint: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, float]:
    """Train `prepared`, first its reader alone, then all of it. `checkpoint` gets the state to resume from at times.

    Returns: the last figures, and steps and seconds of learning to learn.
    """
    c = config
    alone = StageOfTraining("reading", c.reading_seconds, c.reader_lr, falls=0.3, shapes="", rows=c.rows_alone)
    learning = StageOfTraining("learning", c.seconds, c.learning_lr, c.decay, c.shapes, c.reading_rows)
    resume = resume or {}
    stages = [learning] if resume.get("stage") == "learning" or not prepared.low_rank() else [alone, learning]
    trainer = Trainer(model, prepared, config)
    if resume:
        prepared.load_state_dict(resume["prepared"])
        trainer.optimiser.load_state_dict(resume["optimiser"])
    figures: dict[str, float] = {}
    for stage in stages:
        resumed = resume if resume.get("stage") == stage.name else {}
        step, before = resumed.get("step", 0), resumed.get("seconds", 0.0)
        batches = draw_batches(trainer, tokenizer, material, stage, step)
        figures = _run_stage(trainer, batches, stage, step, before, report, checkpoint)
    return figures


def _run_stage(
    trainer: Trainer,
    batches: Iterator[Batch],
    stage: StageOfTraining,
    step: int,
    before: float,
    report: Callable[[dict[str, Any]], None],
    checkpoint: Callable[[dict[str, Any]], None] | None,
) -> dict[str, float]:
    """Train until the stage's time is over, from `step` on, after `before` seconds of an earlier process."""
    config, slow, rank = trainer.config, trainer.slow, process_rank()
    if trainer.device.type == "cuda":  # every shape is compiled before the clock starts
        trainer.compile(next(batches) for _ in range(max(1, len(Shape.read(stage.shapes)))))
        if world_size() > 1:
            dist.barrier()  # the clock waits for the slowest
    if slow.low_rank():
        trainer.lr[0] = stage.lr  # the reader's
    clock, done = Clock(stage.seconds, before, trainer.device), before / max(stage.seconds, 1e-9)
    means, figures = Means(), {}
    while step < config.max_steps:
        if step % 5 == 0:
            done = clock.done()
        if done >= 1:
            break
        warm_up = min(1.0, (step + 1) / config.warmup_steps)
        fall = max(0.03, min(1.0, (1 - done) / stage.falls))
        means.add(trainer.step(next(batches), warm_up * fall))
        step += 1
        if checkpoint and rank == 0 and step % config.save_every == 0:
            checkpoint({"stage": stage.name, "step": step, "seconds": clock.seconds, **trainer.state()})
        if step in (2, 10) or step % config.every == 0:
            figures = means.values() | {"step": step, "seconds": clock.seconds}
            means = Means()
            if rank == 0:
                rates = [round(r, 5) for r in slow.rates().mean(1).tolist()]
                report({"stage": stage.name, **figures, "rates": rates, "parts": trainer.parts})
    return figures | {"step": step, "seconds": clock.seconds}


def draw_batches(
    trainer: Trainer, tokenizer: Any, material: Material, stage: StageOfTraining, step: int
) -> Iterator[Batch]:
    """Endless batches for a stage, drawn by worker processes; those that follow `step` are other ones than before."""
    config, device = trainer.config, trainer.device
    stream = EpisodeStream(
        material,
        tokenizer,
        format_for(tokenizer, prepared=True),
        Shape.read(stage.shapes),
        segment=trainer.slow.config.segment,
        seed=100 * config.seed + process_rank() + 1 + 1000 * step + 500_000 * (stage.name == "reading"),
        strangers=config.strangers,
        typed=config.typed,
        beside=config.beside,
        reading=Reading(rows=stage.rows if config.reading else 0, length=config.length, typed=config.typed),
    )
    loader = torch.utils.data.DataLoader(
        stream,
        batch_size=None,
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if config.workers else None,
    )
    for batch in loader:
        yield Batch(*(t.to(device, non_blocking=True) for t in batch))


def save_state(state: dict[str, Any], path: Path) -> None:
    """A state to resume from; the older one stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    torch.save(state, new)
    new.replace(path)
