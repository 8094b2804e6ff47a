"""What a way of learning is: text in, weights out, one step at a time."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Protocol

from torch import Tensor

from core.errors import SetupError
from core.generate import Passes
from core.model import LoadedModel
from core.ports import Learned
from core.prompts import ChatFormat
from core.types import Chunk, Step


@dataclass(frozen=True)
class Objectives:
    """What adapters are trained on (`core.learning.adapters.objectives`): the weight of each loss; 0 leaves it out."""

    text: float = 1.0
    masked: float = 0.0
    answers: float = 1.0
    keep: float = 0.5  # without it, study material moves unrelated answers by twenty nats

    @classmethod
    def from_weights(cls, weights: Mapping[str, float]) -> Objectives:
        """Raises: SetupError."""
        if unknown := set(weights) - {f.name for f in fields(cls)}:
            raise SetupError(f"There is no objective '{min(unknown)}'.")
        return cls(**weights)


@dataclass(frozen=True)
class LearnConfig:
    """Options of a learner. Adapters ignore `sections` and `budget`. Fast weights ignore `effort`, `recompute` and
    `objectives`."""

    effort: str = "standard"  # quick | standard | deep
    batch_tokens: int = 8192  # tokens of one forward and backward pass; halved when memory runs out
    sections: int | None = None  # learned at once, at most; None: as many as make up batch_tokens
    budget: str = ""  # how much to compute on each chunk: see core.learning.forms.budget; empty: as prepared
    recompute: bool = False  # gradient checkpointing: less memory, a third more time
    memory_mb: int | None = None  # learning stays below it, where it can
    objectives: Objectives = Objectives()


class Learner(Protocol):
    """A row of LEARNERS. It touches no disk; between two steps the model is exactly the base model."""

    name: str
    config: LearnConfig

    def __init__(self, base: LoadedModel, fmt: ChatFormat, config: LearnConfig) -> None: ...

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        """Learn the chunks of one document.

        Raises: LearningFailed when a loss or a weight is not finite.
        """
        ...

    def with_rate(self, factor: float) -> Learner:
        """The same learner with its rate multiplied."""
        ...

    def attach(self, groups: Sequence[tuple[Mapping[str, Tensor], int]]) -> AbstractContextManager[None]:
        """Attach weights to a batch: `groups` are (weights of one section, number of rows), in row order; rows beyond
        them stay with the base model. Leaving the context restores the base model exactly."""
        ...

    def answer_passes(
        self, groups: Sequence[tuple[Mapping[str, Tensor], int]], prompts: Sequence[Sequence[int]], max_new: int
    ) -> Passes | None:
        """Recorded passes of these prompts with the same weights, instead of `attach`, where that is faster."""
        ...
