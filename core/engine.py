"""The base model and everything that touches the device, behind one object. Only the runner's thread calls it."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.document.chunks import encoder, make_chunks
from core.errors import SetupError
from core.generate import complete, held_back
from core.learning.base import LearnConfig, Learner, Objectives
from core.learning.course import Course, CourseConfig
from core.learning.fast_weights import FastWeightsConfig, read_config
from core.learning.inner import AdapterLearner
from core.learning.remote import RemoteWriter
from core.learning.search_head import Searcher
from core.memory import fit, limit_memory
from core.model import LoadedModel, load_model, prepared_folder
from core.ports import Ask, Learned
from core.prompts import NOT_IN_TEXT, format_for
from core.types import Chunk, Completion, Page, Step
from core.voting import ballots, vote

if TYPE_CHECKING:
    from torch import Tensor

    from core.closeness import Query

# Ways of learning: a row is a name and where its class lives. What each one gives is measured in evaluation/LOG.md.
LEARNERS = {
    "fast-weights": "core.learning.fast_learner:FastWeightsLearner",
    "lora": "core.learning.lora:LoraLearner",
    "ttt-linear": "core.learning.branches:TTTLinearLearner",
    "ttt-mlp": "core.learning.branches:TTTMLPLearner",
}

PRESETS = Path(__file__).parent / "presets"
CHECK_TOKENS = 16  # of an answer in the self-check


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
    memory_mb: int | None = None  # learning stays below it, where it can: smaller batches, gradient checkpointing
    recompute: bool = False  # gradient checkpointing in any case
    study: bool = False  # adapters also learn questions that the model writes: pays for models that were never prepared
    objectives: Mapping[str, float] = field(default_factory=dict)  # their weights, where they differ from Objectives
    check: bool = True  # self-check: the model asks itself about the document, before and after
    guard: bool = True  # weights that do harm are rolled back
    votes: int = 1  # answers to each question, of which the one with most agreement counts
    question_writer: RemoteWriter | None = None  # a larger model writes the questions: documents leave the machine
    prepared: Path | None = None  # folder of what `prepare` left for other models, by fingerprint

    @classmethod
    def of(cls, preset: str = "", **given: Any) -> EngineConfig:
        """A preset's settings, and what is given over it. Raises: SetupError."""
        return cls(**(read_preset(preset) if preset else {}) | given)


def read_preset(name: str) -> dict[str, Any]:
    """Raises: SetupError."""
    import yaml

    known = {path.stem: path for path in PRESETS.glob("*.yaml")}
    if name not in known:
        raise SetupError(f"There is no preset '{name}'; choose one of {', '.join(sorted(known))}.")
    values = yaml.safe_load(known[name].read_text())
    if unknown := set(values) - {f.name for f in fields(EngineConfig)}:
        raise SetupError(f"The preset '{name}' sets '{min(unknown)}', which there is not.")
    return values


class Engine:
    """Implements core.ports.Engine."""

    def __init__(self, base: LoadedModel, config: EngineConfig) -> None:
        self.base, self.config = base, config
        self.format = format_for(base.tokenizer)
        self.name, self.fingerprint = base.name, base.fingerprint
        self.device, self.dtype = str(base.device), str(base.dtype).removeprefix("torch.")
        self.learner = config.learner
        self.chunk_size = config.chunk_size or self._section()
        limit_memory(base.device, config.memory_mb)
        self._searcher = Searcher.of(base, prepared_folder(base), self.format.pad_id)
        self._courses: dict[str, Course] = {}
        self._check(self.course(config.learner).learner)  # what can't be is an error now, not at the first document

    @classmethod
    def load(cls, config: EngineConfig) -> Engine:
        """Raises: ModelNotFound, SetupError."""
        return cls(load_model(config.model, device=config.device, dtype=config.dtype, prepared=config.prepared), config)

    def _section(self) -> int:
        """Tokens of a section that the model was prepared for."""
        folder = prepared_folder(self.base)
        return (read_config(folder) if folder else FastWeightsConfig()).section

    def course(self, name: str) -> Course:
        """How documents are learned by this learner. Raises: SetupError when there is none."""
        if name not in LEARNERS:
            raise SetupError(f"There is no learner '{name}'; choose one of {', '.join(LEARNERS)}.")
        if name not in self._courses:
            module, _, attribute = LEARNERS[name].partition(":")
            learning, config = self._learning(), self.config
            learner = getattr(importlib.import_module(module), attribute)(self.base, self.format, learning)
            course = CourseConfig(config.study, config.check, config.guard)
            answer = partial(self.answer, most_tokens=CHECK_TOKENS, votes=1)
            self._courses[name] = Course(
                self.base, self.format, learner, learning, course, answer, config.question_writer
            )
        return self._courses[name]

    def _check(self, learner: Learner) -> None:
        """Nothing that is set is silently ignored. Raises: SetupError."""
        c = self.config
        if isinstance(learner, AdapterLearner):
            if c.budget:
                raise SetupError(f"The learner '{learner.name}' has no budget; only 'fast-weights' decides by chunk.")
        elif c.study or c.objectives:
            raise SetupError(f"The learner '{learner.name}' studies only the text; set ENGRAM_LEARNER=lora as well.")

    def _learner(self, name: str) -> Learner:
        return self.course(name).learner

    def _learning(self) -> LearnConfig:
        """The dial and the presets, in a learner's terms."""
        c, on_gpu = self.config, self.base.device.type == "cuda"
        wanted = c.batch_tokens or (16_384 if on_gpu else 2_048)
        batch_tokens, recompute = fit(self.base.model, wanted, c.memory_mb, c.recompute)
        return LearnConfig(c.effort, batch_tokens, c.budget, recompute, c.memory_mb, Objectives.of(c.objectives))

    def chunk(self, pages: Sequence[Page]) -> list[Chunk]:
        return make_chunks(pages, encoder(self.base.tokenizer), self.chunk_size)

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        return (yield from self.course(self.learner).run(chunks, title=title))

    def answer(
        self, asks: Sequence[Ask], *, most_tokens: int | None = None, votes: int | None = None
    ) -> list[Completion]:
        """One batch for each learner; rows that share weights share their attachment. With `votes` each question is
        asked so often, in other words, and the answers are voted on."""
        cast = [ballots(a.question, votes or self.config.votes) for a in asks]
        rows = [replace(a, question=b.question) for a, mine in zip(asks, cast, strict=True) for b in mine]
        heat = [b.temperature for mine in cast for b in mine]
        given = iter(self._answers(rows, heat, most_tokens or self.config.max_answer_tokens))
        return [vote([next(given) for _ in mine]) if len(mine) > 1 else next(given) for mine in cast]

    def _answers(self, asks: Sequence[Ask], heat: Sequence[float], most_tokens: int) -> list[Completion]:
        out: list[Completion | None] = [None] * len(asks)
        names = sorted({a.learner or self.learner for a in asks if a.weights is not None}) or [self.learner]
        for name in names:
            mine = [i for i, a in enumerate(asks) if (a.learner or self.learner) == name and a.weights is not None]
            if name == names[0]:
                mine += [i for i, a in enumerate(asks) if a.weights is None]  # base rows ride along, unattached
            order, completions = self._batch(name, asks, mine, heat, most_tokens)
            for i, completion in zip(order, completions, strict=True):
                out[i] = completion
        return [c for c in out if c is not None]

    def _batch(
        self, name: str, asks: Sequence[Ask], rows: Sequence[int], heat: Sequence[float], most_tokens: int
    ) -> tuple[list[int], list[Completion]]:
        by_weights: dict[int, list[int]] = {}
        for i in rows:
            by_weights.setdefault(0 if asks[i].weights is None else id(asks[i].weights), []).append(i)
        plain = by_weights.pop(0, [])
        groups: list[tuple[Mapping[str, Tensor], int]] = [
            (asks[g[0]].weights or {}, len(g)) for g in by_weights.values()
        ]
        order = [i for g in by_weights.values() for i in g] + plain
        read = {(asks[i].question, asks[i].context): i for i in order}  # many rows ask the same
        prompt = {key: self._prompt(asks[i]) for key, i in read.items()}
        prompts = [prompt[asks[i].question, asks[i].context] for i in order]
        learner = self._learner(name)
        passes = learner.recorded(groups, prompts, most_tokens)
        options: dict[str, Any] = {
            "stop_ids": self.format.stop_ids,
            "pad_id": self.format.pad_id,
            "max_new": most_tokens,
            "temperature": [heat[i] for i in order],
            "hold_back": held_back(self.format, self.config.abstain),
            "passes": passes,
        }
        with nullcontext() if passes else learner.attach(groups):
            completions = complete(self.base.model, self.base.tokenizer, prompts, **options)
        return order, [whole_abstention(completion) for completion in completions]

    def _prompt(self, ask: Ask) -> list[int]:
        return (
            self.format.in_context(ask.context, ask.question) if ask.context else self.format.closed_book(ask.question)
        )

    def query(self, question: str) -> Query | None:
        return self._searcher.query(question) if self._searcher else None

    def codes(self, chunks: Sequence[Chunk]) -> list[bytes]:
        return self._searcher.codes([c.token_ids for c in chunks]) if self._searcher else [b""] * len(chunks)

    def prompt_tokens(self, question: str, context: str = "") -> int:
        return len(self._prompt(Ask(question, context=context)))

    @property
    def context_tokens(self) -> int:
        """How much text fits beside a question: for the embedded model what it was trained with."""
        known = self.base.model.config.max_position_embeddings
        return 960 if self.format.abstain_id is not None else min(known, 8192) - 128


def whole_abstention(completion: Completion) -> Completion:
    """A model whose abstention is held back may say a word first, then abstain: "the not in the text"."""
    first, _, rest = completion.text.partition(" ")
    return replace(completion, text=NOT_IN_TEXT) if first and rest == NOT_IN_TEXT else completion
