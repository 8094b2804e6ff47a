"""Llama's block (Touvron et al. 2023, arXiv 2302.13971), once: for answers' passes, recorded on a GPU
(`core.learning.graphs`) or as they are on a CPU (`core.learning.shared_passes`), and for the outer step, which
differentiates it twice (`core.prepare.compiled`). It computes what the model's own forward pass does with
`core.learning.hooks.attached` around it, in fewer and larger steps.

Shapes: R rows, T tokens, C columns of the cache, n heads of queries and H of keys, of width h, d width, f MLP width,
V vocabulary, D documents (R a multiple of D).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE = ("default", "linear", "llama3")  # rotations that depend on nothing but the position

FEW_COLUMNS = 32  # of a product, in which a weight is the left factor

# Queries, keys and values [R, T, n + 2 H, h], positions in them, and H -> [R, T, n h]
Attend = Callable[[Tensor, int], Tensor]


class Block(NamedTuple):
    """Weights of one block, without biases. Products of the same input are one: their matrices lie below each other."""

    norm1: Tensor  # [d]
    qkv: Tensor  # [(n + 2 H) h, d]
    o: Tensor  # [d, n h]
    norm2: Tensor  # [d]
    gate_up: Tensor  # [2 f, d]
    down: Tensor  # [d, f]


def can_run(model: Any) -> bool:
    """Whether these are the model's blocks."""
    c = model.config
    return (
        c.model_type == "llama"
        and (c.hidden_act, c.attention_bias, c.mlp_bias) == ("silu", False, False)
        and c.rope_parameters["rope_type"] in ROPE
    )


# The block


def block(
    x: Tensor,
    w: Block,
    cos: Tensor,
    sin: Tensor,
    attend: Attend,
    delta: Tensor | None,
    eps: float,
    *,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """x + attention, and + MLP with delta on its down-projection.

    Args:
        x: [R, T, d].
        cos, sin: of `rotation`, such that they broadcast with [R, T, n, h].
        delta: of each document, for its rows, [D, d, f]; None: none.
        eps: of the norms.
        in_place: x is written over, by kernels that can't be differentiated; else it can be differentiated twice.

    Returns: [R, T, d], and what the down-projection reads, [R, T, f].
    """
    y = product(norm(x, w.norm1, eps, in_place), w.qkv, in_place).unflatten(-1, (-1, cos.shape[-1]))
    heads = (len(w.qkv) - w.o.shape[1]) // (2 * cos.shape[-1])  # H
    y = attend(rotate(y, heads, cos, sin, in_place), heads)
    x = add_product(x, y, w.o, None, in_place)
    gate, up = product(norm(x, w.norm2, eps, in_place), w.gate_up, in_place).chunk(2, -1)
    y = F.silu(gate) * up
    return add_product(x, y, w.down, delta, in_place), y


def norm(x: Tensor, weight: Tensor, eps: float, in_place: bool = False) -> Tensor:
    """x over its root mean square, times weight; x stays as it is. `in_place`: by one kernel, which has no second
    derivative and rounds once less."""
    if in_place:
        return F.rms_norm(x, weight.shape, weight, eps)
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotation(model: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin for `rotate`, [R, T, 1, h] in x's type; sin has the sign of its half. positions: [R, T]."""
    cos, sin = (each[:, :, None] for each in model.model.rotary_emb(x, positions))
    half = sin.shape[-1] // 2
    return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)


def rotate(y: Tensor, heads: int, cos: Tensor, sin: Tensor, in_place: bool) -> Tensor:
    """Positions into queries and keys (rotary; Su et al. 2021, arXiv 2104.09864), not into the values, the last heads.
    y: [R, T, n + 2 H, h]."""
    turned = y[:, :, :-heads]
    halves = turned.roll(y.shape[-1] // 2, -1)
    if in_place:
        torch.addcmul(turned * cos, halves, sin, out=turned)
        return y
    return torch.cat([turned * cos + halves * sin, y[:, :, -heads:]], 2)


def add_product(x: Tensor, y: Tensor, weight: Tensor, delta: Tensor | None, in_place: bool) -> Tensor:
    """x + W y + delta y, for x [R, T, d], y [R, T, f], W [d, f], delta [D, d, f] or None. In place of x, where D is R,
    each sum takes a kernel less."""
    if in_place and is_quicker_first(y):
        x = weight_first(weight, y, x)
        return x if delta is None else torch.baddbmm(x.mT, delta, y.mT).mT.contiguous()
    if in_place:
        x.view(-1, x.shape[-1]).addmm_(y.view(-1, y.shape[-1]), weight.T)
        return x if delta is None else x.baddbmm_(y, delta.transpose(1, 2))
    added = F.linear(y, weight)
    if delta is not None:
        by_document = y.reshape(len(delta), -1, y.shape[-1])
        added = added + torch.bmm(by_document, delta.transpose(1, 2)).view_as(added)
    return x + added


def product(y: Tensor, weight: Tensor, in_place: bool) -> Tensor:
    """W y, for y [R, T, i], W [o, i] -> [R, T, o]."""
    return weight_first(weight, y) if in_place and is_quicker_first(y) else F.linear(y, weight)


def weight_first(weight: Tensor, y: Tensor, x: Tensor | None = None) -> Tensor:
    """W y, or x + W y, with W as the left factor; the same numbers as with W as the right one, up to 32 columns to the
    bit. oneDNN copies the right factor into the order of AMX's tiles, each time: of few columns that takes less time
    than of a weight."""
    shape = *y.shape[:2], len(weight)
    columns = y.flatten(0, 1)
    added = None if x is None else x.flatten(0, 1)
    if len(columns) == 1:  # oneDNN has another kernel for one column, which is slower than this one for two
        columns = columns.expand(2, -1)
        added = None if added is None else added.expand(2, -1)
    out = torch.mm(weight, columns.T) if added is None else torch.addmm(added.T, weight, columns.T)
    return out[:, : shape[0] * shape[1]].T.contiguous().view(shape)


def is_quicker_first(y: Tensor) -> bool:
    """Whether a weight is to be the left factor of a product with y [R, T, i]."""
    return y.device.type == "cpu" and y.dtype == torch.bfloat16 and len(y) * y.shape[1] <= FEW_COLUMNS and has_amx()


@cache
def has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


# Answers' passes


def run_blocks(
    model: Any,
    x: Tensor,
    positions: Tensor,
    columns: Tensor,
    visible: Tensor,
    cache: Tensor,
    slots: Mapping[str, Tensor],
    numbers: range,
) -> Tensor:
    """Blocks of these numbers, of a model after `fuse_projections`, over x [R, T, d], in its place.

    Args:
        positions: of the tokens, [R, T].
        columns: of the cache that their keys and values go to, [T].
        visible: columns that each token sees, [R, T, C].
        cache: [blocks of the model, R, C, 2 H, h].
        slots: by module the weights of each row, [R, d, f].
    """
    c = model.config
    cos, sin = rotation(model, x, positions)
    mask = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill_(~visible, -torch.inf)
    mask = mask.repeat(1, c.num_attention_heads // c.num_key_value_heads, 1)[:, None]
    for i in numbers:
        attend = partial(_attend_to_cache, cache=cache[i], columns=columns, mask=mask)
        slot = slots.get(f"model.layers.{i}.mlp.down_proj")
        x, _ = block(x, block_of(model.model.layers[i]), cos, sin, attend, slot, c.rms_norm_eps, in_place=True)
    return x


def _attend_to_cache(y: Tensor, heads: int, *, cache: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
    """To what the cache [R, C, 2 H, h] holds, and to y's own keys and values, which go to its columns [T].
    mask: [R, 1, G T, C] for G query heads to a key's."""
    rows, length, _, width = y.shape
    cache.index_copy_(1, columns, y[:, :, -2 * heads :])
    q = y[:, :, : -2 * heads].unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [R, H, G T, h]
    k, v = cache.transpose(1, 2).chunk(2, 1)
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return read.view(rows, heads, -1, length, width).permute(0, 3, 1, 2, 4).reshape(rows, length, -1)


def probabilities(model: Any, x: Tensor) -> Tensor:
    """Of every token to follow, from what the last block made, [R, T, d] -> [R, T, V] float32."""
    final = norm(x, model.model.norm.weight, model.config.rms_norm_eps, in_place=True)
    return product(final, model.lm_head.weight, in_place=True).float().softmax(-1)


def fuse_projections(model: Any) -> None:
    """Lay each block's q/k/v and gate/up weights adjacent in memory. CUDA graphs rely on their addresses."""
    for layer in model.model.layers:
        make_adjacent(*qkv(layer))
        make_adjacent(*gate_up(layer))


def block_of(layer: Any) -> Block:
    """Of a model after `fuse_projections`; nothing is copied."""
    return Block(
        layer.input_layernorm.weight,
        fused_weight(*qkv(layer)),
        layer.self_attn.o_proj.weight,
        layer.post_attention_layernorm.weight,
        fused_weight(*gate_up(layer)),
        layer.mlp.down_proj.weight,
    )


def qkv(layer: Any) -> tuple[nn.Linear, ...]:
    return layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj


def gate_up(layer: Any) -> tuple[nn.Linear, ...]:
    return layer.mlp.gate_proj, layer.mlp.up_proj


def make_adjacent(*linears: nn.Linear) -> None:
    """Lay the weights one behind the other in memory, so that one product does for all. What is adjacent already is not
    moved."""
    weights = [m.weight.data for m in linears]
    ends = [w.storage_offset() + w.numel() for w in weights]
    if len({w.untyped_storage().data_ptr() for w in weights}) == 1 and ends[:-1] == [
        w.storage_offset() for w in weights[1:]
    ]:
        return
    for linear, part in zip(linears, torch.cat(weights).split([len(w) for w in weights]), strict=True):
        linear.weight.data = part


def fused_weight(*linears: nn.Linear) -> Tensor:
    """One matrix over weights that are adjacent in memory."""
    first = linears[0].weight.data
    return first.as_strided((sum(m.out_features for m in linears), first.shape[1]), first.stride())
