"""The embedded model's architecture, lean, for training only: the same function as transformers' LlamaForCausalLM with
tied embeddings, and the same parameter names, so a state dict moves between the two unchanged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LlamaShape:
    vocab: int = 16384
    width: int = 512
    layers: int = 14
    heads: int = 8
    mlp: int = 1408
    positions: int = 4096
    theta: float = 10000.0

    def hf_config(self) -> dict:
        """The keyword arguments of transformers.LlamaConfig."""
        return dict(
            vocab_size=self.vocab,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            head_dim=self.width // self.heads,
            intermediate_size=self.mlp,
            max_position_embeddings=self.positions,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            hidden_act="silu",
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
            rope_parameters={"rope_type": "default", "rope_theta": self.theta},
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, half-split convention. x [B, H, T, h]; cos, sin [T, h]."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(shape.width, shape.width, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (p(x).view(b, t, self.heads, -1).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, d))


class MLP(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(shape.width, shape.mlp, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(shape.mlp, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), MLP(shape)
        self.input_layernorm, self.post_attention_layernorm = (RMSNorm(shape.width) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        half = shape.width // shape.heads
        inverse = 1.0 / shape.theta ** (torch.arange(0, half, 2).float() / half)
        angles = torch.outer(torch.arange(shape.positions).float(), inverse).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled(x.device.type):  # the residual stream in bfloat16 too: half the traffic
            x = x.to(torch.get_autocast_dtype(x.device.type))
        cos, sin = (c[: ids.shape[1]].to(x.dtype) for c in (self.cos, self.sin))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


def weighted_loss(hidden: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """hidden [B, T, d], embedding [V, d], targets and weights [B, T] -> weighted mean cross-entropy, nats."""
    logits = F.linear(hidden, embedding).float()
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    w = weights.flatten()
    return (losses * w).sum() / w.sum().clamp_min(1e-6)


class Llama(nn.Module):
    """forward(ids [B, T+1], weights [B, T+1]) -> weighted mean next-token loss, nats."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.loss = weighted_loss
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = (
                    0.02 / (2 * shape.layers) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                )
                nn.init.normal_(p, 0.0, scale)

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        return self.loss(self.model(ids[:, :-1]), self.model.embed_tokens.weight, ids[:, 1:], weights[:, 1:])

    def compile_parts(self) -> None:
        """Compile each block and the loss, the largest tensor, not the whole: quick, and the blocks share code."""
        for layer in self.model.layers:
            layer.compile()
        self.loss = torch.compile(weighted_loss)
