"""The base model and everything that touches the device, behind one object. Only the runner's thread calls it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.document.chunks import encoder, make_chunks
from core.errors import SetupError
from core.generate import Passes, complete, completion, held_back, run_to_return
from core.learning.adapters.adapter import AdapterLearner
from core.learning.adapters.remote import RemoteWriter
from core.learning.base import LearnConfig, Learner, Objectives
from core.learning.blocks import can_run
from core.learning.course import Course
from core.learning.drafts import Draft
from core.learning.fast_learner import FastWeightsLearner, reading_model
from core.learning.graphs import Graphs
from core.learning.learners import make_learner
from core.learning.preparation import FastWeightsConfig, read_config
from core.learning.shared_passes import MAX_DRAFT, DraftedPasses, Shared, SharedPasses
from core.memory import fit_batch, limit_memory, model_bytes
from core.model import LoadedModel, load_model, preparation_digest, prepared_folder
from core.ports import Ask, Learned
from core.prompts import COMPLETE, NOT_IN_TEXT, ChatFormat, format_for
from core.search.followup import is_same_question
from core.search.head import Searcher
from core.side_by_side import side_by_side
from core.types import Chunk, Completion, Page, Step
from core.voting import ballots, vote

if TYPE_CHECKING:
    from torch import Tensor

    from core.search.closeness import Query

PRESETS = Path(__file__).parent / "presets"
CHECK_TOKENS = 16  # of an answer in the self-check
BASE_LEARNER = "base"  # stands for the base model among the learners
SECTIONS_ON_CPU = 1  # learned at once: each of more takes as long, and questions wait for all of them
BASE_TOKENS = 16  # of the base model's answer, which is shown for comparison


@dataclass(frozen=True)
class EngineConfig:
    model: str = "embedded"  # or a folder, or a hub id such as TinyLlama/TinyLlama-1.1B-Chat-v1.0
    learner: str = "fast-weights"
    device: str = "auto"
    dtype: str = "auto"
    effort: str = "standard"  # quick | standard | deep
    chunk_size: int | None = None  # tokens; None: what the model was prepared for
    batch_tokens: int | None = None  # tokens of one pass; None: 16,384 on a GPU, 2,048 on a CPU or one section
    abstain: float = 1.1  # "not in the text" is answered only from this probability; above 1: never, its share is doubt
    max_answer_tokens: int = 96
    budget: str = ""  # how much to compute on each chunk, for example "threshold:4": see core.learning.forms.budget
    memory_mb: int | None = None  # learning stays below it, where it can: smaller batches, gradient checkpointing
    recompute: bool = False  # gradient checkpointing in any case
    study: bool = False  # adapters also learn questions that the model writes: pays for models that were never prepared
    objectives: Mapping[str, float] = field(default_factory=dict)  # their weights, where they differ from Objectives
    check: bool = True  # self-check: the model asks itself about the document, before and after
    guard: bool = True  # weights that do harm are rolled back
    votes: int = 1  # answers to each question, of which the one with most agreement counts
    question_writer: RemoteWriter | None = None  # a larger model writes the questions: documents leave the machine
    prepared: Path | None = None  # folder of what `prepare` left for other models, by fingerprint
    cache: Path | None = None  # folder of converted GGUF files, the embedded model's among them

    @classmethod
    def from_preset(cls, preset: str = "", **given: Any) -> EngineConfig:
        """A preset's settings, and what is given over it. Raises: SetupError."""
        return cls(**(read_preset(preset) if preset else {}) | given)


def read_preset(name: str) -> dict[str, Any]:
    """Raises: SetupError."""
    import yaml

    known = {path.stem: path for path in PRESETS.glob("*.yaml")}
    if name not in known:
        raise SetupError(f"There is no preset '{name}'; choose one of {', '.join(sorted(known))}.")
    values = yaml.safe_load(known[name].read_text())
    if unknown := set(values) - set(map(attrgetter("name"), fields(EngineConfig))):
        raise SetupError(f"The preset '{name}' sets '{min(unknown)}', which there is not.")
    return values


class Engine:
    """Implements core.ports.Engine."""

    def __init__(self, base: LoadedModel, config: EngineConfig) -> None:
        self.base, self.config = base, config
        self.reader = reading_model(base)  # what learns and answers from weights; the base model is asked beside it
        self.base_format = format_for(base.tokenizer)
        self.format = format_for(base.tokenizer, prepared=self.reader is not base)
        self.name, self.ranking = base.name, base.ranking
        self.fingerprint = combined_fingerprint(base.fingerprint, preparation_digest(base))
        self.device, self.dtype = str(base.device), str(base.dtype).removeprefix("torch.")
        self.learner = config.learner
        folder = prepared_folder(base)
        self.chunk_size = config.chunk_size or (read_config(folder) if folder else FastWeightsConfig()).section
        limit_memory(base.device, config.memory_mb)
        self._searcher = Searcher.for_model(base, folder, self.format.pad_id)
        self._base_graphs: Graphs | None = None
        self._base_shared: Shared | None = None
        self._courses: dict[str, Course] = {}
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="base")
        self._check(self.course(config.learner).learner)  # fail at start-up, not at the first document

    @classmethod
    def load(cls, config: EngineConfig, folder: Path | None = None, *, light: bool = False) -> Engine:
        """`folder` and `light`: as `load_model` has them. Raises: ModelNotFound, SetupError."""
        c = config
        light = light and c.learner == FastWeightsLearner.name  # the others need more of transformers' model
        base = load_model(
            c.model, device=c.device, dtype=c.dtype, prepared=c.prepared, cache=c.cache, folder=folder, light=light
        )
        return cls(base, c)

    def course(self, name: str) -> Course:
        """How documents are learned by this learner. Raises: SetupError when there is none."""
        if name not in self._courses:
            learning, config = self._learn_config(), self.config
            learner = make_learner(name, self.reader, self.format, learning)
            answer = partial(self.answer, most_tokens=CHECK_TOKENS, votes=1)
            self._courses[name] = Course(
                self.reader,
                self.format,
                learner,
                learning,
                answer,
                config.question_writer,
                study=config.study,
                check=config.check,
                guard=config.guard,
            )
        return self._courses[name]

    def _check(self, learner: Learner) -> None:
        """Raises: SetupError, for a setting that the learner does not use."""
        c = self.config
        if isinstance(learner, AdapterLearner):
            if c.budget:
                raise SetupError(f"The learner '{learner.name}' has no budget; only 'fast-weights' decides by chunk.")
        elif c.study or c.objectives:
            raise SetupError(f"The learner '{learner.name}' studies only the text; set ENGRAM_LEARNER=lora as well.")

    def _learn_config(self) -> LearnConfig:
        """LearnConfig of this configuration and device."""
        c, on_gpu = self.config, self.base.device.type == "cuda"
        wanted = c.batch_tokens or (16_384 if on_gpu else 2_048)
        memory_mb = self._memory_mb()
        batch_tokens, recompute = fit_batch(self.base.model, wanted, memory_mb, c.recompute)
        sections = None if on_gpu or c.batch_tokens else SECTIONS_ON_CPU
        objectives = Objectives.from_weights(c.objectives)
        return LearnConfig(c.effort, batch_tokens, sections, c.budget, recompute, memory_mb, objectives)

    def _memory_mb(self) -> int | None:
        """Of the memory limit what is left for one model and its learning, beside the weights of reader and search."""
        if self.config.memory_mb is None:
            return None
        models = [self.base.model, self.reader.model]
        if self._searcher:
            models.append(self._searcher.base.model)
        return self.config.memory_mb - (model_bytes(*models) - model_bytes(self.base.model)) // 2**20

    def chunk(self, pages: Sequence[Page]) -> list[Chunk]:
        return make_chunks(pages, encoder(self.base.tokenizer), self.chunk_size)

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        return (yield from self.course(self.learner).run(chunks, title=title))

    def self_check(self, pages: Sequence[Page]) -> Generator[Step, None, list[tuple[str, str]]]:
        return (yield from self.course(self.learner).questions(self.chunk(pages)))

    def answer(
        self, asks: Sequence[Ask], *, most_tokens: int | None = None, votes: int | None = None
    ) -> list[Completion]:
        """One batch for each learner, and beside it one for the base model; rows that share weights share their
        attachment. With `votes` each question is asked so often, in other words, and the answers are voted on."""
        rows: list[Ask] = []
        temperatures: list[float] = []
        counts = []  # of each question's rows
        for ask in asks:
            worded = ballots(ask.question, votes or self.config.votes)
            for question, temperature in worded:
                rows.append(replace(ask, question=question))
                temperatures.append(temperature)
            counts.append(len(worded))
        completions = self._answers(rows, temperatures, most_tokens or self.config.max_answer_tokens)
        start, answers = 0, []
        for count in counts:
            votes_cast = completions[start : start + count]
            answers.append(vote(votes_cast) if count > 1 else votes_cast[0])
            start += count
        return answers

    def _answers(self, asks: Sequence[Ask], temperatures: Sequence[float], most_tokens: int) -> list[Completion]:
        by_learner: dict[str, list[int]] = {}
        for i, ask in enumerate(asks):
            name = BASE_LEARNER if ask.is_base else ask.learner or self.learner
            by_learner.setdefault(name, []).append(i)
        base_rows = by_learner.pop(BASE_LEARNER, [])
        learned = self._learned_answers(asks, by_learner, temperatures, most_tokens)
        base = self._base_answers([asks[i] for i in base_rows], most_tokens)
        if base_rows and by_learner and self.reader is not self.base and self.device == "cpu":
            out, answers = side_by_side(self._executor, learned, base)
        else:
            out, answers = run_to_return(learned), run_to_return(base)
        out |= zip(base_rows, answers, strict=True)
        return [out[i] for i in range(len(asks))]

    def _learned_answers(
        self,
        asks: Sequence[Ask],
        by_learner: Mapping[str, Sequence[int]],
        temperatures: Sequence[float],
        most_tokens: int,
    ) -> Generator[None, None, dict[int, Completion]]:
        """Of the rows of each learner, by their numbers."""
        out: dict[int, Completion] = {}
        for name, rows in by_learner.items():
            order, completions = yield from self._batch(name, asks, rows, temperatures, most_tokens)
            out |= zip(order, completions, strict=True)
        return out

    def _base_answers(self, asks: Sequence[Ask], most_tokens: int) -> Generator[None, None, list[Completion]]:
        """The public model's own answers: greedy, nothing attached, each question once."""
        if not asks:
            return []
        questions = list(dict.fromkeys(ask.question for ask in asks))
        prompts = [self.base_format.closed_book(question) for question in questions]
        options = self.base_format.options(min(most_tokens, BASE_TOKENS))
        options["passes"] = self._base_passes(questions, prompts, options["pad_id"], options["max_new"])
        completions = yield from completion(self.base.model, self.base.tokenizer, prompts, **options)
        answers = dict(zip(questions, completions, strict=True))
        return [answers[ask.question] for ask in asks]

    def _base_passes(
        self, questions: Sequence[str], prompts: Sequence[Sequence[int]], pad_id: int, max_new: int
    ) -> Passes | None:
        """The quickest for this device, if any. A sentence that answers one question often begins with its words."""
        if Shared.can(self.base.model):
            self._base_shared = self._base_shared or Shared(self.base.model, {}, self.base_format.opening)
            passes = self._base_shared.passes(prompts, pad_id, max_new)
            return self._drafted(passes, questions, self.base_format, max_new)
        if self.base.device.type == "cuda" and can_run(self.base.model):
            self._base_graphs = self._base_graphs or Graphs(self.base.model, {})
            return self._base_graphs.passes(prompts, pad_id, max_new)
        return None

    def _drafted(self, passes: Passes | None, texts: Sequence[str], fmt: ChatFormat, max_new: int) -> Passes | None:
        """The same passes; on a CPU they read ahead where an answer repeats its row's text."""
        if not isinstance(passes, SharedPasses):
            return passes
        drafts = [Draft(self.base.tokenizer, text) for text in texts]
        return DraftedPasses(passes, lambda row, said: drafts[row].follow(said, MAX_DRAFT), fmt.stop_ids, max_new)

    def _batch(
        self, name: str, asks: Sequence[Ask], rows: Sequence[int], temperatures: Sequence[float], most_tokens: int
    ) -> Generator[None, None, tuple[list[int], list[Completion]]]:
        """The reader's answers: rows with weights, grouped by them, then those with nothing but a text."""
        by_weights: dict[int, list[int]] = {}
        without_weights = []
        for i in rows:
            if asks[i].weights is None:
                without_weights.append(i)
            else:
                by_weights.setdefault(id(asks[i].weights), []).append(i)
        groups: list[tuple[Mapping[str, Tensor], int]] = []
        order: list[int] = []
        for numbers in by_weights.values():
            groups.append((asks[numbers[0]].weights or {}, len(numbers)))
            order += numbers
        order += without_weights
        by_text: dict[tuple[str, str], list[int]] = {}  # many rows ask the same
        prompts = []
        for i in order:
            text = asks[i].question, asks[i].context
            if text not in by_text:
                by_text[text] = self._prompt(*text)
            prompts.append(by_text[text])
        learner = self.course(name).learner
        passes = learner.answer_passes(groups, prompts, most_tokens)
        texts = [asks[i].context for i in order]
        if any(texts) and not any(temperatures[i] for i in order):
            passes = self._drafted(passes, texts, self.format, most_tokens)
        options = self.format.options(most_tokens) | {
            "temperature": [temperatures[i] for i in order],
            "hold_back": held_back(self.format, self.config.abstain),
            "passes": passes,
        }
        with nullcontext() if passes else learner.attach(groups):
            completions = yield from completion(self.reader.model, self.base.tokenizer, prompts, **options)
        return order, list(map(normalise_abstention, completions))

    def _prompt(self, question: str, context: str = "") -> list[int]:
        return self.format.in_context(context, question) if context else self.format.closed_book(question)

    def rewrite_question(self, history: Sequence[str], question: str) -> str:
        """A follow-up, written so that it can be understood without the questions before it; as it is where the model
        has no reader that learned to."""
        if self.reader is self.base:
            return question
        prompt = self.format.in_context("\n".join([*history, question]), COMPLETE)
        [written] = complete(self.reader.model, self.base.tokenizer, [prompt], **self.format.options(40))
        return written.text if is_same_question(written.text, question, history) else question

    def queries(self, questions: Sequence[str]) -> list[Query | None]:
        return self._searcher.queries(questions) if self._searcher else [None] * len(questions)

    def codes(self, chunks: Sequence[Chunk]) -> list[bytes]:
        if not self._searcher:
            return [b""] * len(chunks)
        return self._searcher.codes([chunk.token_ids for chunk in chunks])

    def prompt_tokens(self, question: str, context: str = "") -> int:
        """Of the prompt that goes with weights."""
        return len(self._prompt(question, context))

    def prompt(self, question: str, context: str = "") -> str:
        """The prompt that goes with weights, as text, with its marks."""
        return self.base.tokenizer.decode(self._prompt(question, context))


def combined_fingerprint(fingerprint: str, preparation: str) -> str:
    """What stored weights belong to: the base model and, where there is one, its preparation."""
    return hashlib.sha256(f"{fingerprint} {preparation}".encode()).hexdigest() if preparation else fingerprint


def normalise_abstention(completion: Completion) -> Completion:
    """A model whose abstention is held back may say a word first, then abstain: "the not in the text"."""
    first, _, rest = completion.text.partition(" ")
    return replace(completion, text=NOT_IN_TEXT) if first and rest == NOT_IN_TEXT else completion
