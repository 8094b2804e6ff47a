"""What an adapter is trained on: sequences, each token with the losses that it counts in, mixed by weight.

    text      cross-entropy of the document's next tokens
    masked    the same, with a share of the tokens before hidden: they have to come from the weights
    answers   cross-entropy of an answer, given only its question
    distil    KL to what the same model says with the passage in context and nothing attached (prompt distillation,
              arXiv 2412.14964); its top logits are computed once
    layers    distance of the blocks' hidden states to those of that same reading (deep context distillation,
              2503.08727)
    keep      KL to the base model on questions that have nothing to do with the document

Shapes: R rows, L tokens, N taught tokens of a batch, k top logits, m hidden states, d width.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.generate import Prefix, generate, held_back, read, start
from core.learning.adapters.study import Exercise
from core.learning.base import Objectives
from core.learning.segments import IGNORE, split_text
from core.model import LoadedModel
from core.prompts import UNRELATED, PromptFormat
from core.types import Chunk

HIDDEN_SHARE = 0.15  # of the tokens, for `masked`
TOP = 16  # logits kept of a teacher; what remains of its probability is one more outcome
HELD_OUT = 8  # of UNRELATED: the guard's, never trained on


@dataclass(frozen=True)
class Teacher:
    """What the base model says at the learned tokens of a sample."""

    top: Tensor  # [n, k] token ids
    chance: Tensor  # [n, k] their probabilities
    hidden: Tensor | None = None  # [n, m, d]
    weight: float = 1.0  # of the KL
    layers: float = 0.0  # of the hidden states' distance


@dataclass(frozen=True)
class Sample:
    """One training sequence."""

    ids: Sequence[int]
    targets: Sequence[int]  # the token that should follow each; IGNORE: not learned
    weight: float = 1.0  # of its cross-entropy
    teacher: Teacher | None = None


@dataclass(frozen=True)
class Packed:
    """Several sequences a row."""

    ids: Tensor  # [R, L]
    targets: Tensor  # [R, L]
    positions: Tensor  # [R, L]; begin at 0 with each sequence: transformers then keeps the sequences of a row apart
    weight: Tensor  # [R, L] of the cross-entropy
    taught: Tensor  # [R, L] the token's place in `teacher`; -1: it has none
    teacher: Teacher | None  # of all taught tokens, N in a row
    kl: Tensor  # [N]
    layers: Tensor  # [N]

    @property
    def count(self) -> int:
        """Learned tokens."""
        return int((self.targets != IGNORE).sum())

    def split(self, rows: int, device: torch.device) -> Iterator[Packed]:
        """Parts of at most so many rows, on the device."""
        names = ("ids", "targets", "positions", "weight", "taught")
        for part in zip(*(getattr(self, n).to(device).split(rows) for n in names), strict=True):
            yield replace(self, **dict(zip(names, part, strict=True)))


def pack(samples: Sequence[Sample], length: int, pad: int) -> Packed:
    """First fit, so that next to nothing is computed on padding. L <= max(length, longest sample)."""
    rows: list[list[Sample]] = []
    length = max(length, *(len(s.ids) for s in samples))
    for s in sorted(samples, key=lambda s: -len(s.ids)):
        row = next((r for r in rows if sum(len(x.ids) for x in r) + len(s.ids) <= length), None)
        if row is None:
            rows.append([s])
        else:
            row.append(s)
    widest = max(sum(len(s.ids) for s in row) for row in rows)
    fill = lambda parts, empty: (parts + [empty] * widest)[:widest]  # noqa: E731
    teachers = [s.teacher for row in rows for s in row if s.teacher]
    places = iter(range(sum(len(t.top) for t in teachers)))
    taught = [
        fill([next(places) if s.teacher and t != IGNORE else -1 for s in row for t in s.targets], -1) for row in rows
    ]
    return Packed(
        ids=torch.tensor([fill([i for s in row for i in s.ids], pad) for row in rows]),
        targets=torch.tensor([fill([t for s in row for t in s.targets], IGNORE) for row in rows]),
        positions=torch.tensor([fill([p for s in row for p in range(len(s.ids))], 0) for row in rows]),
        weight=torch.tensor([fill([s.weight for s in row for _ in s.ids], 0.0) for row in rows]),
        taught=torch.tensor(taught),
        teacher=_joined(teachers),
        kl=torch.tensor([t.weight for t in teachers for _ in t.top]),
        layers=torch.tensor([t.layers for t in teachers for _ in t.top]),
    )


def _joined(teachers: Sequence[Teacher]) -> Teacher | None:
    if not teachers:
        return None
    top, chance = torch.cat([t.top for t in teachers]), torch.cat([t.chance for t in teachers])
    known = next((t.hidden for t in teachers if t.hidden is not None), None)
    if known is None:
        return Teacher(top, chance)
    blank = lambda t: known.new_ones(len(t.top), *known.shape[1:])  # noqa: E731
    return Teacher(top, chance, torch.cat([blank(t) if t.hidden is None else t.hidden for t in teachers]))


def sum_loss(model: nn.Module, batch: Packed) -> Tensor:
    """Sum over tokens of all objectives, nats, float32. Logits only where something is learned."""
    deep = batch.teacher is not None and batch.teacher.hidden is not None
    out = model.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False, output_hidden_states=deep)
    wanted = batch.targets != IGNORE
    logits = model.lm_head(out.last_hidden_state[wanted]).float()
    each = F.cross_entropy(logits, batch.targets[wanted], reduction="none")
    loss = (each * batch.weight[wanted]).sum()
    taught = batch.taught[wanted]
    where, place = taught >= 0, taught[taught >= 0].cpu()
    if batch.teacher is None or not len(place):
        return loss
    on = lambda t: t[place].to(logits.device)  # noqa: E731
    apart = divergence(on(batch.teacher.top), on(batch.teacher.chance), logits[where])
    loss = loss + (apart * on(batch.kl)).sum()
    if deep:
        mine = torch.stack([h[wanted][where] for h in out.hidden_states[1:]], 1)
        loss = loss + (distance(on(batch.teacher.hidden), mine) * on(batch.layers)).sum()
    return loss


def divergence(top: Tensor, chance: Tensor, logits: Tensor) -> Tensor:
    """KL(teacher || model), nats, over the teacher's top tokens and the rest of its probability as one outcome.

    top, chance [N, k], logits [N, V] -> [N], never negative.
    """
    mine = logits.log_softmax(-1).gather(-1, top)
    chance = chance.float()
    rest, my_rest = (1 - p.sum(-1).clamp(max=1 - 1e-6) for p in (chance, mine.exp()))
    return (chance * (chance.clamp_min(1e-9).log() - mine)).sum(-1) + rest * (rest.log() - my_rest.log())


def distance(teacher: Tensor, mine: Tensor) -> Tensor:
    """Mean over the hidden states of ||t - h||_1 / ||t||_1. Both [N, m, d] -> [N]."""
    teacher, mine = teacher.float(), mine.float()
    return ((teacher - mine).abs().sum(-1) / teacher.abs().sum(-1).clamp_min(1e-6)).mean(-1)


def text_samples(chunks: Sequence[Chunk], heading: Sequence[int], length: int) -> list[Sample]:
    """The document, cut into even segments of at most `length` tokens, each after the heading."""
    ids = [i for chunk in chunks for i in chunk.token_ids]
    return cut(ids, heading, length)


def cut(ids: Sequence[int], heading: Sequence[int], length: int) -> list[Sample]:
    return [Sample(tokens[:-1], targets[:-1]) for tokens, targets in split_text(ids, heading, length)]


def masked(samples: Sequence[Sample], blank: int, weight: float) -> list[Sample]:
    """The same sequences with some of their tokens hidden."""
    rng = random.Random(0)

    def hide(s: Sample) -> list[int]:
        pairs = zip(s.ids, s.targets, strict=True)
        return [blank if t != IGNORE and rng.random() < HIDDEN_SHARE else i for i, t in pairs]

    return [replace(s, ids=hide(s), weight=weight) for s in samples]


def answer_sample(prompt: Sequence[int], answer: Sequence[int], weight: float, teacher: Teacher | None) -> Sample:
    """Only the answer is learned."""
    ids = [*prompt, *answer]
    return Sample(ids[:-1], [*[IGNORE] * (len(prompt) - 1), *answer], weight, teacher)


class Lessons:
    """Makes samples of study material for one base model."""

    def __init__(self, base: LoadedModel, fmt: PromptFormat, objectives: Objectives, batch_tokens: int) -> None:
        self.base, self.fmt, self.objectives, self.batch_tokens = base, fmt, objectives, batch_tokens

    def of(self, exercises: Sequence[Exercise], heading: Sequence[int], length: int) -> list[Sample]:
        """Questions closed book, with their teacher; texts after the heading."""
        asked = [e for e in exercises if e.question]
        made = []
        for e, teacher in zip(asked, self._in_context(asked), strict=True):
            prompt, answer = self.fmt.closed_book(e.question), self.fmt.answer(e.answer)
            made.append(answer_sample(prompt, answer, self.objectives.answers, teacher))
        texts = [self.base.tokenizer.encode(e.answer, add_special_tokens=False) for e in exercises if not e.question]
        return made + [replace(s, weight=self.objectives.text) for ids in texts for s in cut(ids, heading, length)]

    def unrelated(self) -> list[Sample]:
        """What the base model answers to strange questions, to be answered so afterwards."""
        if not self.objectives.keep:
            return []
        prompts = [self.fmt.closed_book(q) for q in UNRELATED[HELD_OUT:]]
        options: dict[str, Any] = {"stop_ids": self.fmt.stop_ids, "pad_id": self.fmt.pad_id, "max_new": 8}
        written, _ = generate(self.base.model, prompts, hold_back=held_back(self.fmt), **options)
        answers = [[*ids, *sorted(self.fmt.stop_ids)[:1]] for ids in written]
        taught = teach(self.base.model, prompts, answers, self.fmt.pad_id)
        taught = [replace(t, weight=self.objectives.keep) for t in taught]
        return [answer_sample(p, a, 0.0, t) for p, a, t in zip(prompts, answers, taught, strict=True)]

    def _in_context(self, asked: Sequence[Exercise]) -> list[Teacher | None]:
        o = self.objectives
        if not asked or not (o.distil or o.layers):
            return [None] * len(asked)
        found: list[Teacher | None] = []
        for some in self._batches(asked):
            passages = list(dict.fromkeys(e.passage for e in some))
            prefix = read(self.base.model, [self.fmt.in_context(p, "?") for p in passages], self.fmt.pad_id)
            prompts = [self.fmt.in_context(e.passage, e.question) for e in some]
            answers = [self.fmt.answer(e.answer) for e in some]
            of = [passages.index(e.passage) for e in some]
            taught = teach(self.base.model, prompts, answers, self.fmt.pad_id, prefix, of, deep=o.layers > 0)
            found += [replace(t, weight=o.distil, layers=o.layers) for t in taught]
        return found

    def _batches(self, asked: Sequence[Exercise]) -> Iterator[Sequence[Exercise]]:
        longest = max(len(self.fmt.in_context(e.passage, e.question)) for e in asked)
        size = max(1, self.batch_tokens // longest)
        return (asked[at : at + size] for at in range(0, len(asked), size))


@torch.no_grad()
def teach(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int,
    prefix: Prefix | None = None, of: Sequence[int] = (), *, deep: bool = False,
) -> list[Teacher]:  # fmt: skip
    """What the model, as it is now, says at each token of these answers. Kept on the CPU."""
    rows = [[*p, *a[:-1]] for p, a in zip(prompts, answers, strict=True)]
    cache, ids, mask, position = start(rows, pad_id, model.device, prefix, of)
    out = model.model(
        input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, output_hidden_states=deep
    )
    found = []
    for i, answer in enumerate(answers):
        here = slice(-len(answer), None)
        best = model.lm_head(out.last_hidden_state[i, here]).float().softmax(-1).topk(TOP)
        hidden = torch.stack([h[i, here] for h in out.hidden_states[1:]], 1).half().cpu() if deep else None
        found.append(Teacher(best.indices.cpu(), best.values.cpu(), hidden))
    return found
