"""What is attached to a Llama-like model for the length of a context, and taken off without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LowRank = Mapping[str, tuple[Tensor, Tensor]]  # module name -> (a [rank, in], b [out, rank]) of y += b a x
Branch = Callable[[Tensor], Tensor]  # a module's input [R, T, in] -> what is added to its output [R, T, out]
Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


def upper_mlps(model: Any, layers: int) -> list[str]:
    """Names of the MLPs of the upper blocks, as many as there are of so many."""
    blocks = len(model.model.layers)
    return [f"model.layers.{i}.mlp" for i in range(max(0, blocks - layers), blocks)]


def down_projections(model: Any, blocks: range) -> dict[str, nn.Linear]:
    """The down-projections [d, f] of these blocks, by their names in the model."""
    return {f"model.layers.{i}.mlp.down_proj": model.model.layers[i].mlp.down_proj for i in blocks}


@contextmanager
def attached(
    modules: Mapping[str, nn.Linear],
    deltas: Mapping[str, Tensor],
    rows: Sequence[int],
    captured: dict[str, tuple[Tensor, Tensor]] | None = None,
) -> Iterator[None]:
    """Within the context, y = W x + delta x on the rows of each document.

    Args:
        deltas: name -> [D, d, f].
        rows: number of batch rows of each of the D documents, in order; further rows keep W.
        captured: gets x [D, N, f] and delta x [D, N, d] by name, N tokens a document; documents have as many rows then.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            if name in deltas:
                stack.callback(module.register_forward_hook(_add_delta(name, deltas[name], rows, captured)).remove)
        yield


def _add_delta(
    name: str, delta: Tensor, rows: Sequence[int], captured: dict[str, tuple[Tensor, Tensor]] | None
) -> Hook:
    def add(_module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        x = args[0]
        w = delta.to(x.dtype).transpose(1, 2)  # [D, f, d]
        if len(set(rows)) == 1 and sum(rows) == x.shape[0]:
            by_document = x.reshape(len(rows), -1, x.shape[-1])
            added = torch.bmm(by_document, w)
            if captured is not None:
                captured[name] = by_document, added
            return y + added.view_as(y)
        parts, start = [], 0
        for document, count in enumerate(rows):
            part = slice(start, start + count)
            parts.append(y[part] + x[part] @ w[document])
            start += count
        return torch.cat([*parts, y[start:]])

    return add


@contextmanager
def with_branches(model: nn.Module, groups: Sequence[tuple[Mapping[str, Branch], int]]) -> Iterator[None]:
    """Within the context each module's output gains its branch, on the rows of each group; further rows gain nothing.

    groups: (module name -> branch, number of batch rows), in row order.
    """
    with ExitStack() as stack:
        for name in sorted(set().union(*(branches for branches, _ in groups))):
            by_rows = [(branches.get(name), rows) for branches, rows in groups]
            stack.callback(model.get_submodule(name).register_forward_hook(_add_branches(by_rows)).remove)
        yield


def _add_branches(by_rows: Sequence[tuple[Branch | None, int]]) -> Hook:
    def add(_module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        parts, start = [], 0
        for branch, rows in by_rows:
            part = slice(start, start + rows)
            parts.append(y[part] + branch(args[0][part]) if branch else y[part])
            start += rows
        return torch.cat([*parts, y[start:]])

    return add


@contextmanager
def with_low_rank(model: nn.Module, low_rank: LowRank) -> Iterator[None]:
    """Within the context a LoRA is on, unmerged, so that it can be trained."""

    def add(a: Tensor, b: Tensor) -> Hook:
        return lambda _module, args, y: y + args[0] @ a.to(y.dtype).T @ b.to(y.dtype).T

    with ExitStack() as stack:
        for name, (a, b) in low_rank.items():
            stack.callback(model.get_submodule(name).register_forward_hook(add(a, b)).remove)
        yield


@contextmanager
def decoder_slice(model: Any, start: int, stop: int, *, norm: bool) -> Iterator[Any]:
    """The decoder with only blocks start..stop, so that the lower ones need to run once, not once a step."""
    decoder = model.model
    config, layers, final_norm = decoder.config, decoder.layers, decoder.norm
    count, kinds = config.num_hidden_layers, getattr(config, "layer_types", None)
    decoder.layers, config.num_hidden_layers = layers[start:stop], stop - start
    if kinds:  # of attention, by layer: sliding or full
        config.layer_types = kinds[start:stop]
    if not norm:
        decoder.norm = nn.Identity()
    try:
        yield decoder
    finally:
        decoder.layers, decoder.norm, config.num_hidden_layers = layers, final_norm, count
        if kinds:
            config.layer_types = kinds
