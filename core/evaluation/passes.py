"""Answers' passes: recorded by `core.learning.graphs`, compiled by torch, and plain, on the embedded model.

    python -m core.evaluation.passes [--rows 4] [--seconds 55] [--model embedded]

Each way reads prompts of up to 64 tokens with weights of their own in every row, then continues them, which is what a
question costs. The table has the seconds of the first use (recording, compiling), the median milliseconds of the
prompts' pass and of one more token, and how far the first probabilities are from the plain ones. A way that is not
begun when the time is over is left out. Which way answers take is chosen in `core.learning.fast_learner`, by
`can_run`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.generate import Passes, pad_left
from core.learning.graphs import MAX_NEW_TOKENS, Graphs
from core.learning.hooks import attached, down_projections
from core.learning.preparation import read_config
from core.model import SHIPPED, load_model

LONGEST_PROMPT = 64  # tokens of the longest prompt
NEW_TOKENS = 16  # that are continued
REPEATS = 20


class CompiledPasses:
    """The model's own forward pass with a static cache, under `torch.compile(mode="reduce-overhead")`."""

    def __init__(self, model: Any, rows: int) -> None:
        from transformers import StaticCache

        self.model, self.rows, c = model, rows, model.config
        self.columns = LONGEST_PROMPT + MAX_NEW_TOKENS
        place = {"dtype": model.dtype, "device": model.device}
        self.cache = StaticCache(config=c, max_cache_len=self.columns)
        self.cache.early_initialization(rows, c.num_key_value_heads, c.head_dim, **place)
        self.forward = torch.compile(self._forward, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def _forward(self, ids: Tensor, positions: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
        """ids, positions [R, T], columns [T] of the cache, mask [R, 1, T, C] added to the scores -> [R, V]."""
        return self.model(
            input_ids=ids, position_ids=positions, cache_position=columns, attention_mask=mask,
            past_key_values=self.cache, use_cache=True, logits_to_keep=1,
        ).logits[:, -1].float().softmax(-1)  # fmt: skip

    def _run(self, ids: Tensor, positions: Tensor, columns: Tensor, seen: Tensor) -> Tensor:
        """seen [R, C]: columns that count."""
        every = torch.arange(self.columns, device=ids.device)
        visible = seen[:, None] & (every <= columns[:, None]) | (every == columns[:, None])
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=ids.device)
        mask = mask.masked_fill_(~visible, -torch.inf)[:, None]
        torch.compiler.cudagraph_mark_step_begin()
        return self.forward(ids, positions, columns, mask)

    def first(self, prompts: Sequence[Sequence[int]], pad_id: int) -> Tensor:
        device = self.model.device
        for layer in self.cache.layers:
            layer.keys.zero_()
            layer.values.zero_()
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length.zero_()
        ids, counts = pad_left(prompts, LONGEST_PROMPT, pad_id).to(device)
        self.seen = torch.zeros(self.rows, self.columns, dtype=torch.bool, device=device)
        self.seen[:, :LONGEST_PROMPT] = counts.bool()
        positions = (counts.cumsum(1) - 1).clamp_min(0)
        self.position, self.column = positions[:, -1:], LONGEST_PROMPT
        return self._run(ids, positions, torch.arange(LONGEST_PROMPT, device=device), self.seen)

    def next(self, tokens: Tensor) -> Tensor:
        self.seen[:, self.column] = True
        self.position = self.position + 1
        column = torch.tensor([self.column], device=tokens.device)
        self.column += 1
        return self._run(tokens[:, None], self.position, column, self.seen)


def median(device: torch.device, run: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Seconds of one call."""
    taken = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _first_anew(model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    return Passes(model, prompts, pad_id).first().p


def _first_of(passes: Any) -> Tensor:
    return passes.first().p


HEAD = ("rows", "way", "first use, s", "prompts, ms", "a token, ms", "apart")


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


@torch.no_grad()
def measure(model: Any, rows: int, pad_id: int, ways: Sequence[str], end: float) -> Iterator[Sequence[str]]:
    """The cells of a line for each way."""
    draw = torch.Generator().manual_seed(0)
    vocabulary, device = model.config.vocab_size, model.device
    prompts = [torch.randint(vocabulary, (LONGEST_PROMPT - n % 20,), generator=draw).tolist() for n in range(rows)]
    modules = down_projections(model, read_config(SHIPPED).blocks_of(model))
    deltas = {}
    for name, m in modules.items():
        deltas[name] = (0.01 * torch.randn(rows, *m.weight.shape, generator=draw)).to(device, model.dtype)
    token = torch.zeros(rows, dtype=torch.long, device=device)
    plain: Tensor | None = None
    for way in ways:
        if time.monotonic() > end:
            yield str(rows), way, "left out: the time is over", "", "", ""
            continue
        began = time.perf_counter()
        first: Callable[[], Tensor]
        step: Callable[[Tensor], Any]
        if way == "recorded":
            passes = Graphs(model, modules).passes(prompts, pad_id, MAX_NEW_TOKENS)
            assert passes is not None
            passes.attach(deltas, range(rows))
            first, step = partial(_first_of, passes), passes.next
        elif way == "compiled":
            compiled = CompiledPasses(model, rows)
            first, step = partial(compiled.first, prompts, pad_id), compiled.next
        else:
            growing = Passes(model, prompts, pad_id)
            first = partial(_first_anew, model, prompts, pad_id)
            growing.first()
            step = growing.next
        with attached(modules, {} if way == "recorded" else deltas, [1] * rows):
            p = first().clone()
            for _ in range(3):  # a compiled pass is recorded at its second use
                step(token)
            synchronize(device)
            ready = time.perf_counter() - began
            prompt = median(device, first)
            first()
            one = median(device, partial(step, token), NEW_TOKENS)
        plain = p if plain is None else plain
        apart = float((p - plain).abs().max())
        yield str(rows), way, f"{ready:.2f}", f"{1e3 * prompt:.2f}", f"{1e3 * one:.2f}", f"{apart:.4f}"
        torch.compiler.reset()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="4")
    parser.add_argument("--seconds", type=float, default=55.0, help="begin no further way after so many seconds")
    parser.add_argument("--ways", default="plain,recorded,compiled")
    parser.add_argument("--model", default="embedded", help="'embedded', a folder, a GGUF file or a hub id")
    o = parser.parse_args()
    end = time.monotonic() + o.seconds
    base = load_model(o.model)
    print(line(HEAD), line(["---"] * len(HEAD)), sep="\n", flush=True)
    for rows in map(int, o.rows.split(",")):
        for cells in measure(base.model, rows, base.tokenizer.eos_token_id, o.ways.split(","), end):
            print(line(cells), flush=True)


if __name__ == "__main__":
    main()
