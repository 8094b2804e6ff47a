"""Answers for a batch of prompts, with a key-value cache. Whatever is attached to the model answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.types import Completion


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    max_new: int = 48,
    temperature: float = 0.0,
    hold_back: tuple[int, float] | None = None,
) -> tuple[list[list[int]], list[float]]:
    """Continue each prompt until a stop token: greedily, or sampling at `temperature`. `hold_back` = (token, floor): as
    the first token of an answer it is chosen only with at least that probability; what it had is taken off the
    confidence.

    Returns: for each prompt its new tokens (stop token left out) and the mean probability of what was chosen, 0..1.
    """
    device = model.device
    longest = max(len(p) for p in prompts)
    ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=device)  # left padding
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    position = (mask.cumsum(1) - 1).clamp_min(0)
    stops = torch.tensor(sorted(stop_ids), device=device)
    cache, step_ids, out, chances = None, ids, [], []
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    unsure = torch.zeros(len(prompts), device=device)
    for step in range(max_new):
        result = model(
            input_ids=step_ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = result.past_key_values
        logits = result.logits[:, -1].float()
        if hold_back and step == 0:
            unsure = logits.softmax(-1)[:, hold_back[0]]
            logits[unsure < hold_back[1], hold_back[0]] = -torch.inf
        if temperature:
            token = (logits / temperature).softmax(-1).multinomial(1).squeeze(1)
            chance = logits.softmax(-1).gather(1, token[:, None]).squeeze(1)
        else:
            chance, token = logits.softmax(-1).max(-1)
        out.append(token.masked_fill(done, pad_id))
        chances.append(chance.masked_fill(done, torch.nan))
        done = done | torch.isin(token, stops)
        if bool(done.all()):
            break
        step_ids, position = token[:, None], position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
    tokens = torch.stack(out, 1).tolist()
    mean: Tensor = torch.stack(chances, 1).nanmean(1)
    if hold_back:
        mean = torch.where(
            torch.tensor([row[0] == hold_back[0] for row in tokens], device=device), mean, mean * (1 - unsure)
        )
    answers = []
    for row in tokens:
        end = next((i for i, t in enumerate(row) if t in stop_ids), len(row))
        answers.append(row[:end])
    return answers, mean.tolist()


def complete(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Completion]:
    """`generate`, as text; seconds are the batch's."""
    if not prompts:
        return []
    began = time.perf_counter()
    rows, confidence = generate(model, prompts, **options)
    seconds = time.perf_counter() - began
    return [
        Completion(tokenizer.decode(row, skip_special_tokens=True).strip(), len(row), seconds, sure)
        for row, sure in zip(rows, confidence, strict=True)
    ]
