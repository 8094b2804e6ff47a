"""How a document is learned, from its chunks to weights that may be kept: write questions, learn, ask, guard."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from core.generate import yield_at_each_step
from core.learning.adapters.adapter import AdapterLearner
from core.learning.adapters.objectives import Sample, SampleMaker
from core.learning.adapters.remote import RemoteWriter
from core.learning.adapters.study import Exercise, StudyConfig, Tutor, for_chat, summary
from core.learning.base import LearnConfig, Learner
from core.learning.check import Answerer, SelfCheck
from core.learning.guard import Guard
from core.model import LoadedModel, prepared_folder
from core.ports import Learned
from core.prompts import ChatFormat
from core.types import Chunk, Stage, Step, count_tokens

log = logging.getLogger(__name__)

# Questions a section, and of one document, by effort: writing them takes longer than learning
CHECKS = {"quick": (1, 8), "standard": (1, 12), "deep": (4, 64)}
STUDY_QUESTIONS = {"quick": 4, "standard": 8, "deep": 12}  # questions a passage, by effort
MIN_CHECKED_TOKENS = 500  # of a document with a self-check; of a shorter one, a question or two say nothing


class Course:
    """One for each learner of an engine.

    Args:
        study: the model writes study material; only adapters learn from it.
        check: self-check, and adapters stop by it.
        guard: weights that do harm are rolled back; a model that was never prepared gets a rate of its own.
        short: tokens; a shorter document is learned without a self-check.
    """

    def __init__(
        self, base: LoadedModel, fmt: ChatFormat, learner: Learner, learning: LearnConfig, answer: Answerer,
        writer: RemoteWriter | None = None, *, study: bool = False, check: bool = True, guard: bool = True,
        short: int = MIN_CHECKED_TOKENS,
    ) -> None:  # fmt: skip
        self.base, self.fmt, self.learner, self.learning = base, fmt, learner, learning
        self.answer, self.writer = answer, writer
        self.study, self.check, self.guarded, self.short = study, check, guard, short
        self.guard = Guard(base, fmt)
        self.rate_is_safe = prepared_folder(base) is not None or not guard
        self.written: dict[str, list[Exercise]] | None = None  # by text, to compare learners by the same study material

    def run(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        """Raises: LearningFailed."""
        began = time.perf_counter()
        notes: tuple[str, ...] = ()
        tutor = self._tutor()
        check = yield from self._check(tutor, chunks)
        if not self.rate_is_safe:
            self.learner, factor = yield from self.guard.with_safe_rate(self.learner, chunks, title)
            self.rate_is_safe, notes = True, (f"For this model the learning rate was multiplied by {factor:g}.",)
        options = yield from self._study(tutor, chunks, title)
        if check and isinstance(self.learner, AdapterLearner):
            options["score"] = check.score
        learned = yield from self.learner.learn(chunks, title=title, **options)
        yield (checking := Step(1, 1, learned.metrics.final_loss, Stage.CHECKING))
        if check:
            learned = yield from yield_at_each_step(checking, check.after(learned))
        if self.guarded:
            yield from yield_at_each_step(checking, self.guard.check(learned, self.learner))
        metrics = replace(learned.metrics, seconds=time.perf_counter() - began, notes=(*learned.metrics.notes, *notes))
        return replace(learned, metrics=metrics)

    def _tutor(self) -> Tutor:
        questions = STUDY_QUESTIONS[self.learning.effort]
        config = for_chat(StudyConfig(questions=questions), self.fmt)
        return Tutor(self.base, self.fmt, self.learning.batch_tokens, config, self.writer)

    def _check(self, tutor: Tutor, chunks: Sequence[Chunk]) -> Generator[Step, None, SelfCheck | None]:
        if not self.check or count_tokens(chunks) < self.short:
            return None
        written = yield from gathered(tutor.checks(chunks, *CHECKS[self.learning.effort]))
        return SelfCheck(written, self.answer, self.learner.name) if written else None

    def questions(self, chunks: Sequence[Chunk]) -> Generator[Step, None, list[tuple[str, str]]]:
        """The self-check's, of a short document too, with their answers; none where it is switched off."""
        if not self.check:
            return []
        checks = self._tutor().checks(chunks, *CHECKS[self.learning.effort])
        written = yield from gathered(checks, Stage.CHECKING)
        return [(exercise.question, exercise.answer) for exercise in written]

    def _study(self, tutor: Tutor, chunks: Sequence[Chunk], title: str) -> Generator[Step, None, dict[str, object]]:
        """Study material as samples; nothing for learners that can't use it."""
        if not isinstance(self.learner, AdapterLearner):
            return {}
        maker = SampleMaker(self.base, self.fmt, self.learning.objectives)
        extra: list[Sample] = maker.unrelated()
        if self.study:
            exercises = yield from self._exercises(tutor, chunks)
            extra += maker.from_exercises(exercises, self.fmt.heading(title), self.learner.segment)
        return {"extra": extra}

    def _exercises(self, tutor: Tutor, chunks: Sequence[Chunk]) -> Generator[Step, None, list[Exercise]]:
        """Written anew for each document, unless what is written is kept."""
        text = "".join(c.text for c in chunks)
        if self.written is not None and text in self.written:
            return self.written[text]
        exercises = yield from gathered(tutor.exercises(chunks))
        log.info("study: %d exercises; dropped: %s", len(exercises), summary(tutor.dropped))
        if self.written is not None:
            self.written[text] = exercises
        return exercises


def gathered(batches: Iterator[list[Exercise]], stage: Stage = Stage.LEARNING) -> Generator[Step, None, list[Exercise]]:
    """All that is written; between two batches the device is free."""
    exercises: list[Exercise] = []
    for batch in batches:
        exercises += batch
        yield Step(0, 1, math.nan, stage)
    return exercises
