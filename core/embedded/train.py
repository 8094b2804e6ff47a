"""Pretraining and reading: one trainer, different rows. Runs on one CPU, one GPU, or several (torchrun).

python -m core.embedded.train --out DIR --seconds 400 --tokens shard0/tokens.npy --rows shard0 --rows-share 0.4 ...
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from core.embedded.llama import Llama, LlamaShape
from core.options import add_options, given


@dataclass(frozen=True)
class TrainConfig:
    out: str
    seconds: float  # wall time of training; the schedule follows it
    tokens: tuple[str, ...] = ()  # token streams (uint16 .npy), raw language
    rows: tuple[str, ...] = ()  # folders with rows.npy and rows-weights.npy
    rows_share: float = 0.4  # part of each batch that comes from rows, once they are there
    rows_from: float = 0.0  # ... beginning at this fraction of the time
    val: str = ""
    checkpoint: str = ""  # to begin with (weights only)
    save_every: int = 1000  # steps between two states in `out`; a run that finds one goes on from it
    batch: int = 64  # rows a device and step
    length: int = 1024
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup_steps: int = 100
    decay: float = 0.5  # last fraction of the time in which the rate falls linearly to 2 %
    weight_decay: float = 0.05
    max_steps: int = 10**9
    compile: bool = True
    seed: int = 0
    width: int = 512
    layers: int = 14
    heads: int = 8
    mlp: int = 1408
    shape: LlamaShape = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "shape", LlamaShape(width=self.width, layers=self.layers, heads=self.heads, mlp=self.mlp)
        )


def windows(
    paths: tuple[str, ...], length: int, rank: int, world: int, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """Endless rows of length + 1 tokens, each token once an epoch, at a fresh offset each epoch. Streams that appear
    later (still being tokenised) join at the next epoch."""
    loaded: dict[str, Tensor] = {}
    epoch = 0
    while True:
        for p in paths:
            if p not in loaded and Path(p).with_name("tokens.ready").exists():
                loaded[p] = torch.from_numpy(np.load(p).astype(np.int16)).to(device)
        generator = torch.Generator().manual_seed(seed + epoch)
        places = []
        for i, p in enumerate(loaded):
            offset = int(torch.randint(0, length, (1,), generator=generator))
            starts = torch.arange(offset, len(loaded[p]) - length - 1, length)
            places.append(torch.stack([torch.full_like(starts, i), starts], 1))
        order = torch.cat(places)
        order = order[torch.randperm(len(order), generator=generator)][rank::world].to(device)
        streams = list(loaded.values())
        reach = torch.arange(length + 1, device=device)
        for which, start in order.tolist():
            yield streams[which][start + reach].long() & 0xFFFF
        epoch += 1


def row_batches(
    folders: tuple[str, ...], rank: int, world: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, weights) rows of the prepared folders, shuffled every epoch."""
    data = [(np.load(Path(f) / "rows.npy"), np.load(Path(f) / "rows-weights.npy")) for f in folders]
    ids = torch.from_numpy(np.concatenate([d[0] for d in data]).astype(np.int16)).to(device)
    weights = torch.from_numpy(np.concatenate([d[1] for d in data])).to(device)
    epoch = 0
    while True:
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed + epoch))[rank::world]
        for i in order.tolist():
            yield ids[i].long() & 0xFFFF, weights[i].float() / 10
        epoch += 1


def schedule(step: int, done: float, config: TrainConfig) -> float:
    """Warm-up by steps, then constant, then linear decay by time."""
    return min(1.0, (step + 1) / config.warmup_steps) * max(0.02, min(1.0, (1 - done) / config.decay))


def optimisers(model: Llama, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) on the matrices of the blocks, AdamW on embeddings and norms."""
    blocks = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    muon = torch.optim.Muon(blocks, lr=config.muon_lr, weight_decay=config.weight_decay, momentum=0.95)
    adam = torch.optim.AdamW(rest, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=rest[0].is_cuda)
    return [muon, adam]


def validation_loss(model: Llama, path: str, length: int, device: torch.device, rows: int = 256) -> float:
    stream = torch.from_numpy(np.load(path).astype(np.int64))
    starts = torch.linspace(0, len(stream) - length - 2, min(rows, max(1, len(stream) // length - 1))).long().tolist()
    losses = []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for i in range(0, len(starts), 32):
            ids = torch.stack([stream[s : s + length + 1] for s in starts[i : i + 32]]).to(device)
            losses.append(float(model(ids, torch.ones_like(ids).float())) * len(ids))
    return sum(losses) / len(starts)


def save_state(state: dict[str, Any], path: Path) -> None:
    """A state to resume from; the older one stays until the new one is whole."""
    new = path.with_suffix(".new")
    torch.save(state, new)
    new.replace(path)


def train(config: TrainConfig) -> dict[str, float]:
    """Train, save `OUT/model.pt` (float32 state dict) and `OUT/log.jsonl` on rank 0; return the last figures."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", device_id=device if device.type == "cuda" else None
        )
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    model = Llama(config.shape).to(device)
    if config.checkpoint:
        model.load_state_dict(torch.load(config.checkpoint, map_location=device, weights_only=True))
    opts = optimisers(model, config)
    rates = [[g["lr"] for g in o.param_groups] for o in opts]
    if config.compile:
        model.compile_parts()
    step, seen, before = 0, 0, 0.0
    if (state := Path(config.out) / "state.pt").exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        step, seen, before = saved["step"], saved["seen"], saved["seconds"]
        model.load_state_dict(saved["model"])
        for opt, kept in zip(opts, saved["optimisers"], strict=True):
            opt.load_state_dict(kept)
    net = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    if config.compile:  # outside the clock
        warm = torch.zeros(config.batch, config.length + 1, dtype=torch.long, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            net(warm, torch.ones_like(warm, dtype=torch.float32)).backward()
        model.zero_grad(set_to_none=True)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    raw = windows(config.tokens, config.length, rank, world, config.seed + step, device) if config.tokens else None
    rows: Iterator[tuple[Tensor, Tensor]] | None = None
    began, reported, window_began = time.time() - before, step, time.time()
    done, ready = before / config.seconds, False
    total = torch.zeros((), device=device)

    def note(figures: dict[str, float]) -> None:
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps(figures) + "\n")

    figures: dict[str, float] = {}
    flags = torch.zeros(2, device=device)  # fraction of time done, rows are ready: decided by rank 0 for all
    while step < config.max_steps:
        if step % 10 == 0:
            ready = bool(config.rows) and all((Path(f) / "rows.ready").exists() for f in config.rows)
            flags = torch.tensor([(time.time() - began) / config.seconds, float(ready)], device=device)
            if world > 1:
                dist.broadcast(flags, 0)
            done, ready = float(flags[0]), bool(flags[1])
            if done >= 1:
                break
        if rows is None and ready and done >= config.rows_from:
            rows = row_batches(config.rows, rank, world, config.seed + step, device)
        take = config.batch if raw is None else round(config.batch * config.rows_share) if rows is not None else 0
        if take and rows is None:
            time.sleep(1)
            continue
        batch = [next(rows) for _ in range(take)] if take and rows is not None else []
        plain = [next(raw) for _ in range(config.batch - take)] if raw is not None else []
        ids = torch.stack([i[: config.length + 1] for i, _ in batch] + plain)
        weights = torch.stack(
            [w[: config.length + 1] for _, w in batch] + [torch.ones_like(p, dtype=torch.float32) for p in plain]
        )
        scale = schedule(step, done, config)
        for o, rs in zip(opts, rates, strict=True):
            for g, r in zip(o.param_groups, rs, strict=True):
                g["lr"] = r * scale
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = net(ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        seen += ids.numel() * world
        total += loss.detach()
        if rank == 0 and step % config.save_every == 0:
            kept = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in opts]}
            save_state(kept | {"step": step, "seen": seen, "seconds": time.time() - began}, state)
        if step % 100 == 0 or step == 5:
            elapsed = time.time() - window_began
            n, reported = step - reported, step
            figures = {
                "step": step,
                "loss": float(total) / n,
                "tokens": seen,
                "seconds": time.time() - began,
                "rows": float(take > 0),
                "steps_per_s": n / elapsed,
            }
            total.zero_()
            window_began = time.time()
            if rank == 0:
                note(figures)
                print({k: round(v, 4) for k, v in figures.items()}, flush=True)
    if rank == 0:
        figures |= {"seconds": time.time() - began, "tokens": float(seen), "step": float(step)}
        if config.val:
            figures["val_loss"] = validation_loss(model, config.val, config.length, device)
        weights = {k: v.detach().cpu() for k, v in model.state_dict().items()}
        torch.save(weights, out / "model.pt")
        state.unlink(missing_ok=True)
        (out / "config.json").write_text(json.dumps({k: v for k, v in asdict(config).items()}, indent=1))
        print("done", {k: round(v, 4) for k, v in figures.items()}, flush=True)
        note(figures)
    if world > 1:
        dist.barrier()
    if not math.isfinite(figures.get("loss", 0.0)):
        raise RuntimeError("training diverged")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, TrainConfig)
    train(TrainConfig(**given(parser.parse_args(), TrainConfig)))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
