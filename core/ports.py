"""What core needs from outside, as protocols: `storage` has Index and Weights, `core.engine` has Engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from core.search.parameters import RankingParameters
from core.search.ranking import Hit
from core.types import (
    ALL_PAGES,
    Answer,
    Chunk,
    Completion,
    Correction,
    Document,
    Job,
    Metrics,
    Page,
    Progress,
    Stage,
    Step,
    WeightsRecord,
)

if TYPE_CHECKING:
    from torch import Tensor

    from core.search.closeness import Query


@dataclass(frozen=True)
class Learned:
    """What a learner returns. `tensors` are named `SECTION/MODULE`, for example `0/model.layers.9.mlp.down_proj`."""

    tensors: Mapping[str, Tensor]
    sections: tuple[int, ...]  # for each chunk, the section whose tensors learned it
    metrics: Metrics
    questions: tuple[str, ...] = ()  # examples that it can answer

    def section(self, number: int) -> dict[str, Tensor]:
        """The weights of one section, by module."""
        return section_tensors(self.tensors, number)


def section_tensors(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Of tensors named SECTION/MODULE those of one section, by module."""
    start = f"{number}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def section_of(name: str) -> int:
    """Section number of a tensor named SECTION/MODULE."""
    return int(name.partition("/")[0])


@dataclass(frozen=True)
class Ask:
    """One question for the engine. With neither weights nor a context it is put to the base model as it is."""

    question: str
    weights: Mapping[str, Tensor] | None = None  # of one section, named by module
    context: str = ""  # a text beside the question; empty unless the operator wants it
    learner: str = ""  # which learner made the weights

    @property
    def is_base(self) -> bool:
        return self.weights is None and not self.context


class AboutEngine(Protocol):
    """What `/status` tells of an engine."""

    name: str
    fingerprint: str  # sha256 over the base model's weights and tokenizer
    device: str
    dtype: str
    learner: str  # name of the default learner


class Engine(AboutEngine, Protocol):
    """The base model and everything that touches the device. Called from the runner's one thread only."""

    ranking: RankingParameters  # of the search; fitted to the model's preparation

    def chunk(self, pages: Sequence[Page]) -> list[Chunk]:
        """Cut pages into chunks by the model's own tokenizer."""
        ...

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        """Learn a document. Between two steps the model is exactly the base model, so that questions may be answered
        there; closing the generator cancels.

        Raises: LearningFailed.
        """
        ...

    def self_check(self, pages: Sequence[Page]) -> Generator[Step, None, list[tuple[str, str]]]:
        """Questions about a text with their answers, as the self-check asks them; none where it is switched off."""
        ...

    def answer(self, asks: Sequence[Ask]) -> list[Completion]:
        """Answer a batch, each row with its own weights."""
        ...

    def prompt_tokens(self, question: str, context: str = "") -> int:
        """Of a question's prompt, and of the text beside it."""
        ...

    def prompt(self, question: str, context: str = "") -> str:
        """The prompt that goes with weights, as text, with its marks."""
        ...

    def rewrite_question(self, history: Sequence[str], question: str) -> str:
        """A follow-up, written so that it can be understood without the questions before it."""
        ...

    def queries(self, questions: Sequence[str]) -> Sequence[Query | None]:
        """Each question, to compare chunks' codes with; None for a model that has no search head."""
        ...

    def codes(self, chunks: Sequence[Chunk]) -> list[bytes]:
        """Of these chunks, in one batch; b"" for a model that has no search head."""
        ...


class Runner(Protocol):
    """Who works off the queue: this process (`core.runner`), or others."""

    @property
    def engine(self) -> AboutEngine | None:
        """The engine, if it is loaded by now."""
        ...

    @property
    def load_error(self) -> BaseException | None:
        """Why there is no engine, if loading it failed."""
        ...

    async def ready(self) -> object:
        """Returns once the engine is loaded. Raises: SetupError."""
        ...

    async def store_ends(self) -> None:
        """Ends of jobs that could not be stored when they came: until then their documents count as being learned.

        Raises: StorageFailed.
        """
        ...

    async def wake(self) -> None:
        """A job was added."""
        ...

    def watch(self, job_id: str) -> AsyncIterator[Progress]:
        """The job's progress from now to its end. A slow watcher misses steps, never the end.

        Raises: NotFound; SetupError when the engine can't be loaded: the job then waits for the next start.
        """
        ...

    async def cancel(self, job_id: str) -> Job:
        """End a job and wait for its end, at most one step. Returns it as it ended: done, if that came first.

        Raises: NotFound.
        """
        ...


class Answerer(Protocol):
    """Who has questions answered: this process (`core.answerer`), or others.

    Every method raises WeightsDamaged, WrongBaseModel, NotFound, SetupError.
    """

    async def ask(self, channel: str, question: str, named: str = "", thread: str = "") -> Answer:
        """
        Args:
            named: id of the document to ask, and no other; "": whichever the question points at.
            thread: whose earlier questions and answers count; "": of none.

        Raises: NoGist.
        """
        ...

    async def likely(self, channel: str, document_id: str, questions: Sequence[str]) -> list[str]:
        """Those of the questions about a document that it answers well."""
        ...

    async def is_usable(self, channel: str, document_id: str) -> bool:
        """Whether the document's weights are whole, and of this base model."""
        ...


class Weights(Protocol):
    """Weights, on disk or in an object store: a document's are complete or absent. Blocking: call through a thread."""

    def save(self, document_id: str, channel: str, learned: Learned, *, base: str, learner: str) -> WeightsRecord: ...

    def load(self, record: WeightsRecord, channel: str, *, base: str, section: int) -> Mapping[str, Tensor]:
        """Raises: WeightsDamaged (missing, changed, another channel's), WrongBaseModel."""
        ...

    def load_all(self, record: WeightsRecord, channel: str) -> Mapping[str, Tensor]:
        """All tensors, named SECTION/MODULE, for whatever base model. Raises: WeightsDamaged, StorageFailed."""
        ...

    def prefetch(self, record: WeightsRecord, section: int) -> None:
        """More questions about this section and those around it are likely: `load` is to find them here. No error."""
        ...

    def delete(self, document_id: str) -> None:
        """Raises: OSError, when it can't be deleted."""
        ...

    def sweep(self, known: Sequence[WeightsRecord]) -> tuple[list[str], list[str]]:
        """Move the index's own files that no record names into a trash, which is emptied after days. Returns the names
        of what was moved, and of what was left alone: nothing shows that it belongs to this index."""
        ...

    def erase_trash(self, channel: str) -> None:
        """Delete what lies there of a channel."""
        ...


class Inbox(Protocol):
    """What a platform hands over: kept until it is worked off, and done only once, also across a restart. Keys begin
    with the platform's name; what was worked off is remembered for a day. Every method raises StorageFailed."""

    async def receive(self, key: str, body: str, channel: str = "") -> bool:
        """Make an event durable; the caller may then acknowledge it. False when it was received before. With its
        channel it is erased."""
        ...

    async def unhandled(self, prefix: str) -> list[tuple[str, str]]:
        """(key, body) of what was received and not worked off, the oldest first."""
        ...

    async def handled(self, key: str) -> None:
        """An event is worked off; its body goes."""
        ...

    async def claim(self, key: str, owner: str, seconds: float = 86_400.0) -> bool:
        """Whether `owner` is the first to ask for this key in so many seconds; asking again it still is."""
        ...


Used = list[tuple[float, int]]  # (when it does not count any more, how much), the oldest first


class Usage(Protocol):
    """What people have used up of their quotas."""

    def clock(self) -> float:
        """Now, in seconds."""
        ...

    def usage(self, key: str) -> AbstractAsyncContextManager[Used]:
        """What still counts. Nobody else changes it meanwhile; what was appended is kept, unless something is raised.

        Raises: StorageFailed.
        """
        ...


class Index(Inbox, Protocol):
    """What was handed in, learned and asked: in SQLite, or in PostgreSQL."""

    async def add_job(
        self, job: Job, data: bytes = b"", *, pages: tuple[int, int] = ALL_PAGES, again: bool = False
    ) -> Job:
        """Make a job durable together with its file; the caller may then acknowledge it.

        Args:
            data: the file, for a job of kind LEARN.
            pages: the first and the last page to learn.
            again: what comes of it takes the place of the document of the same sha256.

        Raises: AlreadyKnown when the channel has (unless `again`) or is learning a document of the same sha256.
        """
        ...

    async def job(self, job_id: str) -> Job: ...
    async def jobs(self, *, channel: str | None = None, unfinished: bool = True) -> list[Job]: ...
    async def next_job(self) -> Job | None:
        """Claim the next queued job, channels taking turns; marks it READING and counts the attempt."""
        ...

    async def job_file(self, job_id: str) -> tuple[bytes, tuple[int, int]]:
        """What was handed in, and which pages of it. Raises: NotFound, when the job has ended."""
        ...

    async def job_stage(
        self, job_id: str, stage: Stage, *, error: str = "", attempt: int = 0, retry: bool = False
    ) -> None:
        """Move a job on. One that has ended stays as it ended. Back to QUEUED, the attempt does not count.

        Args:
            attempt: who works on the job names its own; a later one may have begun meanwhile. 0: anybody.
            retry: back to QUEUED, since storage could not be reached. The attempt counts among the job's `retries`; the
                next one has another number, so that what this one sent and is late is refused.

        Raises: Cancelled, when the job has ended, was erased, or is in another attempt, and `stage` is not final.
        """
        ...

    async def requeue_interrupted(self) -> list[Job]:
        """At start: jobs that were running when the process died are queued again, or failed after three attempts."""
        ...

    async def finish_job(
        self, job_id: str, document: Document, pages: Sequence[Page], chunks: Sequence[Chunk], *, attempt: int = 0
    ) -> Document:
        """Store the document, its text and its weights record and mark the job DONE, in one transaction. It takes the
        place of one of the same sha256, whose id it then knows. Returns it as it is stored.

        Args:
            attempt: as in `job_stage`.

        Raises: Cancelled, when the job has ended otherwise, was erased, or is in another attempt; then nothing was
            stored.
        """
        ...

    async def mark_delivered(self, job_id: str) -> None: ...
    async def undelivered(self) -> list[Job]: ...

    async def documents(self, channel: str) -> list[Document]: ...
    async def find_document(self, channel: str, key: str) -> Document:
        """By id, name or unambiguous beginning of either. Raises: NotFound."""
        ...

    async def is_sound(self) -> bool:
        """Whether the index is whole."""
        ...

    async def all_weights(self) -> list[WeightsRecord]: ...
    async def will_save(self, document_id: str, job: Job) -> None:
        """A file of weights is about to be written. Unless this attempt at the job finishes it, it is unused."""
        ...

    async def unused_weights(self) -> list[str]:
        """Ids of documents that are gone, or never came to be, and may have left a file."""
        ...

    async def weights_deleted(self, document_ids: Sequence[str]) -> None: ...
    async def forget(self, channel: str, document_id: str) -> WeightsRecord:
        """Remove a document, its text, chunks, jobs and answers; nothing remains readable in the file."""
        ...

    async def reset(self, channel: str) -> list[WeightsRecord]: ...

    async def candidates(
        self, channel: str, question: str, *, document_id: str | None = None, limit: int = 10
    ) -> list[Hit]:
        """The chunks that the question's words point at, best first (FTS5, BM25), with text and code. The newest
        document's first chunk when no word matches; empty when the channel knows nothing."""
        ...

    async def pages(self, document_id: str) -> list[Page]:
        """Its text, in order; empty when no text is kept."""
        ...

    async def chunks(self, document_id: str) -> list[Chunk]:
        """Its chunks, in order, without their tokens, which are not kept."""
        ...

    async def rehearse(
        self, document: Document, chunks: Sequence[Chunk], questions: Sequence[str], limit: int
    ) -> list[list[Hit]]:
        """For each question the candidates, if the document consisted of these chunks and the channel knew no other.
        Nothing is stored."""
        ...

    async def add_answer(self, channel: str, answer: Answer, *, asked_by: str, thread: str = "") -> str: ...
    async def place_answer(self, channel: str, answer_id: str, thread: str) -> None:
        """An answer stands in this thread. Nothing to do when it was erased meanwhile."""
        ...

    async def thread_questions(self, channel: str, thread: str, limit: int) -> list[str]:
        """The last questions of a thread as they were understood, the newest at the end."""
        ...

    async def thread_document(self, channel: str, thread: str) -> str | None:
        """Id of the document that gave the newest answer of a thread, "not in the text" left aside; None when no
        document did."""
        ...

    async def feedback(self, channel: str, answer_id: str, *, by: str, helpful: bool, correction: str = "") -> None: ...
    async def corrections(self, channel: str) -> list[Correction]:
        """What was called wrong, the oldest first."""
        ...

    async def answer(self, channel: str, answer_id: str) -> Answer:
        """As it was given. Raises: NotFound, also when its document was forgotten since."""
        ...

    async def share_answer(self, channel: str, answer_id: str, *, by: str) -> Answer | None:
        """Mark an answer as shared by the person who asked for it; None when it was shared before. Raises: NotFound."""
        ...

    async def forget_person(self, person: str) -> int:
        """Erase what somebody asked, and said about answers; returns how much."""
        ...

    async def channels(self, prefix: str) -> list[str]:
        """Those whose id begins so and of which anything is stored."""
        ...

    async def channel_settings(self, channel: str) -> dict[str, str]: ...
    async def change_setting(self, channel: str, name: str, value: str) -> None: ...
