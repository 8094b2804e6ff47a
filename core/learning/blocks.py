"""Llama's blocks as answers run them, recorded on a GPU (`core.learning.graphs`) or as they are on a CPU
(`core.learning.shared_passes`). They compute what the model's own forward pass does with `core.learning.hooks.attached`
around it, in fewer and larger steps. A section's weights are added in `_block`, each row having its own.

Shapes: R rows, T tokens, C columns of the cache, H heads of width h, d width, f MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE = ("default", "linear", "llama3")  # rotations that depend on nothing but the position


def can_run(model: Any) -> bool:
    """Whether these are the model's blocks."""
    c = model.config
    return (
        c.model_type == "llama"
        and (c.hidden_act, c.attention_bias, c.mlp_bias) == ("silu", False, False)
        and c.rope_parameters["rope_type"] in ROPE
    )


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
    """Blocks of these numbers, of a model that was arranged, over x [R, T, d], in its place.

    Args:
        positions: of the tokens, [R, T].
        columns: of the cache that their keys and values go to, [T].
        visible: columns that each token sees, [R, T, C].
        cache: [blocks of the model, R, C, 2 H, h].
        slots: by module the weights of each row, [R, d, f].
    """
    c = model.config
    cos, sin = (a[:, :, None] for a in model.model.rotary_emb(x, positions))  # [R, T, 1, h]
    half = c.head_dim // 2
    sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
    mask = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill_(~visible, -torch.inf)
    mask = mask.repeat(1, c.num_attention_heads // c.num_key_value_heads, 1)[:, None]
    for i in numbers:
        slot = slots.get(f"model.layers.{i}.mlp.down_proj")
        x = _block(x, model.model.layers[i], cos, sin, mask, cache[i], columns, slot)
    return x


def probabilities(model: Any, x: Tensor) -> Tensor:
    """Of every token to follow, from what the last block made, [..., d] -> [..., V] float32."""
    return F.linear(_norm(x, model.model.norm), model.lm_head.weight).float().softmax(-1)


def _block(
    x: Tensor, layer: Any, cos: Tensor, sin: Tensor, mask: Tensor, cache: Tensor, columns: Tensor, slot: Tensor | None
) -> Tensor:
    """x [R, T, d], cos and sin [R, T, 1, h], mask [R, 1, G T, C] for G query heads to a key's, cache [R, C, 2 H, h],
    slot [R, d, f] or None -> [R, T, d], in place of x: a kernel less for each sum."""
    rows, length, _ = x.shape
    heads, width = cache.shape[2] // 2, cache.shape[3]
    flat = x.view(rows * length, -1)
    y = F.linear(_norm(x, layer.input_layernorm), as_one(*qkv(layer))).view(rows, length, -1, width)
    turned = y[:, :, :-heads]  # queries and keys
    torch.addcmul(turned * cos, y.roll(width // 2, -1)[:, :, :-heads], sin, out=turned)
    cache.index_copy_(1, columns, y[:, :, -2 * heads :])
    q = y[:, :, : -2 * heads].unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [R, H, G T, h]
    k, v = cache.transpose(1, 2).chunk(2, 1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    y = y.view(rows, heads, -1, length, width).permute(0, 3, 1, 2, 4).reshape(rows * length, -1)
    flat.addmm_(y, layer.self_attn.o_proj.weight.T)
    gate, up = F.linear(_norm(x, layer.post_attention_layernorm), as_one(*gate_up(layer))).chunk(2, -1)
    y = F.silu(gate).mul_(up)
    flat.addmm_(y.view(rows * length, -1), layer.mlp.down_proj.weight.T)
    return x if slot is None else x.baddbmm_(y, slot.transpose(1, 2))  # W y + delta y


def qkv(layer: Any) -> tuple[nn.Linear, ...]:
    return layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj


def gate_up(layer: Any) -> tuple[nn.Linear, ...]:
    return layer.mlp.gate_proj, layer.mlp.up_proj


def arrange(model: Any) -> None:
    """Before a model's blocks are run: from now on its weights stay where they lie."""
    for layer in model.model.layers:
        side_by_side(*qkv(layer))
        side_by_side(*gate_up(layer))


def side_by_side(*linears: nn.Linear) -> None:
    """Let the weights, which stay as they are, lie one behind the other in memory, so that one product does for all.
    Where they do already they stay: recordings know them by their place."""
    weights = [m.weight.data for m in linears]
    ends = [w.storage_offset() + w.numel() for w in weights]
    if len({w.untyped_storage().data_ptr() for w in weights}) == 1 and ends[:-1] == [
        w.storage_offset() for w in weights[1:]
    ]:
        return
    for linear, part in zip(linears, torch.cat(weights).split([len(w) for w in weights]), strict=True):
        linear.weight.data = part


def as_one(*linears: nn.Linear) -> Tensor:
    """Weights that lie side by side."""
    first = linears[0].weight.data
    return first.as_strided((sum(m.out_features for m in linears), first.shape[1]), first.stride())


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
