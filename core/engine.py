"""The base model and everything that touches the device, behind one object. Only the runner's thread calls it."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.chunks import encoder, make_chunks
from core.errors import SetupError
from core.generate import complete
from core.learning.base import LearnConfig, Learner
from core.model import LoadedModel, load_model
from core.ports import Ask, Learned
from core.prompts import format_for
from core.types import Chunk, Completion, Page, Step

if TYPE_CHECKING:
    from torch import Tensor

# Ways of learning: a row is a name and where its class lives. What each one gives is measured in evaluation/LOG.md.
LEARNERS = {
    "fast-weights": "core.learning.fast_learner:FastWeightsLearner",
    "lora": "core.learning.lora:LoraLearner",
    "ttt-linear": "core.learning.branches:TTTLinearLearner",
    "ttt-mlp": "core.learning.branches:TTTMLPLearner",
}


@dataclass(frozen=True)
class EngineConfig:
    model: str = "embedded"  # or a folder, or a hub id such as TinyLlama/TinyLlama-1.1B-Chat-v1.0
    learner: str = "fast-weights"
    device: str = "auto"
    dtype: str = "auto"
    effort: str = "standard"  # quick | standard | deep
    chunk_size: int | None = None  # tokens; None: what the model was prepared for
    batch_tokens: int | None = None  # tokens of one pass; None: 2,048 on a CPU, 16,384 on a GPU
    abstain: float = 1.1  # "not in the text" is answered only from this probability; above 1: never, its share is doubt
    max_answer_tokens: int = 48
    budget: str = ""  # how much to compute on each chunk, for example "threshold:4": see core.learning.budget
    prepared: Path | None = None  # folder of what `prepare` left for other models, by fingerprint


class Engine:
    """Implements core.ports.Engine."""

    def __init__(self, base: LoadedModel, config: EngineConfig) -> None:
        self.base, self.config = base, config
        self.format = format_for(base.tokenizer)
        self.name, self.fingerprint = base.name, base.fingerprint
        self.device, self.dtype = str(base.device), str(base.dtype).removeprefix("torch.")
        self.learner = config.learner
        self.chunk_size = config.chunk_size or 512
        self._learners: dict[str, Learner] = {}
        self._learner(config.learner)  # an unknown or broken one is an error now, not at the first document

    @classmethod
    def load(cls, config: EngineConfig) -> Engine:
        """Raises: ModelNotFound, SetupError."""
        return cls(load_model(config.model, device=config.device, dtype=config.dtype, prepared=config.prepared), config)

    def _learner(self, name: str) -> Learner:
        if name not in LEARNERS:
            raise SetupError(f"There is no learner '{name}'; choose one of {', '.join(LEARNERS)}.")
        if name not in self._learners:
            module, _, attribute = LEARNERS[name].partition(":")
            on_gpu = self.base.device.type == "cuda"
            settings = LearnConfig(
                self.config.effort, self.config.batch_tokens or (16_384 if on_gpu else 2_048), self.config.budget
            )
            self._learners[name] = getattr(importlib.import_module(module), attribute)(self.base, self.format, settings)
        return self._learners[name]

    def chunk(self, pages: Sequence[Page]) -> list[Chunk]:
        return make_chunks(pages, encoder(self.base.tokenizer), self.chunk_size)

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        return (yield from self._learner(self.learner).learn(chunks, title=title))

    def answer(self, asks: Sequence[Ask]) -> list[Completion]:
        """One batch for each learner; rows that share weights share their attachment."""
        out: list[Completion | None] = [None] * len(asks)
        names = sorted({a.learner or self.learner for a in asks if a.weights is not None}) or [self.learner]
        for name in names:
            mine = [i for i, a in enumerate(asks) if (a.learner or self.learner) == name and a.weights is not None]
            if name == names[0]:
                mine += [i for i, a in enumerate(asks) if a.weights is None]  # base rows ride along, unattached
            for i, completion in zip(*self._batch(name, asks, mine), strict=True):
                out[i] = completion
        return [c for c in out if c is not None]

    def _batch(self, name: str, asks: Sequence[Ask], rows: Sequence[int]) -> tuple[list[int], list[Completion]]:
        by_weights: dict[int, list[int]] = {}
        for i in rows:
            by_weights.setdefault(0 if asks[i].weights is None else id(asks[i].weights), []).append(i)
        plain = by_weights.pop(0, [])
        groups: list[tuple[Mapping[str, Tensor], int]] = [
            (asks[g[0]].weights or {}, len(g)) for g in by_weights.values()
        ]
        order = [i for g in by_weights.values() for i in g] + plain
        prompts = [self._prompt(asks[i]) for i in order]
        options: dict[str, Any] = {
            "stop_ids": self.format.stop_ids,
            "pad_id": self.format.pad_id,
            "max_new": self.config.max_answer_tokens,
        }
        if self.format.abstain_id is not None:
            options["hold_back"] = (self.format.abstain_id, self.config.abstain)
        with self._learner(name).attach(groups):
            return order, complete(self.base.model, self.base.tokenizer, prompts, **options)

    def _prompt(self, ask: Ask) -> list[int]:
        return (
            self.format.in_context(ask.context, ask.question) if ask.context else self.format.closed_book(ask.question)
        )

    def prompt_tokens(self, question: str, context: str = "") -> int:
        return len(self._prompt(Ask(question, context=context)))

    @property
    def context_tokens(self) -> int:
        """How much text fits beside a question: for the embedded model what it was trained with."""
        known = self.base.model.config.max_position_embeddings
        return 960 if self.format.abstain_id is not None else min(known, 8192) - 128
