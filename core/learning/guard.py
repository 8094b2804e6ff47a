"""The guard: weights that are broken, too large, or that change what has nothing to do with the document are not kept.

And the rate for a model that was never prepared: a short search on the document's first chunks, by the same measure.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import LearningFailed
from core.generate import run_to_return, start, yield_at_each_step
from core.learning.adapters.objectives import HELD_OUT
from core.learning.adapters.study import evenly_chosen
from core.learning.base import Learner
from core.model import LoadedModel
from core.ports import Learned
from core.prompts import UNRELATED, ChatFormat
from core.types import Chunk, Metrics, Step

RATE_FACTORS = (1 / 16, 1 / 4, 1.0, 4.0)  # of a learner's own rate, the careful ones first
PROBED_CHUNKS = 2  # chunks that the search learns
CHECKED_SECTIONS = 4  # sections of a document
MAX_NORM = 1.0  # of a section's weight change, in norms of the base model
MAX_SHIFT = 8.0  # nats: mean KL of the first token of unrelated answers
CHANCE = 0.1  # share of the self-check that may be lost by chance


class Guard:
    """What weights do to one base model."""

    def __init__(self, base: LoadedModel, fmt: ChatFormat, max_shift: float = MAX_SHIFT) -> None:
        self.base, self.fmt, self.max_shift = base, fmt, max_shift
        self.prompts = [fmt.closed_book(q) for q in UNRELATED[:HELD_OUT]]
        self._plain: Tensor | None = None  # what the base model says to them

    @cached_property
    def norm(self) -> float:
        """Of all the base model's weights."""
        square = 0.0
        for parameter in self.base.model.parameters():
            square += float(parameter.detach().float().square().sum())
        return math.sqrt(square)

    def check(self, learned: Learned, learner: Learner) -> Generator[None, None, None]:
        """A pause after each section. Raises: LearningFailed, from what is wrong."""
        metrics = learned.metrics
        for tensor in learned.tensors.values():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise LearningFailed from ValueError("weights that are no numbers")
        if too_large(metrics, len(set(learned.sections)), self.norm):
            raise LearningFailed from ValueError("the weights changed more than is safe")
        if worse(metrics):
            before, after = metrics.check_before, metrics.check_after
            raise LearningFailed from ValueError(
                f"answers became worse: {after} right instead of {before} of {metrics.check_total}"
            )
        if not (shift := (yield from self._shift(learned, learner))) <= self.max_shift:
            raise LearningFailed from ValueError(
                f"unrelated answers changed too much: {shift:.1f} nats, at most {self.max_shift:g}"
            )

    def shift(self, learned: Learned, learner: Learner) -> float:
        """How far unrelated answers move: mean KL(base || with the weights) of their first token, nats, of a few
        sections."""
        return run_to_return(self._shift(learned, learner))

    def _shift(self, learned: Learned, learner: Learner) -> Generator[None, None, float]:
        """The same, with a pause before each section."""
        if self._plain is None:
            self._plain = self._first_tokens(learner, [])
        moved = []
        for section in evenly_chosen(sorted(set(learned.sections)), CHECKED_SECTIONS):
            yield
            now = self._first_tokens(learner, [(learned.section(section), len(self.prompts))])
            moved.append(float(F.kl_div(now, self._plain, log_target=True, reduction="batchmean")))
        return sum(moved) / len(moved)

    @torch.no_grad()
    def _first_tokens(self, learner: Learner, groups: Sequence[tuple[Mapping[str, Tensor], int]]) -> Tensor:
        """[prompts, V] log probabilities of each answer's first token."""
        if self.base.device.type == "cpu" and (passes := learner.answer_passes(groups, self.prompts, 1)):
            return passes.first().p.clamp_min(1e-30).log()
        _, ids, mask, position = start(self.prompts, self.fmt.pad_id, self.base.device)
        with learner.attach(groups):
            out = self.base.model(
                input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False, logits_to_keep=1
            )
        return out.logits[:, -1].float().log_softmax(-1)

    def with_safe_rate(
        self, learner: Learner, chunks: Sequence[Chunk], title: str
    ) -> Generator[Step, None, tuple[Learner, float]]:
        """The learner at the rate that learned the first chunks best without moving unrelated answers too far; and by
        what its own rate was multiplied.

        Raises: LearningFailed when every rate destroys something.
        """
        best: tuple[float, Learner, float] | None = None
        for factor in RATE_FACTORS:
            tried = learner.with_rate(factor)
            probe = copy.copy(tried)
            probe.config = replace(tried.config, effort="quick")
            try:
                learned = yield from yield_at_each_step(
                    Step(0, 1, math.nan), probe.learn(chunks[:PROBED_CHUNKS], title=title)
                )
                moved = self.shift(learned, tried)
            except LearningFailed:
                break
            if not moved <= self.max_shift:
                break
            if best is None or learned.metrics.final_loss < best[0]:
                best = learned.metrics.final_loss, tried, factor
        if best is None:
            raise LearningFailed from ValueError("this model can't be taught safely at any rate")
        return best[1:]


def too_large(metrics: Metrics, sections: int, norm: float) -> bool:
    """Each section's part of the change, by root mean square, against the base model's norm."""
    return not metrics.delta_norm / math.sqrt(max(1, sections)) <= MAX_NORM * norm


def worse(metrics: Metrics) -> bool:
    """Fewer right than before, and by more than one question or a share that chance explains."""
    return metrics.check_after < metrics.check_before - max(1.0, CHANCE * metrics.check_total)
