"""Self-check: questions that the model wrote about the document, held out from learning, asked before and after."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.generate import run_to_return
from core.learning.adapters.study import Exercise
from core.ports import Ask, Learned
from core.squad import f1
from core.types import Completion

if TYPE_CHECKING:
    from torch import Tensor

MIN_F1 = 0.5  # F1 from which an answer counts
QUESTIONS_AT_ONCE = 6  # of one step: questions that people ask wait for it
MAX_EXAMPLES = 3  # examples kept with the document
MAX_EXAMPLE_LENGTH = 75  # characters; longer ones fit no button

Answerer = Callable[[Sequence[Ask]], list[Completion]]


@dataclass
class SelfCheck:
    """The questions, and what the base model makes of them."""

    exercises: Sequence[Exercise]
    answer: Answerer
    learner: str

    def after(self, learned: Learned) -> Generator[None, None, Learned]:
        """The same weights, with the result; each question is put to the section that holds its chunk, and to the base
        model."""
        before = yield from self._marks([None] * len(self.exercises))
        by_section: dict[int, Mapping[str, Tensor]] = {}  # shared objects: attached once a batch
        weights = []
        for exercise in self.exercises:
            section = learned.sections[exercise.chunk]
            if section not in by_section:
                by_section[section] = learned.section(section)
            weights.append(by_section[section])
        marks = yield from self._marks(weights)
        metrics = replace(
            learned.metrics,
            check_total=len(self.exercises),
            check_before=sum(right for right, _ in before),
            check_after=sum(right for right, _ in marks),
        )
        return replace(learned, metrics=metrics, questions=self._examples(marks))

    def score(self, weights: Mapping[str, Tensor]) -> float:
        """Questions that one section's weights answer, while it is being learned."""
        return sum(right for right, _ in run_to_return(self._marks([weights] * len(self.exercises))))

    def _marks(self, weights: Sequence[Mapping[str, Tensor] | None]) -> Generator[None, None, list[tuple[bool, float]]]:
        """Whether each answer is right, and how sure it is. A pause after every few."""
        asks = []
        for exercise, attached in zip(self.exercises, weights, strict=True):
            asks.append(Ask(exercise.question, attached, learner=self.learner))
        answers: list[Completion] = []
        for start in range(0, len(asks), QUESTIONS_AT_ONCE):
            answers += self.answer(asks[start : start + QUESTIONS_AT_ONCE])
            yield
        marks = []
        for answer, exercise in zip(answers, self.exercises, strict=True):
            marks.append((f1(answer.text, [exercise.answer]) >= MIN_F1, answer.confidence))
        return marks

    def _examples(self, marks: Sequence[tuple[bool, float]]) -> tuple[str, ...]:
        """The surest right ones, of different chunks first."""
        good = []
        for (right, confidence), exercise in zip(marks, self.exercises, strict=True):
            if right and len(exercise.question) <= MAX_EXAMPLE_LENGTH:
                good.append((confidence, exercise))
        good.sort(key=lambda pair: -pair[0])
        firsts: dict[int, str] = {}  # question of the surest of each chunk
        others = []
        for _, exercise in good:
            if exercise.chunk in firsts:
                others.append(exercise.question)
            else:
                firsts[exercise.chunk] = exercise.question
        return tuple([*firsts.values(), *others][:MAX_EXAMPLES])
