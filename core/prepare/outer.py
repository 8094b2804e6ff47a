"""Learning to learn (the outer loop) for a base model that stays frozen: train the reader, the inner rates and the
token weights so that after a few inner steps on a raw document, questions about it are answered without it.

The losses are in `core.prepare.step`. Their gradient passes through `core.learning.inner_loop`, the product's own inner
loop (second order). MAML (Finn et al. 2017) in the form of PERK (arXiv 2507.06415) with full-rank deltas instead of
LoRA. Before it, the reader is trained to read alone, which is quick.

Several processes (torchrun), a GPU each, share a step: each draws its own part of the documents, the losses are means
over all of them, and the gradients are added up.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import Refused
from core.learning.preparation import Prepared, SlowWeights
from core.prepare.compiled import LlamaStep
from core.prepare.episodes import KINDS, SWAPPED, Batch, Drawn, EpisodeBatches, Reading, Shape
from core.prepare.material import Material
from core.prepare.recorded import RecordedStep
from core.prepare.step import HookStep, OuterStep, StepBatch, mapped, step_losses, totals_of, weighed

WATCHED = 10  # first steps, in which each phase is waited for, so that its seconds are its own


@dataclass(frozen=True)
class OuterConfig:
    reading_seconds: float = 150  # the reader alone
    seconds: float = 600  # learning to learn
    max_steps: int = 10**9  # of each of the two
    shapes: str = "1x64x4x72,1x64x4x72,1x64x4x72,1x64x2x144"  # SEGMENTSxDOCUMENTSxQUESTIONSxWIDTH of a batch, in turn
    reading_rows: int = 8  # of 1,024 tokens, a step of learning to learn
    rows_alone: int = 24  # ... a step of the reader alone
    length: int = 1024  # tokens of such a row
    kinds: Mapping[str, float] = field(default_factory=lambda: KINDS)  # of documents, by share
    swaps: Mapping[str, float] = field(default_factory=lambda: SWAPPED)  # share of a kind with its words swapped
    strangers: float = 0.25  # chance that one of a document's questions is not answered by it
    typed: float = 0.15  # share of the questions written as people type
    beside: float = 0.25  # share of the documents whose text is read beside their delta, too
    beside_weight: float = 0.5
    language: float = 0.2  # weight of the next-token loss before learning
    reading: float = 0.6  # weight of reading without a delta
    reader_lr: float = 1e-3
    learning_lr: float = 6e-4  # of the reader, in learning to learn
    reader_decay: float = 0.1  # AdamW's weight decay of the reader
    rate_lr: float = 2e-2
    weigh_lr: float = 1e-3
    warmup_steps: int = 30
    decay: float = 0.6  # share of the time in which the rates fall
    workers: int = 12  # processes that draw batches, beside each process that trains
    every: int = 50  # steps between two reports
    save_seconds: float = 120  # between two states to resume from
    seed: int = 0
    compiled: bool = True  # core.prepare.compiled, where it can
    mode: str = "default"  # of torch.compile on a GPU, "recorded" for CUDA graphs of whole steps, "none"


class Stopped(Exception):
    """Training was asked to stop; its state is saved."""


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def add_up(tensors: Iterable[Tensor]) -> None:
    """Each becomes its sum over all processes, in one exchange."""
    if world_size() == 1:
        return
    each = list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in each])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in each])
    torch._foreach_copy_(each, list(map(Tensor.view_as, parts, each)))


class Phases:
    """Seconds of each phase of a step: until the host goes on, and until the device is done, where it is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.watched = device, True
        self.clear()

    def clear(self) -> None:
        self.host: dict[str, float] = {}
        self.whole: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.host[name] = self.host.get(name, 0.0) + time.perf_counter() - began
        if self.watched and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.whole[name] = self.whole.get(name, 0.0) + time.perf_counter() - began

    def a_step(self, steps: int) -> dict[str, float]:
        """Mean seconds; "NAME launched" is what the host alone took of NAME."""
        each = {name: round(seconds / steps, 4) for name, seconds in self.whole.items()}
        if self.watched:
            for name in ("gradients", "optimiser"):
                each[f"{name} launched"] = round(self.host.get(name, 0.0) / steps, 4)
        return each


class Trainer:
    """What is trained, and an optimiser's step on it. Memory that runs out cuts the batches into more parts."""

    def __init__(self, model: Any, prepared: SlowWeights, config: OuterConfig) -> None:
        self.slow, self.config = prepared, config
        self.device = next(model.parameters()).device
        self.moved: list[nn.Parameter] = []
        rest: dict[str, Any] = {"params": [], "lr": config.weigh_lr}
        groups = {
            "reader": {"params": [], "lr": config.reader_lr, "weight_decay": config.reader_decay},
            "log_rates": {"params": [], "lr": config.rate_lr},
            "": rest,
        }
        for name, parameter in prepared.named_parameters():
            self.moved.append(parameter)
            groups.get(name.partition(".")[0], rest)["params"].append(parameter)
        trained = [group for group in groups.values() if group["params"]]
        self.optimiser = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.lr = [group["lr"] for group in trained]
        self.parts = 1  # of a batch, as memory allows
        self.phases = Phases(self.device)
        self.outer_step: OuterStep = HookStep(model, prepared)
        if config.compiled and LlamaStep.can(model, prepared):
            mode = "default" if config.mode == "recorded" else config.mode
            self.outer_step = LlamaStep(
                model, cast(Prepared, prepared), mode=mode if self.device.type == "cuda" else "none"
            )
        is_recorded = config.mode == "recorded" and isinstance(self.outer_step, LlamaStep)
        self.recorded = RecordedStep(self.outer_step, self.moved, config) if is_recorded else None

    def state(self) -> dict[str, Any]:
        """To resume from."""
        return {"prepared": self.slow.state_dict(), "optimiser": self.optimiser.state_dict()}

    def compile(self, batches: Iterable[Batch]) -> None:
        """Compile the step for batches of these shapes, without moving anything."""
        every = list(batches)
        if self.recorded:
            try:
                self.recorded.record(self._on_device(batch, totals_of(batch)) for batch in every)
            except torch.OutOfMemoryError:
                self._do_without_recordings()
        for batch in every:
            self._gradients(batch)
        self._zero()

    def step(self, batch: Batch, scale: float) -> dict[str, Tensor]:
        """One step at `scale` times the learning rates; one that is not finite moves nothing. The host waits for
        nothing here. Returns: the losses, of which each process has its share."""
        with self.phases("gradients"):
            losses = self._gradients(batch)
        with self.phases("optimiser"):
            gradients = [p.grad for p in self.moved if p.grad is not None]
            add_up(gradients)
            norm = torch.nn.utils.clip_grad_norm_(self.moved, 1.0)
            for group, rate in zip(self.optimiser.param_groups, self.lr, strict=True):
                group["lr"] = rate * scale
            self.optimiser.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]  # as GradScaler does
            self.optimiser.step()
            self._zero()
        return losses | {"norm": norm.detach() / world_size()}

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Forward and backward, in as few parts as memory allows."""
        totals = on_device(totals_of(batch), self.device)
        add_up([totals])
        while True:
            try:
                if self.recorded:
                    return self.recorded(self._on_device(batch, totals))
                return gradients(self.outer_step, batch, totals, self.config, self.parts)
            except torch.OutOfMemoryError:
                if self.recorded:
                    self._do_without_recordings()
                elif self.parts < len(batch.inputs):
                    self.parts *= 2
                else:
                    raise
                self._zero()
                torch.cuda.empty_cache()

    def _on_device(self, batch: Batch, totals: Tensor) -> StepBatch:
        return on_device(StepBatch.of_batch(batch, totals), self.device)

    def _do_without_recordings(self) -> None:
        """Their memory is free again."""
        self.recorded = None
        for p in self.moved:
            p.grad = None
        torch.cuda.empty_cache()

    def _zero(self) -> None:
        if not self.recorded:  # which does so itself, and keeps their place
            self.optimiser.zero_grad()


def gradients(
    outer_step: OuterStep, batch: Batch, totals: Tensor, config: OuterConfig, parts: int
) -> dict[str, Tensor]:
    """Forward and backward, documents in so many parts. totals: of the whole step. Returns: the losses."""
    sums: dict[str, Tensor] = {}
    for piece in batch.split(parts) if parts > 1 else [batch]:
        losses = step_losses(outer_step, on_device(StepBatch.of_batch(piece, totals), totals.device), config)
        losses.pop("total").backward()
        for k, v in losses.items():
            sums[k] = sums[k] + v.detach() if k in sums else v.detach()
    return weighed(sums, config)


def on_device(values: Any, device: torch.device) -> Any:
    """Tensors of the host, or tuples of them, on the device; nothing is waited for."""

    def moved(tensor: Tensor) -> Tensor:
        pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
        return pinned.to(device, non_blocking=True)

    return mapped(moved, values)


class Clock:
    """The share of a stage's time that is over, and whether to stop; the same for all processes."""

    def __init__(self, seconds: float, before: float, device: torch.device, stop: Callable[[], bool]) -> None:
        """`before`: seconds of the stage that an earlier process spent. `stop` is asked in the first process."""
        self.whole, self.began, self.stop = max(seconds, 1e-9), time.time() - before, stop
        self.flags = torch.zeros(2, device=device)

    @property
    def seconds(self) -> float:
        return time.time() - self.began

    def read(self) -> tuple[float, bool]:
        share, stop = self.seconds / self.whole, self.stop()
        if world_size() > 1:
            self.flags.copy_(torch.tensor([share, float(stop)]))
            dist.broadcast(self.flags, 0)
            share, stop = float(self.flags[0]), bool(self.flags[1])
        return share, stop


class Means:
    """Of losses, between two reports; read only then, since the device has to be waited for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def values(self) -> dict[str, float]:
        add_up(self.sums.values())
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


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
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train `prepared`, first its reader alone, then all of it. `checkpoint` gets the state to resume from at times.

    Args:
        stop: asked every few steps; when it says so the state goes to `checkpoint`, and Stopped is raised.

    Returns: the last figures, and steps and seconds of learning to learn.
    Raises: Stopped; Refused (documents or rows that can't be shared out among the processes).
    """
    c = config
    alone = StageOfTraining("reading", c.reading_seconds, c.reader_lr, falls=0.3, shapes="", rows=c.rows_alone)
    learning = StageOfTraining("learning", c.seconds, c.learning_lr, c.decay, c.shapes, c.reading_rows)
    resume = resume or {}
    skips_reading = resume.get("stage") == "learning" or not prepared.low_rank() or alone.seconds <= 0
    trainer = Trainer(model, prepared, config)
    if resume:
        prepared.load_state_dict(resume["prepared"])
        trainer.optimiser.load_state_dict(resume["optimiser"])
    figures: dict[str, float] = {}
    for stage in [learning] if skips_reading else [alone, learning]:
        resumed = resume if resume.get("stage") == stage.name else {}
        step, before = resumed.get("step", 0), resumed.get("seconds", 0.0)
        figures = _run_stage(trainer, tokenizer, material, stage, step, before, report, checkpoint, stop)
    return figures


def _run_stage(
    trainer: Trainer,
    tokenizer: Any,
    material: Material,
    stage: StageOfTraining,
    step: int,
    before: float,
    report: Callable[[dict[str, Any]], None],
    checkpoint: Callable[[dict[str, Any]], None] | None,
    stop: Callable[[], bool],
) -> dict[str, float]:
    """Train until the stage's time is over, from `step` on, after `before` seconds of an earlier process."""
    config, slow, is_first, phases = trainer.config, trainer.slow, process_rank() == 0, trainer.phases
    batches = draw_batches(trainer, tokenizer, material, stage, step)
    if trainer.device.type == "cuda":  # every shape is compiled before the clock starts
        began = time.time()
        first_ones = [next(batches) for _ in range(max(1, len(Shape.read(stage.shapes))))]
        trainer.compile(drawn.batch for drawn in first_ones)
        if world_size() > 1:
            dist.barrier()  # the clock waits for the slowest
        if is_first:
            first_figures = {"step": step, "seconds": time.time() - began}
            if config.mode == "recorded":  # 0: there was no memory for it
                first_figures["recorded"] = int(trainer.recorded is not None)
            report({"stage": "compiling", **first_figures})
        batches = itertools.chain(first_ones, batches)
    if slow.low_rank():
        trainer.lr[0] = stage.lr  # the reader's
    clock = Clock(stage.seconds, before, trainer.device, stop)
    done, stopped, first, reported, saved = clock.seconds / clock.whole, False, step, step, time.time()
    phases.clear()
    phases.watched = True
    since = time.time()
    drawing, documents = 0.0, 0
    means, figures = Means(), {}

    def save() -> None:
        if checkpoint and is_first:
            checkpoint({"stage": stage.name, "step": step, "seconds": clock.seconds, **trainer.state()})

    while step < config.max_steps:
        if step % 5 == 0:
            done, stopped = clock.read()
        if stopped:
            save()
            raise Stopped
        if done >= 1:
            break
        with phases("waiting for data"):
            drawn = next(batches)
        drawing += drawn.seconds
        documents += len(drawn.batch.inputs)
        warm_up = min(1.0, (step + 1) / config.warmup_steps)
        fall = max(0.03, min(1.0, (1 - done) / stage.falls))
        means.add(trainer.step(drawn.batch, warm_up * fall))
        step += 1
        if time.time() - saved >= config.save_seconds:
            save()
            saved = time.time()
        if step - first in (2, WATCHED) or step % config.every == 0:
            figures = means.values() | {"step": step, "seconds": clock.seconds}
            if is_first:
                steps, spent = step - reported, time.time() - since
                report(
                    {
                        "stage": stage.name,
                        **figures,
                        "rates": [round(r, 5) for r in slow.rates().mean(1).tolist()],
                        "parts": trainer.parts,
                        "seconds a step": spent / steps,
                        "documents a second": documents * world_size() / spent,
                        "phases": {"drawing, by a worker": round(drawing / steps, 4), **phases.a_step(steps)},
                        "peak memory MB": peak_memory_mb(trainer.device),
                    }
                )
            means, reported, since, drawing, documents = Means(), step, time.time(), 0.0, 0
            phases.clear()
            phases.watched = step - first < WATCHED
    return figures | {"step": step, "seconds": clock.seconds}


def peak_memory_mb(device: torch.device) -> float:
    """Of the device, or of this process where that is the CPU, MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def draw_batches(
    trainer: Trainer, tokenizer: Any, material: Material, stage: StageOfTraining, step: int
) -> Iterator[Drawn]:
    """Endless batches for a stage, this process' share of each, from number `step` on; the same ones whatever the
    number of workers."""
    config, world, rank = trainer.config, world_size(), process_rank()
    shapes = [shape._replace(documents=share(shape.documents, world)) for shape in Shape.read(stage.shapes)]
    reading = Reading(share(stage.rows, world), config.length, typed=config.typed, swaps=config.swaps)
    dataset = EpisodeBatches(
        material,
        tokenizer,
        shapes,
        segment=trainer.slow.config.segment,
        seed=f"{config.seed} {stage.name} {rank}",
        kinds=config.kinds,
        swaps=config.swaps,
        strangers=config.strangers,
        typed=config.typed,
        beside=config.beside,
        reading=reading if config.reading else replace(reading, rows=0),
    )
    if config.workers:
        _ = material.words  # once, not in each worker
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        sampler=range(step, 2**31),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        multiprocessing_context=drawing_processes() if config.workers else None,
        worker_init_fn=follow_parent,
    )
    return iter(loader)


def drawing_processes() -> Any:
    """Workers that start as copies of a small process, not of this one with its threads and its GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["core.prepare.episodes", "transformers.tokenization_utils_tokenizers"])
    return context


def follow_parent(worker: int = 0) -> None:
    """In a worker: end with the training process, however it ends, and not before: Ctrl-C and SIGTERM reach every
    process of a terminal, and training still wants its batches then."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(0)


def share(count: int, world: int) -> int:
    """Raises: Refused."""
    if count % world:
        raise Refused(f"{count} documents or rows a step can't be shared out among {world} processes: give a multiple.")
    return count // world


def save_state(state: dict[str, Any], path: Path) -> None:
    """A state to resume from; the older one stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    torch.save(state, new)
    new.replace(path)
