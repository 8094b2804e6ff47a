"""Answers for a batch of prompts, with a key-value cache. Whatever is attached to the model answers."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from core.prompts import ChatFormat
from core.types import Completion

T = TypeVar("T")
V = TypeVar("V")

ROWS_ON_CPU = 4  # read at once: each of more takes as long


@dataclass(frozen=True)
class Prefix:
    """Texts that the model has read once (`prefill`); any number of prompts may begin with each."""

    texts: Sequence[Sequence[int]]
    cache: Any  # keys and values of [texts, tokens of the longest]; filled up on the right

    def shared(self, prompts: Sequence[Sequence[int]], text_of: Sequence[int]) -> list[int]:
        """How many tokens of each prompt need not be read again; one is left at least."""
        counts = []
        for prompt, number in zip(prompts, text_of, strict=True):
            counts.append(min(_shared(prompt, self.texts[number]), len(prompt) - 1))
        return counts

    def rows(self, prompts: Sequence[Sequence[int]], text_of: Sequence[int]) -> tuple[Any, Tensor, list[Sequence[int]]]:
        """For prompt i, which begins (nearly) as text `text_of[i]`: the cache [R, P], what of it counts, and what is
        left to read of the prompt, at least one token."""
        shared = self.shared(prompts, text_of)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        device = cache.layers[0].keys.device
        cache.batch_select_indices(torch.tensor(text_of, device=device))
        counts = torch.arange(cache.get_seq_length(), device=device) < torch.tensor(shared, device=device)[:, None]
        return cache, counts.long(), [p[n:] for p, n in zip(prompts, shared, strict=True)]


def prefill(model: Any, texts: Sequence[Sequence[int]], pad_id: int) -> Generator[None, None, Prefix]:
    """Read texts, each at least one token. On a CPU, where many at once are no faster, it pauses after each few."""
    ids = pad_right(texts, pad_id).to(model.device)
    caches = []
    for few in ids.split(prefill_rows(ids)):
        caches.append(model(input_ids=few, use_cache=True, logits_to_keep=1).past_key_values)
        yield
    return Prefix(texts, concat_caches(caches))


def prefill_rows(ids: Tensor) -> int:
    return ROWS_ON_CPU if ids.device.type == "cpu" else len(ids)


def concat_caches(caches: Sequence[Any]) -> Any:
    """One cache of the rows of all."""
    if len(caches) > 1:
        for first, *others in zip(*(cache.layers for cache in caches), strict=True):
            first.keys = torch.cat([first.keys, *(other.keys for other in others)])
            first.values = torch.cat([first.values, *(other.values for other in others)])
    return caches[0]


class Next(NamedTuple):
    """What may follow each of R rows."""

    p: Tensor  # probability of every token, [R, V] float32
    chance: Tensor  # of the likeliest, [R]
    token: Tensor  # the likeliest, [R]

    @classmethod
    def from_probabilities(cls, p: Tensor) -> Next:
        return cls(p, *p.max(-1))


class Passes:
    """The model's calls for some prompts, with a cache that grows. `core.learning.graphs` has faster ones."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        pad_id: int,
        prefix: Prefix | None = None,
        text_of: Sequence[int] = (),
    ) -> None:
        self.model = model
        self.cache, self.ids, self.mask, self.position = start(prompts, pad_id, model.device, prefix, text_of)

    def prefill(self) -> Generator[None, None, Next]:
        """`first`; on a CPU a few rows at a time, with a pause after each few."""
        if len(self.ids) <= prefill_rows(self.ids):
            return self.first()
        parts, p = [], []
        for few in torch.arange(len(self.ids)).split(prefill_rows(self.ids)):
            part = copy.copy(self)
            part.ids, part.mask, part.position = self.ids[few], self.mask[few], self.position[few]
            if self.cache:
                part.cache = copy.copy(self.cache)
                part.cache.layers = [copy.copy(layer) for layer in self.cache.layers]
                part.cache.batch_select_indices(few)
            p.append(part.first().p)
            parts.append(part.cache)
            yield
        self.cache = concat_caches(parts)
        return Next.from_probabilities(torch.cat(p))

    def first(self) -> Next:
        """Read the prompts."""
        result = self.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = result.past_key_values
        return Next.from_probabilities(result.logits[:, -1].float().softmax(-1))

    def next(self, tokens: Tensor) -> Next:
        """Read a token more of each row, [R]."""
        self.ids, self.position = tokens[:, None], self.position[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        return self.first()


def generate(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> tuple[list[list[int]], list[float]]:
    """What `generation` returns."""
    return run_to_return(generation(model, prompts, **options))


def run_to_return(steps: Generator[Any, None, T]) -> T:
    """Run a generator to its end; return its value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def yield_at_each_step(value: V, steps: Generator[Any, None, T]) -> Generator[V, None, T]:
    """Run a generator, yield `value` at each of its steps, and return its value."""
    try:
        while True:
            next(steps)
            yield value
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


@torch.no_grad()
def generation(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    max_new: int = 48,
    temperature: float | Sequence[float] = 0.0,
    hold_back: tuple[int, float] | None = None,
    prefix: Prefix | None = None,
    text_of: Sequence[int] = (),
    passes: Passes | None = None,
    random: torch.Generator | None = None,
    in_parts: bool = False,
) -> Generator[None, None, tuple[list[list[int]], list[float]]]:
    """Continue each prompt until a stop token: greedily, or sampling at `temperature` (one for all, or one a prompt).
    `hold_back` = (token, floor): as the first token of an answer it is chosen only with at least that probability; what
    it had is taken off the confidence. `prefix` and `text_of`: prompt i begins as the text `text_of[i]`, which was read
    already.
    `passes`: of these prompts, other than the plain ones. `random`: for sampling, instead of the global one.
    `in_parts`: on a CPU plain passes read the prompts a few at a time, with pauses. Only with nothing attached: what
    is attached knows rows by their number.

    Yields: between two passes.

    Returns: for each prompt its new tokens (stop token left out) and the mean probability of what was chosen, 0..1.
    """
    each = [temperature] * len(prompts) if isinstance(temperature, (int, float)) else temperature
    temperatures = torch.tensor(each, device=model.device) if any(each) else None
    answers: list[list[int]] = [[] for _ in prompts]
    counts = [0] * len(prompts)  # tokens whose chances make the confidence: the answer's, and the stop token
    going = list(range(len(prompts)))
    chances: list[Tensor] = []
    unsure = torch.zeros(len(prompts), device=model.device)
    passes = passes or Passes(model, prompts, pad_id, prefix, text_of)
    p, chance, token = (yield from passes.prefill()) if in_parts else passes.first()
    if hold_back:
        unsure = p[:, hold_back[0]].clone()
        p[:, hold_back[0]] *= unsure >= hold_back[1]
        p, chance, token = Next.from_probabilities(p / p.sum(-1, keepdim=True).clamp_min(1e-30))
    while True:
        if temperatures is not None:
            logits = p.log() / temperatures.clamp_min(1e-3)[:, None]
            drawn = logits.softmax(-1).multinomial(1, generator=random).squeeze(1)
            token = torch.where(temperatures > 0, drawn, token)
            chance = p.gather(1, token[:, None]).squeeze(1)
        chances.append(chance.clone())  # the next pass may write over it
        chosen = token.tolist()
        for i in going:
            counts[i] += 1
        going = [i for i in going if chosen[i] not in stop_ids]
        for i in going:
            answers[i].append(chosen[i])
        if not going or len(chances) == max_new:
            break
        yield
        p, chance, token = passes.next(token)
    by_row, doubts = torch.stack(chances, 1).tolist(), unsure.tolist()
    confidences = []
    for answer, row, count, doubt in zip(answers, by_row, counts, doubts, strict=True):
        is_held_back = hold_back and answer[:1] == [hold_back[0]]
        confidences.append(statistics.fmean(row[:count]) * (1 if is_held_back else 1 - doubt))
    return answers, confidences


def start(
    prompts: Sequence[Sequence[int]],
    pad_id: int,
    device: Any,
    prefix: Prefix | None = None,
    text_of: Sequence[int] = (),
) -> tuple[Any, Tensor, Tensor, Tensor]:
    """What a model is first called with: cache (or None), ids [R, T], mask [R, P + T], positions [R, T]."""
    cache, before = None, torch.zeros(len(prompts), 0, dtype=torch.long, device=device)
    if prefix:
        cache, before, prompts = prefix.rows(prompts, text_of)
    longest = round_up(max(map(len, prompts)))
    ids, mask = pad_left(prompts, longest, pad_id).to(device)
    mask = torch.cat([before, mask], 1)
    return cache, ids, mask, (mask.cumsum(1) - 1).clamp_min(0)[:, -longest:]


def pad_right(texts: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Token ids [R, T], T that of the longest, rounded up."""
    ids = pad_sequence(list(map(torch.tensor, texts)), batch_first=True, padding_value=pad_id)
    return F.pad(ids, (0, round_up(ids.shape[1]) - ids.shape[1]), value=pad_id)


def round_up(tokens: int) -> int:
    """To a multiple of eight. Every shape has kernels of its own, of which oneDNN lets some never go."""
    return -(-tokens // 8) * 8


def pad_left(prompts: Sequence[Sequence[int]], length: int, pad_id: int) -> Tensor:
    """[2, R, length]: token ids, and which of them count."""
    ids, counts = [], []
    for prompt in prompts:
        missing = length - len(prompt)
        ids.append([pad_id] * missing + list(prompt))
        counts.append([0] * missing + [1] * len(prompt))
    return torch.tensor([ids, counts])


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """With how many equal tokens both begin."""
    count = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        count += 1
    return count


def held_back(fmt: ChatFormat, floor: float = 1.1) -> tuple[int, float] | None:
    """`hold_back` that forbids the trained abstention, as the product does by default, or allows it from `floor` on."""
    return None if fmt.abstain_id is None else (fmt.abstain_id, floor)


def complete(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Completion]:
    """What `completion` returns."""
    return run_to_return(completion(model, tokenizer, prompts, **options))


def completion(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], **options: Any
) -> Generator[None, None, list[Completion]]:
    """`generation`, as text; seconds are the batch's."""
    if not prompts:
        return []
    began = time.perf_counter()
    rows, confidences = yield from generation(model, prompts, **options)
    seconds = time.perf_counter() - began
    completions = []
    for ids, confidence in zip(rows, confidences, strict=True):
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        completions.append(Completion(text, len(ids), seconds, confidence))
    return completions
