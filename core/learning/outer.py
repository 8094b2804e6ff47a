"""Learning to learn (the outer loop): train the model, the inner rates and the token weights so that after a few inner
steps on a raw document, questions about it are answered without it.

    outer loss = answer loss with the document's delta attached, only the question in the prompt
               + answer loss with the delta attached *and* some of the text in the prompt
               + upkeep: next-token loss on the document before learning, reading with the text in the prompt alone

The gradient passes through `fast_weights.inner_steps`, the product's own inner loop (second order). MAML (Finn et al.
2017) in the form of PERK (arXiv 2507.06415) with full-rank deltas instead of LoRA.

    torchrun ... -m core.learning.outer --model HF-FOLDER --out DIR --seconds 400 --human ... --passages ...
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from core.embedded.corpus import load_passages, read_human
from core.embedded.train import save_state
from core.learning.compiled import OuterStep, weighed
from core.learning.episodes import Batch, Curriculum, EpisodeStream, Material, Reading, Shapes
from core.learning.fast_weights import (
    IGNORE,
    FastWeightsConfig,
    Prepared,
    load_prepared,
    save_prepared,
)
from core.learning.measure import KINDS, learned_figures, measuring_sets
from core.learning.native import Native
from core.options import add_options, given
from core.prompts import format_for


@dataclass(frozen=True)
class OuterConfig:
    seconds: float = 400
    max_steps: int = 10**9
    tokens: int = 24_000  # document tokens a device and step
    per_document: int = 8  # questions
    width: int = 56  # tokens of question and answer
    strangers: float = 0.15  # chance that one of a document's questions is another document's
    slow_lr: float = 3e-4
    rate_lr: float = 2e-2
    weigh_lr: float = 1e-3
    warmup_steps: int = 30
    decay: float = 0.7
    language: float = 0.2  # weight of the upkeep losses
    reading: float = 0.6
    reading_rows: int = 0  # of 1,024 tokens, a device and step
    beside: float = 0.0  # share of the documents whose text is read beside their delta, too
    beside_weight: float = 0.3
    two_bits: bool = True  # answer with the deltas rounded as they are stored
    first: int = 256
    longest: int = 1100
    grown_at: float = 0.3
    workers: int = 6
    every: int = 50  # steps between two reports
    save_every: int = 500  # steps between two states to resume from
    seed: int = 0
    compiled: bool = False  # core.learning.compiled: quicker on a GPU, for base models that train along
    shapes: str = ""  # "SEGMENTSxDOCUMENTSxQUESTIONS,..." of a batch, instead of the lengths above
    slow_rule: str = "adamw"  # adamw | muon (the matrices of the blocks; the rest by AdamW)
    pause: float = 1e9  # seconds after which this process stops, to be gone on with


class Masters:
    """Parameters that compute in bfloat16 on CUDA, moved by the optimiser in float32. Elsewhere they are themselves."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.copies = [
            p.detach().float().clone().requires_grad_() if p.is_cuda else p.requires_grad_() for p in self.parameters
        ]
        for p in self.parameters:
            if p.is_cuda:
                p.data = p.data.bfloat16()
                p.requires_grad_(True)

    def collect(self) -> None:
        """Gradients of the parameters -> of the copies."""
        for p, copy in zip(self.parameters, self.copies, strict=True):
            if p is not copy and p.grad is not None:
                copy.grad, p.grad = p.grad.float(), None

    @torch.no_grad()
    def publish(self) -> None:
        """Values of the copies -> of the parameters."""
        for p, copy in zip(self.parameters, self.copies, strict=True):
            if p is not copy:
                p.copy_(copy)

    @torch.no_grad()
    def load(self, values: Sequence[Tensor]) -> None:
        for copy, value in zip(self.copies, values, strict=True):
            copy.copy_(value)
        self.publish()

    def settle(self) -> None:
        """The parameters hold the float32 values from now on."""
        for p, copy in zip(self.parameters, self.copies, strict=True):
            p.data = copy.data


def answer_loss(model: Any, batch: Batch, learned: dict[str, Tensor], prepared: Prepared | Native) -> Tensor:
    """Mean over questions of the mean cross-entropy of the answer's tokens, nats."""
    per_document = len(batch.questions) // len(batch.inputs)
    with prepared.reading(model, learned, [per_document] * len(batch.inputs)):
        hidden = model.model(input_ids=batch.questions[:, :-1], use_cache=False).last_hidden_state
    goal = batch.labels[:, 1:]
    here = goal != IGNORE
    logits = model.lm_head(hidden[here]).float()
    losses = F.cross_entropy(logits, goal[here], reduction="none")
    weight = (1.0 / here.sum(1).clamp_min(1))[:, None].expand_as(goal)[here]
    return (losses * weight).sum() / len(goal)


def reading_loss(model: Any, rows: Tensor) -> Tensor:
    """Packed texts with questions. rows [R, 2, L + 1]: tokens and the weights of their losses."""
    hidden = model.model(input_ids=rows[:, 0, :-1], use_cache=False).last_hidden_state
    w = rows[:, 1, 1:].float()
    here = w > 0
    losses = F.cross_entropy(model.lm_head(hidden[here]).float(), rows[:, 0, 1:][here], reduction="none")
    return (losses * w[here]).sum() / w[here].sum().clamp_min(1e-6)


def step_losses(model: Any, prepared: Prepared | Native, batch: Batch, config: OuterConfig) -> dict[str, Tensor]:
    """All terms of one outer step; "total" carries the graph."""
    terms: dict[str, Tensor] = {}
    if len(batch.inputs):
        inner, learned = prepared.learn(
            model, batch.inputs, batch.targets, differentiable=True, two_bits=config.two_bits
        )
        terms = {"answer": answer_loss(model, batch, learned, prepared), "before": inner[0], "after": inner[-1]}
        if count := len(batch.beside):
            with prepared.reading(model, {name: d[:count] for name, d in learned.items()}, [1] * count):
                terms["beside"] = reading_loss(model, batch.beside)
    if len(batch.reading):
        terms["reading"] = reading_loss(model, batch.reading)
    return weighed(terms, config)


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average_gradients(parameters: Sequence[Tensor], world: int) -> None:
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(grads)
    dist.all_reduce(flat)
    for g, mean in zip(grads, torch._utils._unflatten_dense_tensors(flat / world, grads), strict=True):
        g.copy_(mean)


class Trainer:
    """What an outer loop moves, and how: the slow weights in float32, the preparation, an optimiser's step on both."""

    def __init__(
        self, model: Any, prepared: Prepared | Native, config: OuterConfig, slow: Sequence[Tensor] | None = None
    ) -> None:
        """`slow`: the weights of the model that train along; default: all."""
        self.prepared, self.config = prepared, config
        self.masters = Masters(list(model.parameters()) if slow is None else slow)
        self.cuda = next(model.parameters()).is_cuda
        log_rates = [p for name, p in prepared.named_parameters() if name == "log_rates"]
        rest = [p for name, p in prepared.named_parameters() if name != "log_rates"]
        self.optimisers = optimisers(self.masters.copies, log_rates, rest, config)
        self.rates = [g["lr"] for g in self._groups()]
        self.moved = [p for g in self._groups() for p in g["params"]]
        self.parts = 1  # of a batch, as memory allows
        if config.compiled:
            self.losses = OuterStep(model, prepared, compiled=self.cuda).losses
        else:
            self.losses = partial(step_losses, model, prepared)

    def state(self) -> dict[str, Any]:
        """To resume from."""
        return {
            "slow": [c.detach() for c in self.masters.copies],
            "inner": self.prepared.describe(),
            "prepared": self.prepared.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }

    def load(self, kept: dict[str, Any]) -> None:
        for optimiser, state in zip(self.optimisers, kept["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.masters.load(kept["slow"])
        self.prepared.load_state_dict(kept["prepared"])

    def compile(self, batches: Iterable[Batch]) -> None:
        """Compile the step for batches of these shapes, without moving anything."""
        for batch in batches:
            _gradients(self.losses, batch, self.config, 1)
        self._clear()

    def step(self, batch: Batch, scale: float) -> dict[str, float]:
        """One step at `scale` times the learning rates; one that is not finite moves nothing. Returns: the losses."""
        while True:
            try:
                losses = _gradients(self.losses, batch, self.config, self.parts)
                break
            except torch.OutOfMemoryError:
                if self.parts >= len(batch.inputs):
                    raise
                self.parts *= 2
                self._clear()
                torch.cuda.empty_cache()
        self.masters.collect()
        if (world := world_size()) > 1:
            average_gradients(self.moved, world)
        norm = torch.nn.utils.clip_grad_norm_(self.moved, 1.0)
        if bool(torch.isfinite(norm)):
            for group, rate in zip(self._groups(), self.rates, strict=True):
                group["lr"] = rate * scale
            for optimiser in self.optimisers:
                optimiser.step()
            self.masters.publish()
        self._clear()
        return losses

    def _groups(self) -> list[dict[str, Any]]:
        return [g for o in self.optimisers for g in o.param_groups]

    def _clear(self) -> None:
        for p in [*self.masters.parameters, *self.moved]:
            p.grad = None


class Clock:
    """The share of the time that is over, the same for all processes; 2.0 when this one has to pause."""

    def __init__(self, config: OuterConfig, before: float, device: torch.device) -> None:
        """`before`: seconds of the run that this one goes on with."""
        self.config, self.before, self.began = config, before, time.time() - before
        self.flag = torch.zeros(1, device=device)

    @property
    def seconds(self) -> float:
        return time.time() - self.began

    def done(self) -> float:
        over = self.seconds - self.before >= self.config.pause
        self.flag.fill_(2.0 if over else self.seconds / self.config.seconds)
        if world_size() > 1:
            dist.broadcast(self.flag, 0)
        return float(self.flag)


def run_outer(
    model: Any,
    tokenizer: Any,
    prepared: Prepared | Native,
    material: Material,
    config: OuterConfig,
    *,
    slow: Sequence[Tensor] | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
    resume: dict[str, Any] | None = None,
    checkpoint: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, float]:
    """Train `slow` (default: every parameter of the model) and `prepared`, for `config.seconds`.

    `checkpoint` gets the state to resume from now and then. Memory that runs out cuts the batches into more parts.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    device = next(model.parameters()).device
    trainer = Trainer(model, prepared, config, slow)
    step, before = 0, 0.0
    if resume:
        trainer.load(resume)
        step, before = resume["step"], resume["seconds"]
    stream = episodes(
        material, tokenizer, prepared.config.segment, config, seed=100 * config.seed + rank + 1 + 1000 * step
    )
    loader = iter(
        torch.utils.data.DataLoader(
            stream, batch_size=None, num_workers=config.workers, pin_memory=device.type == "cuda"
        )
    )

    def drawn() -> Batch:
        return Batch(*(t.to(device, non_blocking=True) for t in next(loader)))

    if config.compiled and device.type == "cuda":  # every shape is compiled before the clock starts
        trainer.compile(one_of_each(drawn, Shapes.of(config.shapes, prepared.config.segment)))
        if world_size() > 1:
            dist.barrier()  # the clock waits for the slowest
    clock, done = Clock(config, before, device), before / config.seconds
    sums: dict[str, float] = {}
    figures: dict[str, float] = {}
    counted = 0

    def state() -> dict[str, Any]:
        return {"step": step, "seconds": clock.seconds} | trainer.state()

    while step < config.max_steps:
        if step % 5 == 0:
            done = clock.done()
            stream.done.fill_(done)
            if done >= 1:
                break
        batch = drawn()
        scale = min(1.0, (step + 1) / config.warmup_steps) * max(0.03, min(1.0, (1 - done) / config.decay))
        losses = trainer.step(batch, scale)
        step += 1
        counted += 1
        for k, v in losses.items():
            sums[k] = sums.get(k, 0.0) + v
        if checkpoint and rank == 0 and step % config.save_every == 0:
            checkpoint(state())
        if step in (2, 10) or step % config.every == 0:
            figures = {k: v / counted for k, v in sums.items()} | {
                "step": step,
                "seconds": clock.seconds,
                "length": batch.inputs.shape[1] * batch.inputs.shape[2],
            }
            sums, counted = {}, 0
            if report and rank == 0:
                report(figures | {"rates": [round(r, 5) for r in prepared.rates().mean(1).tolist()]})
    paused = clock.seconds < config.seconds and step < config.max_steps
    if checkpoint and rank == 0 and paused:
        checkpoint(state())
    trainer.masters.settle()
    return figures | {"step": step, "seconds": clock.seconds, "paused": float(paused)}


def episodes(material: Material, tokenizer: Any, segment: int, config: OuterConfig, *, seed: int) -> EpisodeStream:
    """The endless batches of a run."""
    lengths = Curriculum(
        first=config.first, longest=config.longest, grown_at=config.grown_at,
        batch=config.tokens, per_document=config.per_document,
    )  # fmt: skip
    return EpisodeStream(
        material,
        tokenizer,
        format_for(tokenizer),
        Shapes.of(config.shapes, segment) if config.shapes else lengths,
        segment=segment,
        width=config.width,
        seed=seed,
        strangers=config.strangers,
        beside=config.beside,
        reading=Reading(rows=config.reading_rows if config.reading else 0),
    )


def one_of_each(draw: Callable[[], Batch], shapes: Shapes) -> Iterator[Batch]:
    """The first batch of each shape."""
    left = set(shapes.shapes)
    while left:
        batch = draw()
        documents, segments, _ = batch.inputs.shape
        if (shape := (segments, documents, len(batch.questions) // documents)) in left:
            left.remove(shape)
            yield batch


def optimisers(
    slow: Sequence[Tensor], log_rates: Sequence[Tensor], rest: Sequence[Tensor], config: OuterConfig
) -> list[torch.optim.Optimizer]:
    """AdamW for everything; or Muon (Jordan et al. 2024) for the slow matrices, embeddings (more than 4,096 rows)
    left out, with steps of AdamW's size."""
    by_muon = [p for p in slow if p.dim() == 2 and len(p) <= 4096] if config.slow_rule == "muon" else []
    by_adam = [p for p in slow if not any(p is q for q in by_muon)]
    groups = [
        {"params": list(params), "lr": lr}
        for params, lr in ((by_adam, config.slow_lr), (log_rates, config.rate_lr), (rest, config.weigh_lr))
        if params
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=groups[0]["params"][0].is_cuda)
    if not by_muon:
        return [adamw]
    options = {"lr": config.slow_lr, "weight_decay": 0.0, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    return [adamw, torch.optim.Muon(by_muon, **options)]


def _gradients(
    losses_of: Callable[..., dict[str, Tensor]], batch: Batch, config: OuterConfig, parts: int
) -> dict[str, float]:
    """Forward and backward, documents in so many parts. Returns: the losses, each a mean over what it is of."""
    sums: dict[str, Tensor] = {}
    for piece in batch.split(parts):
        losses = losses_of(piece, config)
        shares = dict.fromkeys(losses, len(piece.inputs) / len(batch.inputs)) | {"reading": 1.0}
        shares["beside"] = len(piece.beside) / max(1, len(batch.beside))
        mine = {k: v * shares[k] for k, v in losses.items() if k != "total"}
        weighed(mine, config)["total"].backward()
        for k, v in mine.items():
            sums[k] = sums.get(k, 0.0) + v.detach()
    return {k: float(v) for k, v in weighed(sums, config).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--start-prepared", default="", help="folder; layers, segments, sections as given or as there")
    parser.add_argument("--human", default="")
    parser.add_argument("--passages", nargs="*", default=[])
    parser.add_argument("--thin", type=int, default=4, help="take one passage in so many")
    parser.add_argument("--written", nargs="*", default=[])
    parser.add_argument("--dev-passages", nargs="*", default=[])
    parser.add_argument("--shares", default="", help="where documents come from: invented=0.3,human=0.2,...")
    parser.add_argument("--swap", default="", help="share of a kind's documents whose words are swapped: human=0.7,...")
    parser.add_argument("--few", type=int, help="at most so many questions of a human context")
    parser.add_argument("--no-measure", action="store_true", help="do not ask the held-out documents at the end")
    add_options(parser, OuterConfig, FastWeightsConfig)
    o = parser.parse_args()
    config, inner = OuterConfig(**given(o, OuterConfig)), given(o, FastWeightsConfig)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32).to(device)
    tokenizer = AutoTokenizer.from_pretrained(o.model)
    width = model.config.hidden_size
    if o.start_prepared:
        start = load_prepared(Path(o.start_prepared), width)
        prepared = start.on_layers_of(replace(start.config, **inner), width) if inner else start
    else:
        prepared = Prepared(FastWeightsConfig(**inner), width)
    prepared = prepared.train().requires_grad_(True).to(device)
    material = Material(
        human=read_human(Path(o.human), dev=False) if o.human else (),
        passages=thin(o.passages, o.thin),
        written=merge_questions([p for path in o.written for p in load_passages(Path(path))]),
        swap=by_kind(o.swap),
        few=o.few,
    )
    if o.shares:
        material.shares = by_kind(o.shares)
    if material.swap:
        print(len(material.words.kinds), "names to swap", flush=True)  # made once, before the workers
    out = Path(o.out)
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / "state.pt"  # a run that finds it goes on from there

    def report(figures: dict[str, Any]) -> None:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}, flush=True)
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps(figures) + "\n")

    if rank == 0:
        print(
            "material",
            len(material.human),
            len(material.passages),
            len(material.written),
            asdict(config),
            prepared.describe(),
            flush=True,
        )
    resume = torch.load(unfinished, map_location=device, weights_only=True) if unfinished.exists() else None

    figures = run_outer(
        model,
        tokenizer,
        prepared,
        material,
        config,
        report=report,
        resume=resume,
        checkpoint=partial(save_state, path=unfinished),
    )
    if rank == 0:
        torch.save({k: v.detach().float().cpu() for k, v in model.state_dict().items()}, out / "model.pt")
        save_prepared(prepared, out)
        if not figures["paused"]:
            unfinished.unlink(missing_ok=True)
    sets = measuring_sets(Path(o.human) if o.human else None, [Path(p) for p in o.dev_passages])
    sets = {} if o.no_measure else sets
    model.eval()
    for i, (name, episodes) in enumerate(sets.items()):
        if i % world == rank:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                f = learned_figures(model, tokenizer, prepared, episodes)
            print(
                f"{name:12} " + "  ".join(f"{k} {f[k + '_em']:5.1f}/{f[k + '_f1']:5.1f}" for k in KINDS),
                f"n {f['questions']:.0f}",
                flush=True,
            )
            (out / f"figures-{name.replace(' ', '-')}.json").write_text(json.dumps(f))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def by_kind(text: str) -> dict[str, float]:
    """ "human=0.1,passages=0.65" -> a number for each kind of document."""
    return {kind: float(share) for kind, share in (part.split("=") for part in text.split(",") if part)}


def thin(paths: Sequence[str], every: int) -> list:
    """One passage run in `every`, keeping neighbours together (64 at a time)."""
    kept = []
    for path in paths:
        found = [p for p in load_passages(Path(path)) if p.questions]
        kept += [p for i, p in enumerate(found) if (i // 64) % every == 0]
    return kept


def merge_questions(passages: Sequence) -> list:
    """Passages that stand there several times become one with all its questions."""
    merged: dict[tuple[str, str], Any] = {}
    for p in passages:
        key = (p.title, p.text)
        merged[key] = p._replace(questions=[*merged[key].questions, *p.questions]) if key in merged else p
    return list(merged.values())


if __name__ == "__main__":
    main()
