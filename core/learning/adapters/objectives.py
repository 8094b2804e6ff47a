"""What an adapter is trained on: sequences, each token with the losses that it counts in, mixed by weight.

    text      cross-entropy of the document's next tokens
    masked    the same, with a share of the tokens before hidden: they have to come from the weights
    answers   cross-entropy of an answer, given only its question
    keep      KL to the base model on questions that have nothing to do with the document

Shapes: R rows, L tokens, N tokens of a batch that have a teacher, k top logits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.generate import generate, held_back, start
from core.learning.adapters.study import Exercise
from core.learning.base import Objectives
from core.learning.segments import IGNORE, split_text
from core.model import LoadedModel
from core.prompts import UNRELATED, ChatFormat
from core.types import Chunk

HIDDEN_SHARE = 0.15  # of the tokens, for `masked`
TOP_LOGITS = 16  # logits kept of a teacher; what remains of its probability is one more outcome
HELD_OUT = 8  # of UNRELATED: the guard's, never trained on


@dataclass(frozen=True)
class Teacher:
    """What the base model says at the learned tokens of a sample."""

    top: Tensor  # [n, k] token ids
    probabilities: Tensor  # [n, k] of these tokens
    weight: float = 1.0  # of the KL


@dataclass(frozen=True)
class Sample:
    """One training sequence."""

    ids: Sequence[int]
    targets: Sequence[int]  # the token that should follow each; IGNORE: not learned
    weight: float = 1.0  # of its cross-entropy
    teacher: Teacher | None = None


BY_TOKEN = ("ids", "targets", "positions", "weight", "teacher_rows")  # of `Packed`, and of a row of it


@dataclass(frozen=True)
class Packed:
    """Several sequences a row."""

    ids: Tensor  # [R, L]
    targets: Tensor  # [R, L]
    positions: Tensor  # [R, L]; begin at 0 with each sequence: transformers then keeps the sequences of a row apart
    weight: Tensor  # [R, L] of the cross-entropy
    teacher_rows: Tensor  # [R, L] the token's row in `top`; -1: it has no teacher
    top: Tensor  # [N, k] of all tokens that have a teacher
    probabilities: Tensor  # [N, k]
    kl: Tensor  # [N] weight of the KL

    @property
    def count(self) -> int:
        """Learned tokens."""
        return int((self.targets != IGNORE).sum())

    def split(self, rows: int, device: torch.device) -> Iterator[Packed]:
        """Parts of at most so many rows, on the device."""
        by_token = [tensor.to(device).split(rows) for tensor in attrgetter(*BY_TOKEN)(self)]
        for part in zip(*by_token, strict=True):
            yield replace(self, **dict(zip(BY_TOKEN, part, strict=True)))


@dataclass
class PackedRow:
    """A row of a packed batch while it is filled."""

    ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    teacher_rows: list[int] = field(default_factory=list)

    def add(self, sample: Sample, first_taught: int) -> int:
        """Returns: how many of its tokens have a teacher; their rows there begin at `first_taught`."""
        count = len(sample.ids)
        self.ids += sample.ids
        self.targets += sample.targets
        self.positions += range(count)
        self.weight += [sample.weight] * count
        learned = 0
        for target in sample.targets:
            has_teacher = sample.teacher is not None and target != IGNORE
            self.teacher_rows.append(first_taught + learned if has_teacher else -1)
            learned += has_teacher
        return learned

    def pad(self, width: int, token: int) -> None:
        missing = width - len(self.ids)
        self.ids += [token] * missing
        self.targets += [IGNORE] * missing
        self.positions += [0] * missing
        self.weight += [0.0] * missing
        self.teacher_rows += [-1] * missing


def pack_samples(samples: Sequence[Sample], length: int, pad: int) -> Packed:
    """First fit, so that next to nothing is computed on padding. L <= max(length, longest sample)."""
    rows: list[PackedRow] = []
    top = [torch.zeros(0, TOP_LOGITS, dtype=torch.long)]
    probabilities, kl = [torch.zeros(0, TOP_LOGITS)], [torch.zeros(0)]
    count = 0  # tokens that have a teacher
    longest_first = sorted(samples, key=lambda sample: -len(sample.ids))
    length = max(length, len(longest_first[0].ids))
    for sample in longest_first:
        row = _row_with_room(rows, length - len(sample.ids))
        count += row.add(sample, count)
        if sample.teacher:
            top.append(sample.teacher.top)
            probabilities.append(sample.teacher.probabilities)
            kl.append(torch.full((len(sample.teacher.top),), sample.teacher.weight))
    widest = max(len(row.ids) for row in rows)
    for row in rows:
        row.pad(widest, pad)
    by_token = {name: torch.tensor(list(map(attrgetter(name), rows))) for name in BY_TOKEN}
    return Packed(**by_token, top=torch.cat(top), probabilities=torch.cat(probabilities), kl=torch.cat(kl))


def _row_with_room(rows: list[PackedRow], room: int) -> PackedRow:
    """The first with at most `room` tokens; a new one where none has so few."""
    for row in rows:
        if len(row.ids) <= room:
            return row
    rows.append(PackedRow())
    return rows[-1]


def sum_loss(model: Any, batch: Packed) -> Tensor:
    """Sum over tokens of all objectives, nats, float32. Logits only where something is learned."""
    out = model.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
    wanted = batch.targets != IGNORE
    logits = model.lm_head(out.last_hidden_state[wanted]).float()
    losses = F.cross_entropy(logits, batch.targets[wanted], reduction="none")
    loss = (losses * batch.weight[wanted]).sum()
    teacher_rows = batch.teacher_rows[wanted]
    has_teacher = teacher_rows >= 0
    rows = teacher_rows[has_teacher].cpu()
    if len(rows):
        top, probabilities, kl = batch.top[rows], batch.probabilities[rows], batch.kl[rows]
        device = logits.device
        divergences = divergence(top.to(device), probabilities.to(device), logits[has_teacher])
        loss = loss + (divergences * kl.to(device)).sum()
    return loss


def divergence(top: Tensor, probabilities: Tensor, logits: Tensor) -> Tensor:
    """KL(teacher || model), nats, over the teacher's top tokens and the rest of its probability as one outcome.

    top, probabilities [N, k], logits [N, V] -> [N], never negative.
    """
    logs = logits.log_softmax(-1).gather(-1, top)
    probabilities = probabilities.float()
    teacher_rest = 1 - probabilities.sum(-1).clamp(max=1 - 1e-6)
    model_rest = 1 - logs.exp().sum(-1).clamp(max=1 - 1e-6)
    of_top = (probabilities * (probabilities.clamp_min(1e-9).log() - logs)).sum(-1)
    return of_top + teacher_rest * (teacher_rest.log() - model_rest.log())


def text_samples(chunks: Sequence[Chunk], heading: Sequence[int], length: int) -> list[Sample]:
    """The document, cut into even segments of at most `length` tokens, each after the heading."""
    ids: list[int] = []
    for chunk in chunks:
        ids += chunk.token_ids
    return cut(ids, heading, length)


def cut(ids: Sequence[int], heading: Sequence[int], length: int) -> list[Sample]:
    return [Sample(tokens[:-1], targets[:-1]) for tokens, targets in split_text(ids, heading, length)]


def masked(samples: Sequence[Sample], blank: int, weight: float) -> list[Sample]:
    """The same sequences with some of their tokens hidden."""
    rng = random.Random(0)
    hidden = []
    for sample in samples:
        ids = list(sample.ids)
        for i, target in enumerate(sample.targets):
            if target != IGNORE and rng.random() < HIDDEN_SHARE:
                ids[i] = blank
        hidden.append(replace(sample, ids=ids, weight=weight))
    return hidden


def answer_sample(
    prompt: Sequence[int], answer: Sequence[int], weight: float, teacher: Teacher | None = None
) -> Sample:
    """Only the answer is learned."""
    ids = [*prompt, *answer]
    return Sample(ids[:-1], [*[IGNORE] * (len(prompt) - 1), *answer], weight, teacher)


class SampleMaker:
    """Makes samples of study material for one base model."""

    def __init__(self, base: LoadedModel, fmt: ChatFormat, objectives: Objectives) -> None:
        self.base, self.fmt, self.objectives = base, fmt, objectives

    def from_exercises(self, exercises: Sequence[Exercise], heading: Sequence[int], length: int) -> list[Sample]:
        """Questions closed book; texts after the heading."""
        answers, texts = [], []
        for e in exercises:
            if e.question:
                prompt, answer = self.fmt.closed_book(e.question), self.fmt.answer(e.answer)
                answers.append(answer_sample(prompt, answer, self.objectives.answers))
            else:
                ids = self.base.tokenizer.encode(e.answer, add_special_tokens=False)
                texts += [replace(s, weight=self.objectives.text) for s in cut(ids, heading, length)]
        return answers + texts

    def unrelated(self) -> list[Sample]:
        """What the base model answers to unrelated questions, to be answered so afterwards."""
        if not self.objectives.keep:
            return []
        prompts = [self.fmt.closed_book(q) for q in UNRELATED[HELD_OUT:]]
        written, _ = generate(self.base.model, prompts, hold_back=held_back(self.fmt), **self.fmt.options(8))
        answers = [[*ids, *sorted(self.fmt.stop_ids)[:1]] for ids in written]
        samples = []
        teachers = teach(self.base.model, prompts, answers, self.fmt.pad_id)
        for prompt, answer, teacher in zip(prompts, answers, teachers, strict=True):
            teacher = replace(teacher, weight=self.objectives.keep)
            samples.append(answer_sample(prompt, answer, 0.0, teacher))
        return samples


@torch.no_grad()
def teach(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int) -> list[Teacher]:
    """What the model, as it is now, says at each token of these answers. Kept on the CPU."""
    rows = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    _, ids, mask, position = start(rows, pad_id, model.device)
    out = model.model(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False)
    teachers = []
    for hidden, answer in zip(out.last_hidden_state, answers, strict=True):
        best = model.lm_head(hidden[-len(answer) :]).float().softmax(-1).topk(TOP_LOGITS)
        teachers.append(Teacher(best.indices.cpu(), best.values.cpu()))
    return teachers
