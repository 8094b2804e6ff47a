"""Answers' passes, recorded once as CUDA graphs and replayed: a small model's pass takes Python longer to launch than
the GPU to run. For models of Llama's architecture.

A recording reads and writes at fixed addresses, so all that changes lies in buffers that live as long as it does:
tokens, positions, keys and values, and a slot of weights for each row. It computes what `core.generate.Passes` computes
with the same weights attached, by the blocks of `core.learning.blocks`; on a CPU, where nothing can be recorded, the
same functions run as they are.

Shapes: R rows, T tokens, C columns of the cache, H heads of width h, d width, f MLP width, V vocabulary, D sections
whose weights are attached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.generate import Next, Passes, pad_left
from core.learning.blocks import fuse_projections, probabilities, run_blocks
from core.learning.hooks import attached

T = TypeVar("T")

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPTS = (32, 64, 128, 256)  # tokens; longer prompts are read as ever, and only what follows is replayed
PROMPT_STEP = 1024  # tokens; longer prompts take a multiple of it
MAX_NEW_TOKENS = 96  # tokens of an answer, at most: what EngineConfig.max_answer_tokens is
MEMORY_SHARE = 1 / 16  # of the device's memory, for all recordings together


class Shape(NamedTuple):
    """What a recording is good for."""

    rows: int
    prompt: int  # tokens
    short: bool  # the prompts' own pass is recorded, too

    @classmethod
    def fitting(cls, rows: int, prompt: int) -> Shape | None:
        """The smallest that holds so many rows of so many tokens; None when they are too many rows."""
        fitting = next((r for r in ROWS if r >= rows), None)
        short = next((p for p in PROMPTS if p >= prompt), None)
        return cls(fitting, short or -(-prompt // PROMPT_STEP) * PROMPT_STEP, short is not None) if fitting else None


class Graphs:
    """Recordings for one model, made when they are first needed; the longest unused ones go first.

    Args:
        modules: those that weights are attached to, by name: down-projections.
    """

    def __init__(self, model: Any, modules: Mapping[str, nn.Linear]) -> None:
        self.model, self.modules = model, modules
        fuse_projections(model)
        on_gpu = model.device.type == "cuda"
        self.room = (
            MEMORY_SHARE * torch.cuda.get_device_properties(model.device).total_memory if on_gpu else float("inf")
        )
        self.kept: OrderedDict[Shape, Graph] = OrderedDict()

    def passes(self, prompts: Sequence[Sequence[int]], pad_id: int, max_new: int) -> Replayed | None:
        """Passes of these prompts, valid until the next ones; None when there are none, or no room for them."""
        shape = Shape.fitting(len(prompts), max(map(len, prompts))) if prompts else None
        if shape is None or max_new > MAX_NEW_TOKENS or self._bytes(shape) > self.room:
            return None
        if shape not in self.kept:
            while self.kept and sum(map(self._bytes, (*self.kept, shape))) > self.room:
                self.kept.popitem(last=False)
            self.kept[shape] = Graph(self.model, self.modules, shape)
        self.kept.move_to_end(shape)
        return Replayed(self.kept[shape], prompts, pad_id)

    def _bytes(self, shape: Shape) -> int:
        """Of the weights' slots, keys and values."""
        c = self.model.config
        cache = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * (shape.prompt + MAX_NEW_TOKENS)
        return shape.rows * (sum(m.weight.numel() for m in self.modules.values()) + cache) * self.model.dtype.itemsize


class Graph:
    """The buffers of one shape, and what was recorded over them."""

    def __init__(self, model: Any, modules: Mapping[str, nn.Linear], shape: Shape) -> None:
        self.model, self.modules, self.shape = model, modules, shape
        c, rows, columns = model.config, shape.rows, shape.prompt + MAX_NEW_TOKENS
        weights = partial(torch.zeros, dtype=model.dtype, device=model.device)
        counts = partial(torch.zeros, dtype=torch.long, device=model.device)
        self.slots = {name: weights(rows, *m.weight.shape) for name, m in modules.items()}
        self.cache = weights(c.num_hidden_layers, rows, columns, 2 * c.num_key_value_heads, c.head_dim)  # keys, values
        self.seen = counts(rows, columns).bool()  # columns of the cache that count
        self.column = counts(1)  # of the next token
        self.prompt = counts(2, rows, shape.prompt)  # tokens, and which of them count
        self.token = counts(rows)
        self.position = counts(rows, 1)  # of the last token
        with torch.no_grad():
            self.read = capture(self._read, model.device) if shape.short else None
            self.step = capture(self._step, model.device)

    def _read(self) -> Next:
        """What follows `prompt`."""
        (ids, counts), length = self.prompt, self.shape.prompt
        columns = torch.arange(self.seen.shape[1], device=self.seen.device)
        positions = (counts.cumsum(1) - 1).clamp_min(0)
        self.seen.copy_(F.pad(counts, (0, MAX_NEW_TOKENS)))
        self.position.copy_(positions[:, -1:])
        self.column.fill_(length)
        written = columns[:length]
        itself = columns == written[:, None]  # padding sees itself: a softmax over nothing is no number
        return self._follow(ids, positions, written, self.seen[:, None] & (columns < written[:, None]) | itself)

    def _step(self) -> Next:
        """What follows `token`."""
        column = self.column.clone()
        self.seen.index_fill_(1, column, True)
        self.column.add_(1)
        self.position.add_(1)
        return self._follow(self.token[:, None], self.position, column, self.seen[:, None])

    def _follow(self, ids: Tensor, positions: Tensor, columns: Tensor, visible: Tensor) -> Next:
        """What follows ids [R, T] at positions [R, T], which go to columns [T] and see those of `visible` [R, T, C]."""
        x = self.model.model.embed_tokens(ids)
        every = range(self.model.config.num_hidden_layers)
        x = run_blocks(self.model, x, positions, columns, visible, self.cache, self.slots, every)
        return Next.from_probabilities(probabilities(self.model, x[:, -1:])[:, 0])


class Replayed(Passes):
    """Passes of some prompts from a recording, once it has their weights (`attach`)."""

    def __init__(self, graph: Graph, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        self.graph, self.prompts, self.pad_id = graph, prompts, pad_id

    def attach(self, deltas: Mapping[str, Tensor], documents: Sequence[int]) -> None:
        """Row i gets the weights of `documents[i]`, name -> [D, d, f]; further rows get none."""
        places, count = torch.tensor(documents, device=self.graph.column.device), len(documents)
        for name, slot in self.graph.slots.items():
            slot[count:] = 0
            if count:
                torch.index_select(deltas[name], 0, places, out=slot[:count])

    def first(self) -> Next:
        g, rows = self.graph, len(self.prompts)
        if g.read is None:
            return self._read_long()
        g.prompt[:, :rows] = pad_left(self.prompts, g.shape.prompt, self.pad_id)
        return Next(*(t[:rows] for t in g.read()))

    def next(self, tokens: Tensor) -> Next:
        g, rows = self.graph, len(tokens)
        if rows == g.shape.rows:  # no slices: each takes as long as a kernel
            g.token.copy_(tokens)
            return g.step()
        g.token[:rows] = tokens
        return Next(*(t[:rows] for t in g.step()))

    def _read_long(self) -> Next:
        """As ever; then keys and values are copied."""
        g, rows = self.graph, len(self.prompts)
        passes = Passes(g.model, self.prompts, self.pad_id)
        with attached(g.modules, {name: slot[:rows] for name, slot in g.slots.items()}, [1] * rows):
            first = passes.first()
        length = passes.mask.shape[1]
        for own, read in zip(g.cache, passes.cache.layers, strict=True):
            own[:rows, :length] = torch.cat([read.keys, read.values], 1).transpose(1, 2)
        g.seen.zero_()
        g.seen[:rows, :length] = passes.mask.bool()
        g.position[:rows] = passes.position[:, -1:]
        g.column.fill_(length)
        return first


def warmed_up(function: Callable[[], T], device: torch.device) -> None:
    """Run it once on a stream of its own: what is done only once must not be recorded."""
    if device.type != "cuda":
        return
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        function()
    torch.cuda.current_stream(device).wait_stream(aside)
    torch.cuda.synchronize(device)


def capture(
    function: Callable[[], T], device: torch.device, pool: Any = None, *, warm_up: bool = True
) -> Callable[[], T]:
    """The function over its buffers, as a graph that is replayed; the function itself where there are no graphs.

    Args:
        pool: memory shared by recordings that never run at the same time, and need much of it.
        warm_up: run it before; else `warmed_up` was called for it.
    """
    if device.type != "cuda":
        return function
    if warm_up:
        warmed_up(function, device)
    if pool is not None:
        torch.cuda.empty_cache()  # what the first run took goes to the recording
    aside = torch.cuda.Stream(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(aside):  # torch.cuda.graph would collect garbage, which stops every other thread
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            result = function()
        finally:
            graph.capture_end()

    def replay() -> T:
        graph.replay()
        return result

    return replay
