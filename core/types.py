"""The values that travel through Engram: plain, frozen, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.errors import EngramError


class Stage(StrEnum):
    """Where a learning job is."""

    QUEUED = "queued"  # durable: survives a restart
    READING = "reading"  # file -> pages, in the child process
    LEARNING = "learning"  # inner-loop steps on the device
    CHECKING = "checking"  # guard and self-check
    SAVING = "saving"  # weights on disk, then the row
    DONE = "done"
    FAILED = "failed"  # refused or broken; `error` says why
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (Stage.DONE, Stage.FAILED, Stage.CANCELLED)


class JobKind(StrEnum):
    """What a job learns from."""

    LEARN = "learn"  # a file that was handed in
    RELEARN = "relearn"  # the kept text of a document that can't be asked any more, and whose place it takes
    CONSOLIDATE = "consolidate"  # the kept text of several documents, as one
    CORRECT = "correct"  # what somebody says is right, as one more section of a document; or takes it out again


ALL_PAGES = (1, 0)  # first and last page; 0: to the end


@dataclass(frozen=True)
class Limits:
    """What a document may be. What learning costs is its text, so that is the limit that counts."""

    max_pages: int = 1_000  # that are read at once
    max_bytes: int = 50 * 1024 * 1024
    max_tokens: int = 100_000
    min_tokens: int = 20


@dataclass(frozen=True)
class Page:
    """The cleaned text of one page."""

    number: int  # as a person counts: the first is 1
    text: str
    places: tuple[tuple[int, str], ...] = ()  # where in the text what can be cited begins; (): the page alone can be
    confidence: float | None = None  # of text recognition, 0..1; None: the file itself holds the text
    correction: str = ""  # id of the correction that it holds; "": it is the document's own


@dataclass(frozen=True)
class Chunk:
    """A run of tokens of one document; the chunks of a document joined are the document."""

    index: int  # 0-based
    text: str
    token_ids: tuple[int, ...]
    start_page: int
    end_page: int
    code: bytes = b""  # to find it by closeness (`core.search.closeness`); b"" where it is found by words alone

    @property
    def token_count(self) -> int:
        return len(self.token_ids)


def count_tokens(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.token_count for chunk in chunks)


@dataclass(frozen=True)
class Metrics:
    """What learning one document took and did."""

    initial_loss: float  # nats a token, before the first step
    final_loss: float  # nats a token, after the last step
    loss_history: tuple[float, ...]  # one a step, over all chunks
    chunks: int
    tokens: int
    seconds: float
    delta_norm: float  # L2 norm of the weight change
    check_total: int = 0  # self-check: questions that the model wrote about the document; 0 = none were asked
    check_before: int = 0  # of them answered by the base model
    check_after: int = 0  # ... with the weights
    notes: tuple[str, ...] = ()  # what a person should know: "rolled back", "rate halved", ...
    gist: int | None = None  # section that learned what the whole is about; None where none did


@dataclass(frozen=True)
class Step:
    """One step of learning, as it happens."""

    done: int
    total: int
    loss: float  # nats a token; no number while nothing is learned yet, only prepared
    stage: Stage = Stage.LEARNING  # CHECKING, once that has begun


@dataclass(frozen=True)
class WeightsRecord:
    """A file of weights, as the index knows it."""

    document_id: str
    path: str  # relative to the data folder
    bytes: int
    sha256: str
    base: str  # fingerprint of the base model that it belongs to
    learner: str
    sections: tuple[int, ...]  # for each chunk, the number of the delta that learned it


@dataclass(frozen=True)
class Document:
    """A document that a channel knows."""

    id: str  # short, unique, safe to show
    channel: str
    name: str  # as given, made harmless
    sha256: str
    pages: int
    tokens: int
    learned_at: float  # Unix time
    learned_by: str  # platform user id or "local"
    metrics: Metrics
    weights: WeightsRecord
    questions: tuple[str, ...] = ()  # examples that it can answer
    formerly: tuple[str, ...] = ()  # ids of its earlier versions, which old messages still name


@dataclass(frozen=True)
class Job:
    """One document on its way into the weights: a row, so a restart goes on."""

    id: str
    channel: str
    name: str
    sha256: str
    requested_by: str
    reply_to: str  # platform's own address of the progress message; opaque to core
    created_at: float
    stage: Stage = Stage.QUEUED
    attempts: int = 0
    error: str = ""  # one sentence for a person, when stage is FAILED
    document_id: str = ""  # when stage is DONE
    delivered: bool = False  # the channel has been told how it ended
    kind: JobKind = JobKind.LEARN
    sources: tuple[str, ...] = ()  # ids of the documents whose text it learns again; or of one and of its correction
    share: int = 1  # how many chunks become one section
    retries: int = 0  # attempts that ended because storage could not be reached


@dataclass(frozen=True)
class Progress:
    """What a watcher of a job sees."""

    job: Job
    place: int = 0  # jobs ahead of this one while queued
    step: Step | None = None
    losses: tuple[float, ...] = ()
    pages: int = 0
    tokens: int = 0
    seconds: float = 0.0  # since work on it began
    document: Document | None = None  # when done
    failure: EngramError | None = None  # when failed in this process; the row keeps its sentence only


@dataclass(frozen=True)
class Completion:
    """What the model wrote."""

    text: str
    tokens: int
    seconds: float
    confidence: float = 0.0  # mean probability of the answer's tokens, 0..1


@dataclass(frozen=True)
class DocumentRef:
    id: str
    name: str


class Certainty(StrEnum):
    """How far an answer can be trusted, as a person reads it."""

    LIKELY = "likely"
    UNSURE = "unsure"
    ABSENT = "not in the document"


@dataclass(frozen=True)
class Answer:
    """The same question put to the learned model and to the base model."""

    question: str
    base: Completion
    learned: Completion | None  # None when the channel knows no document, or none that is about the question
    document: DocumentRef | None  # whose weights answered
    prompt_tokens: int  # of the prompt that the learned model was asked with
    pages: tuple[int, ...] | None = ()  # where the text supports the learned answer; () = not found, None = none kept
    places: tuple[str, ...] = ()  # what these are called: "p. 3", "slide 4", "sheet Ships, row 7", "“The storm”"
    closest: str = ""  # the place to look at where no page supports the answer; "" where none stands out
    id: str = ""  # for feedback
    unusable: tuple[str, ...] = ()  # names of documents that could not be asked and have to be learned again
    unrelated: bool = False  # the channel knows documents, and none of them is about the question
    certainty: Certainty = Certainty.UNSURE  # of the learned answer
    understood: str = ""  # the question made whole, where it was a follow-up
    document_tokens: int = 0  # of the prompt, those of the document; 0 unless the operator wants its text in it
    section: int | None = None  # whose weights answered, by number; None where none did


@dataclass(frozen=True)
class Correction:
    """An answer that somebody called wrong."""

    id: str  # short, and tells nothing of the person
    document: str  # its name; "": none
    document_id: str
    question: str  # as it was understood
    answer: str
    correction: str  # what is right; "": not said
    given_by: str
    learned: bool = False  # it is a section of its document

    def is_of(self, answer_id: str, person: str) -> bool:
        return self.given_by == person and self.id.startswith(f"{answer_id}-")


@dataclass(frozen=True)
class Status:
    """What /status shows; of the model nothing while it is being loaded."""

    model: str = ""
    fingerprint: str = ""
    device: str = ""
    dtype: str = ""
    learner: str = ""
    documents: int = 0  # in the channel
    queued: int = 0  # over all channels
    running: Job | None = None
    data_bytes: int = 0
    notes: tuple[str, ...] = ()
