"""The embedded model, a Llama (Touvron et al. 2023, arXiv 2302.13971), without transformers, whose import takes longer
than all else that a question needs. Modules, their names and each number, to the bit, are those of
`LlamaForCausalLM`; what is attached to one (`core.learning.hooks`) can be attached to the other.

Shapes: R rows, T tokens, C tokens with those of the cache, n heads of queries and H of keys, of width h, d width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from core.learning.blocks import norm


class States(NamedTuple):
    last_hidden_state: Tensor  # [R, T, d]
    past_key_values: Cache | None


class Logits(NamedTuple):
    logits: Tensor  # [R, T or `logits_to_keep`, vocabulary]
    past_key_values: Cache | None


class CachedLayer:
    """Keys and values, [R, H, C, h]."""

    def __init__(self) -> None:
        self.keys = self.values = torch.empty(0)

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys.numel():
            keys, values = torch.cat([self.keys, keys], -2), torch.cat([self.values, values], -2)
        self.keys, self.values = keys, values
        return keys, values


class Cache:
    """Of all blocks; it grows."""

    def __init__(self, blocks: int) -> None:
        self.layers = [CachedLayer() for _ in range(blocks)]

    def get_seq_length(self) -> int:
        keys = self.layers[0].keys
        return keys.shape[-2] if keys.numel() else 0

    def batch_select_indices(self, rows: Tensor) -> None:
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Weights are loaded. To draw them, or to skip that on the "meta" device, would import torch's compiler."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Likewise."""


class Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return norm(x, self.weight, self.eps)


class Rotary(nn.Module):
    """cos and sin of each position (Su et al. 2021, arXiv 2104.09864)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.theta, self.width = config.rope_parameters["rope_theta"], config.head_dim

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """position_ids [R, T] -> [R, T, h] each, in x's type."""
        inverse = 1.0 / self.theta ** (torch.arange(0, self.width, 2, dtype=torch.float) / self.width)
        angles = (inverse[None, :, None] @ position_ids[:, None].float()).transpose(1, 2)
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


class Attention(nn.Module):
    def __init__(self, config: Any, number: int) -> None:
        super().__init__()
        self.number, self.width = number, config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        queries, keys = config.num_attention_heads * self.width, config.num_key_value_heads * self.width
        self.q_proj = Linear(config.hidden_size, queries, bias=False)
        self.k_proj = Linear(config.hidden_size, keys, bias=False)
        self.v_proj = Linear(config.hidden_size, keys, bias=False)
        self.o_proj = Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None) -> Tensor:
        """mask [R, 1, T, C]: what each token sees; None: all up to itself."""
        shape = (*x.shape[:2], -1, self.width)
        q = rotate(self.q_proj(x).view(shape).transpose(1, 2), *rotation)
        k = rotate(self.k_proj(x).view(shape).transpose(1, 2), *rotation)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        if cache:
            k, v = cache.layers[self.number].update(k, v)
        if mask is not None:
            k, v = (t.repeat_interleave(self.groups, 1) for t in (k, v))
        causal = mask is None and q.shape[2] > 1
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=self.width**-0.5, enable_gqa=mask is None
        )
        return self.o_proj(y.transpose(1, 2).contiguous().view(*x.shape[:2], -1))


class Mlp(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: Any, number: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, number)
        self.mlp = Mlp(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, number) for number in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Rotary(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool = False,
    ) -> States:
        """
        Args:
            input_ids: [R, T]; or `inputs_embeds`, [R, T, d].
            attention_mask: 1 for what counts of the cache and the tokens, [R, C].
            position_ids: [R, T] or [1, T]; where they don't go on, and there is neither a mask nor a cache, another
                text begins.
        """
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values or (Cache(len(self.layers)) if use_cache else None)
        seen = cache.get_seq_length() if cache else 0
        if position_ids is None:
            position_ids = torch.arange(seen, seen + x.shape[1])[None]
        alone = attention_mask is None and cache is None
        mask = visible(seen, x.shape[1], attention_mask, position_ids if alone else None)
        rotation = self.rotary_emb(x, position_ids)
        for block in self.layers:
            x = block(x, rotation, mask, cache)
        return States(self.norm(x), cache)


def visible(seen: int, count: int, counts: Tensor | None, positions: Tensor | None) -> Tensor | None:
    """What each of `count` tokens after `seen` ones sees, [R, 1, T, C]; None where it is all up to itself.

    Args:
        counts: whether a token counts, [R, C].
        positions: [R, T] of texts one after the other, which don't see each other.
    """
    if counts is not None:
        counts = counts.bool()
        counts = None if counts.all() else counts
    texts = None
    if positions is not None:
        texts = (positions.diff(prepend=positions[:, :1] - 1) != 1).cumsum(-1)
        texts = texts if texts[:, -1].any() else None
    if counts is None and texts is None and (count == 1 or not seen):
        return None
    columns = torch.arange(seen + count)
    mask = (columns <= columns[seen:, None])[None, None]
    if counts is not None:
        mask = mask & counts[:, None, None]
    if texts is not None:
        mask = mask & (texts[:, None, :, None] == texts[:, None, None])
    return mask


class Llama(nn.Module):
    """For CPUs."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def forward(self, input_ids: Tensor | None = None, *, logits_to_keep: int = 0, **options: Any) -> Logits:
        """`logits_to_keep`: of the last tokens; 0: of all."""
        states, cache = self.model(input_ids, **options)
        return Logits(self.lm_head(states[:, -logits_to_keep:]), cache)


def load_llama(folder: Path, dtype: torch.dtype) -> Llama:
    """The model that `core.convert` wrote; its file stays mapped into memory."""
    config = SimpleNamespace(**json.loads((folder / "config.json").read_text()))
    model = Llama(config)
    state = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]}, assign=True)
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


class ChatTokenizer:
    """A tokenizer with a chat template, as `PreTrainedTokenizerFast` has it."""

    def __init__(self, folder: Path) -> None:
        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.options: Mapping[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
        self.chat_template: str = self.options["chat_template"]
        self.bos_token_id, self.eos_token_id, self.pad_token_id = map(self._special, ("bos", "eos", "pad"))

    def _special(self, name: str) -> int | None:
        return self.backend_tokenizer.token_to_id(self.options[f"{name}_token"])

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def apply_chat_template(self, turns: list[dict[str, str]], *, tokenize: bool) -> str:
        """As text."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        assert not tokenize
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(self.chat_template).render(messages=turns, add_generation_prompt=False)
