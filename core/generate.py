"""Answers for a batch of prompts, with a key-value cache. Whatever is attached to the model answers."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from core.prompts import PromptFormat
from core.types import Completion


@dataclass(frozen=True)
class Prefix:
    """Texts that the model has read once (`read`); any number of prompts may begin with each."""

    texts: Sequence[Sequence[int]]
    cache: Any  # keys and values of [texts, tokens of the longest]; filled up on the right

    def shared(self, prompts: Sequence[Sequence[int]], of: Sequence[int]) -> list[int]:
        """How many tokens of each prompt need not be read again; one is left at least."""
        return [min(_shared(p, self.texts[n]), len(p) - 1) for p, n in zip(prompts, of, strict=True)]

    def rows(self, prompts: Sequence[Sequence[int]], of: Sequence[int]) -> tuple[Any, Tensor, list[Sequence[int]]]:
        """For prompt i, which begins (nearly) as text `of[i]`: the cache [R, P], what of it counts, and what is left to
        read of the prompt, at least one token."""
        shared = self.shared(prompts, of)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        device = cache.layers[0].keys.device
        cache.batch_select_indices(torch.tensor(of, device=device))
        counts = torch.arange(cache.get_seq_length(), device=device) < torch.tensor(shared, device=device)[:, None]
        return cache, counts.long(), [p[n:] for p, n in zip(prompts, shared, strict=True)]


@torch.no_grad()
def read(model: Any, texts: Sequence[Sequence[int]], pad_id: int) -> Prefix:
    """Read these texts, each at least one token, in one batch."""
    longest = max(len(t) for t in texts)
    ids = torch.tensor([list(t) + [pad_id] * (longest - len(t)) for t in texts], device=model.device)
    return Prefix(texts, model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values)


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    max_new: int = 48,
    temperature: float | Sequence[float] = 0.0,
    hold_back: tuple[int, float] | None = None,
    prefix: Prefix | None = None,
    of: Sequence[int] = (),
) -> tuple[list[list[int]], list[float]]:
    """Continue each prompt until a stop token: greedily, or sampling at `temperature` (one for all, or one a prompt).
    `hold_back` = (token, floor): as the first token of an answer it is chosen only with at least that probability; what
    it had is taken off the confidence. `prefix` and `of`: prompt i begins as the text `of[i]`, which was read already.

    Returns: for each prompt its new tokens (stop token left out) and the mean probability of what was chosen, 0..1.
    """
    device = model.device
    cache, step_ids, mask, position = start(prompts, pad_id, device, prefix, of)
    stops = torch.tensor(sorted(stop_ids), device=device)
    heat = torch.tensor(temperature, device=device).expand(len(prompts))
    out, chances = [], []
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
        chance, token = logits.softmax(-1).max(-1)
        if bool(heat.any()):
            drawn = (logits / heat.clamp_min(1e-3)[:, None]).softmax(-1).multinomial(1).squeeze(1)
            token = torch.where(heat > 0, drawn, token)
            chance = logits.softmax(-1).gather(1, token[:, None]).squeeze(1)
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


def start(
    prompts: Sequence[Sequence[int]], pad_id: int, device: Any, prefix: Prefix | None = None, of: Sequence[int] = ()
) -> tuple[Any, Tensor, Tensor, Tensor]:
    """What a model is first called with: cache (or None), ids [R, T], mask [R, P + T], positions [R, T]."""
    cache, before = None, torch.zeros(len(prompts), 0, dtype=torch.long, device=device)
    if prefix:
        cache, before, prompts = prefix.rows(prompts, of)
    longest = max(len(p) for p in prompts)
    ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=device)  # left padding
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    mask = torch.cat([before, mask], 1)
    return cache, ids, mask, (mask.cumsum(1) - 1).clamp_min(0)[:, -longest:]


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """With how many equal tokens both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def held_back(fmt: PromptFormat, floor: float = 1.1) -> tuple[int, float] | None:
    """`hold_back` that forbids the trained abstention, as the product does by default, or allows it from `floor` on."""
    return None if fmt.abstain_id is None else (fmt.abstain_id, floor)


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
