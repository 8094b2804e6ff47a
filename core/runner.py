"""Processes the queue: one document at a time, file -> pages -> chunks -> weights -> document.

Learning hands the device one step at a time, so a question waits for at most one step (for one more where the search
asks the model, too), and a step for at most one batch of questions. After such a wait learning goes on for as long as
it took, or for half a second, so that it has its share of a device that is never idle. Jobs are rows of the index: what
a stopped or killed process leaves behind goes on at the next start.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from core.consolidate import join_documents, merge_chunks, sections_of_chunks
from core.correction import Rehearsal, Version, check, chunked, numbered, page_of
from core.device import BATCH_ROWS, Device
from core.document.about import title_of
from core.document.chunks import check_length
from core.document.formats import DocumentText, read_document
from core.document.gist import gist
from core.document.language import load_classifier
from core.errors import (
    Cancelled,
    EngramError,
    LearningFailed,
    Refused,
    StorageFailed,
    StorageUnavailable,
    WrongBaseModel,
)
from core.feed import Feeds
from core.ports import Engine, Index, Learned, Weights
from core.search.words import terms
from core.tracing import span, traced
from core.types import Chunk, Document, Job, JobKind, Limits, Page, Progress, Stage, Step, WeightsRecord, count_tokens

log = logging.getLogger(__name__)
T = TypeVar("T")

CHUNKS_AT_ONCE = 4  # chunks that are encoded at once, for the search
TURN_SECONDS = 0.5  # seconds for which learning goes on after it waited for questions, if it waited for so long
PAUSE_SECONDS = 5.0  # after an index that can't be read or written, before trying again
RETRY_PAUSES = (5.0, 15.0, 30.0, 60.0, 120.0, 120.0)  # seconds between attempts whose storage could not be reached


class Runner:
    """Implements core.ports.Runner: the one owner of the device, from `async with` on.

    Args:
        engine_factory: loads the engine; blocking; called once, in the device's thread.
        learning: load the engine at once and take up queued jobs. Without it, the first question loads the engine.
        tidy: put in order what a crash left behind; not beside another process.
        read: as `core.document.formats.read_document`: bytes and limits, and `progress` of its text recognition.
        feeds: where progress is shown; None: to who watches in this process.
        keep_text: store the pages, for citations; without it only the words to find a chunk by, and no code of it.
    """

    device: Device

    def __init__(
        self,
        engine_factory: Callable[[], Engine],
        index: Index,
        weights: Weights,
        limits: Limits | None = None,
        *,
        read: Callable[..., Awaitable[DocumentText]] = read_document,
        learning: bool = True,
        batch_rows: int = BATCH_ROWS,
        keep_text: bool = True,
        tidy: bool = True,
        feeds: Feeds | None = None,
    ) -> None:
        self._tidy = tidy
        self._engine_factory = engine_factory
        self._index = index
        self._weights = weights
        self._limits = limits or Limits()
        self._read = read
        self._learning = learning
        self._batch_rows = batch_rows
        self._keep_text = keep_text
        self._feeds = feeds or Feeds(index)
        self._unstored: deque[_End] = deque()
        self._storing = asyncio.Lock()  # who finds nothing unstored may rely on it
        self._work: _CurrentJob | None = None
        self._claiming = asyncio.Lock()  # a job is claimed or cancelled, never both at once
        self._wake = asyncio.Event()  # there may be a job
        self._closing = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Runner:
        self.device = Device(self._engine_factory, batch_rows=self._batch_rows)
        if self._tidy:
            await self._recover()
        if self._learning:
            self.device.load()
            self._worker = asyncio.create_task(self._process_queue(), name="runner")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.set()
        await self.interrupt()
        if self._worker:
            await self._worker
        self._feeds.fail(EngramError("Engram is stopping; this document is learned after the next start."))
        self.device.close()

    # Seen from outside

    @property
    def engine(self) -> Engine | None:
        return self.device.engine

    @property
    def load_error(self) -> BaseException | None:
        return self.device.load_error

    async def ready(self) -> Engine:
        return await self.device.ready()

    async def interrupt(self) -> None:
        """End the work on the current job after its step; it goes back to the queue."""
        if work := self._work:
            work.interrupt()
            await work.ended.wait()

    async def store_ends(self) -> None:
        async with self._storing:
            while self._unstored:
                with suppress(Cancelled):  # erased meanwhile
                    await self._store(self._unstored[0])
                self._unstored.popleft()

    async def wake(self) -> None:
        self._wake.set()
        await self._feeds.publish_places()

    async def watch(self, job_id: str) -> AsyncIterator[Progress]:
        feed = await self._feeds.watch(job_id)
        if self.device.load_error and feed.queued:
            raise self.device.load_error
        async for progress in feed:
            yield progress

    async def cancel(self, job_id: str) -> Job:
        async with self._claiming:
            job, work = await self._index.job(job_id), self._work
            if work and work.job.id == job_id:
                work.cancel()
            elif not job.stage.final:
                await self._index.job_stage(job_id, Stage.CANCELLED)
                self._feeds.put(Progress(replace(job, stage=Stage.CANCELLED)))
        if work and work.job.id == job_id:
            await work.ended.wait()
        await self._feeds.publish_places()
        return await self._index.job(job_id)

    # The queue

    async def _recover(self) -> None:
        """After a crash: queue again what was being learned, and delete files that are known to be unused. Files that
        are not known at all go to a trash, and only if the index is whole and knows documents: it may be an older one.
        """
        for job in await self._index.requeue_interrupted():
            log.warning("job %s was interrupted in attempt %d and is now %s", job.id, job.attempts, job.stage)
        await self._delete_unused()
        known = await self._index.all_weights()
        if known and await self._index.is_sound():
            with _errors_logged("the folder of weights can't be tidied up"):
                moved, left = await asyncio.to_thread(self._weights.sweep, known)
                if moved or left:
                    log.warning("weights without a document: %d moved to the trash, %d left", len(moved), len(left))

    async def _delete_unused(self) -> None:
        for document_id in await self._index.unused_weights():
            with _errors_logged("weights of an erased document can't be deleted; the next start tries again"):
                await asyncio.to_thread(self._weights.delete, document_id)
                await self._index.weights_deleted([document_id])

    async def _process_queue(self) -> None:
        await _await_unless(self._closing, asyncio.wait({self.device.load()}))
        if self.device.load_error:
            self._feeds.fail(self.device.load_error)
            return
        language = asyncio.create_task(asyncio.to_thread(load_classifier), name="language")  # no question waits for it
        while not self._closing.is_set():
            try:
                await self.store_ends()
                await self._next()
            except Exception:  # the index can't be read or written, for example because the disk is full
                log.exception("the queue could not be processed")
                await _await_unless(self._closing, asyncio.sleep(PAUSE_SECONDS))
        await language

    async def _next(self) -> None:
        self._wake.clear()
        async with self._claiming:
            job = await self._index.next_job()
            self._work = work = _CurrentJob(job, self._closing) if job else None
        if work:
            await _await_unless(self._closing, asyncio.sleep(await self._run(work)))
        else:
            await _await_unless(self._closing, self._wake.wait())

    async def learn(self, job: Job) -> float:
        """Work on a job that somebody else claimed, one at a time, until it has ended or is back in the queue.

        Returns: seconds after which to try again, where storage could not be reached; else 0.
        """
        self._work = _CurrentJob(job, self._closing)
        return await self._run(self._work)

    async def _run(self, work: _CurrentJob) -> float:
        try:
            self._feeds.open(work.job.id)
            await self._work_on(work)
        finally:
            self._work = None
            work.ended.set()
        return work.pause

    async def _work_on(self, work: _CurrentJob) -> None:
        learn = self._correct if work.job.kind is JobKind.CORRECT else self._learn
        try:
            await self._feeds.publish_places()
            document = await learn(work)
        except _Interrupted:
            await self._end(work, Stage.QUEUED)
        except Cancelled:
            await self._end(work, Stage.CANCELLED)
        except StorageUnavailable as error:
            await self._retry(work, error)
        except EngramError as error:
            if not isinstance(error, Refused):
                log.warning("job %s failed", work.job.id, exc_info=error)
            await self._end(work, Stage.FAILED, error)
        except Exception:
            log.exception("job %s failed", work.job.id)
            await self._end(work, Stage.FAILED, LearningFailed())
        else:
            work.job = replace(work.job, document_id=document.id)
            self._show(work, stage=Stage.DONE, document=document)

    async def _retry(self, work: _CurrentJob, failure: StorageUnavailable) -> None:
        """Queue the job for another attempt, after a pause. The last one's failure is told."""
        job = work.job
        if work.cancelled:
            await self._end(work, Stage.CANCELLED)
        elif job.retries >= len(RETRY_PAUSES):
            await self._end(work, Stage.FAILED, failure)
        else:
            work.pause = RETRY_PAUSES[job.retries]
            log.warning("storage was lost in attempt %d at job %s", job.attempts, job.id, exc_info=failure)
            await self._end(work, Stage.QUEUED, retry=True)

    async def _end(
        self, work: _CurrentJob, stage: Stage, failure: EngramError | None = None, *, retry: bool = False
    ) -> None:
        """Of this attempt."""
        end = _End(work.job, stage, str(failure or ""), retry)
        try:
            await self._store(end)
        except Cancelled:  # a statement that was taken for lost has ended it, or somebody erased it
            with _errors_logged("what became of a job can't be read"):
                await self._feeds.look_up(work.job.id)
            return
        except Exception:  # a full disk: the watchers are told all the same
            log.exception("the end of job %s could not be stored; it is tried again", work.job.id)
            self._unstored.append(end)
        work.job = replace(work.job, error=end.error)
        self._show(work, stage=stage, failure=failure)

    async def _store(self, end: _End) -> None:
        """Raises: Cancelled, StorageFailed."""
        attempt = end.job.attempts
        await self._index.job_stage(end.job.id, end.stage, error=end.error, attempt=attempt, retry=end.retry)

    def _show(self, work: _CurrentJob, *, stage: Stage | None = None, **changes: Any) -> None:
        work.job = replace(work.job, stage=stage or work.job.stage)
        work.progress = replace(work.progress, job=work.job, seconds=work.seconds, **changes)
        self._feeds.put(work.progress)

    # One job

    @traced("learn")
    async def _learn(self, work: _CurrentJob) -> Document:
        engine = await self.device.ready()
        text, share = await self._read_pages(work), work.job.share
        chunks = await self.device.run(chunked, engine.chunk, text.pages)
        tokens = count_tokens(chunks)
        check_length(tokens, self._limits, text.pages, text.place)
        whole = (await self.device.run(engine.chunk, gist_pages(work.job, text.pages)))[:1]
        await self._enter(work, Stage.LEARNING, pages=len(text.pages), tokens=tokens)
        parts = [*merge_chunks(chunks, share), *whole]
        title = title_of(work.job.name, text.pages)
        learned = await self._run_steps(work, engine.learn(parts, title=title))
        learned = without_gist(learned) if whole else learned
        learned = replace(learned, sections=sections_of_chunks(learned.sections, len(chunks), share))
        await self._enter(work, Stage.CHECKING)
        check_learned(learned, chunks)
        if self._keep_text:
            chunks = await self._encode(work, chunks, engine)
        await self._enter(work, Stage.SAVING)
        return await self._keep(work, text, chunks, learned, engine)

    async def _enter(self, work: _CurrentJob, stage: Stage, **counts: int) -> None:
        if work.cancelled:
            raise Cancelled
        await self._index.job_stage(work.job.id, stage, attempt=work.job.attempts)
        self._show(work, stage=stage, **counts)

    @traced("read")
    async def _read_pages(self, work: _CurrentJob) -> DocumentText:
        """From the file; of a job that learns again, from the text that is kept."""
        self._show(work, stage=Stage.READING)
        if work.job.kind is not JobKind.LEARN:
            documents = []
            for source in work.job.sources:
                document = await self._index.find_document(work.job.channel, source)
                documents.append((document.name, await self._index.pages(document.id)))
            return join_documents(documents)
        data, pages = await self._index.job_file(work.job.id)

        def recognised(done: int, total: int) -> None:
            self._show(work, step=Step(done=done, total=total, loss=math.nan, stage=Stage.READING))

        text = await _await_unless(work.stop, self._read(data, self._limits, pages, progress=recognised))
        work.check()
        if text is None:
            raise _Interrupted
        return text

    @traced("correct")
    async def _correct(self, work: _CurrentJob) -> Document:
        """A correction more, or the same one less."""
        engine, job = await self.device.ready(), work.job
        document = await self._index.find_document(job.channel, job.sources[0])
        version, tokens = await self._version(document, engine), document.tokens
        learned = [page for page in version.pages if page.correction == job.sources[1]]
        if learned:
            version = version.without_page(learned[0].number)
            tokens -= count_tokens(await self.device.run(engine.chunk, learned[:1]))
        else:
            version = await self._corrected(work, document, version, engine)
            tokens += count_tokens(version.chunks)  # the stored ones count none
        await self._enter(work, Stage.SAVING)
        record = await self._save(job, Learned(version.tensors, version.sections, document.metrics), engine)
        document = replace(document, id=record.document_id, weights=record, tokens=tokens)
        return await self._finish(work, document, version.pages, version.chunks)

    async def _version(self, document: Document, engine: Engine) -> Version:
        """A document as it is stored. Raises: WeightsDamaged, WrongBaseModel."""
        record = document.weights
        if record.base != engine.fingerprint:
            raise WrongBaseModel
        tensors = await asyncio.to_thread(self._weights.load_all, record, document.channel)
        pages, chunks = await self._index.pages(document.id), await self._index.chunks(document.id)
        return Version(tuple(pages), tuple(chunks), tensors, record.sections, document.metrics.gist)

    async def _corrected(self, work: _CurrentJob, document: Document, before: Version, engine: Engine) -> Version:
        """Raises: Refused; LearningFailed, when it can't be learned, or harms."""
        job = work.job
        wanted = None
        for correction in await self._index.corrections(job.channel):
            if correction.id == job.sources[1]:
                wanted = correction
        if wanted is None or not before.pages or document.weights.learner != engine.learner:
            raise Refused("I can't learn this any more; ask me again, and correct that answer.")
        page = page_of(before.pages[-1].number + 1, wanted.question, wanted.correction, wanted.id)
        await self._enter(work, Stage.LEARNING)
        chunks = await self.device.run(engine.chunk, [page])
        learned = await self._run_steps(
            work, engine.learn(numbered(chunks), title=title_of(document.name, before.pages))
        )
        check_learned(learned, chunks)
        after = before.with_page(page, await self._encode(work, chunks, engine), learned)
        await self._enter(work, Stage.CHECKING)
        own = [page for page in before.pages if not page.correction]
        asked = await self._run_steps(work, engine.self_check(own))
        rehearsal = Rehearsal(self.device, self._index, document, pause=work.check)
        await check(rehearsal, before, after, (wanted.question, wanted.correction), asked)
        return after

    async def _run_steps(self, work: _CurrentJob, steps: Generator[Step, None, T]) -> T:
        """Drive the engine. Questions that came in meanwhile are answered between two steps; then learning goes on for
        as long as they took, or for TURN_SECONDS."""
        losses: list[float] = []
        stage = ExitStack()  # of spans: that of the current stage
        stage.enter_context(span(Stage.LEARNING, pages=work.progress.pages, tokens=work.progress.tokens))
        try:
            while True:
                waited = await self.device.let_questions_go()
                work.check()
                for step in await self.device.run(_advance, steps, min(waited, TURN_SECONDS)):
                    if not isinstance(step, Step):
                        return step
                    if step.stage is not work.job.stage:
                        stage.close()
                        stage.enter_context(span(step.stage))
                        await self._enter(work, step.stage)
                    if step.done and step.stage is Stage.LEARNING and step != work.progress.step:
                        losses.append(step.loss)
                    self._show(work, step=step, losses=tuple(losses))
        finally:
            stage.close()
            await self.device.run(steps.close)

    @traced("encode")
    async def _encode(self, work: _CurrentJob, chunks: Sequence[Chunk], engine: Engine) -> list[Chunk]:
        """The chunks with their codes, a few at a time, so that no question waits long."""
        codes: list[bytes] = []
        for first in range(0, len(chunks), CHUNKS_AT_ONCE):
            await self.device.let_questions_go()
            work.check()
            try:
                codes += await self.device.run(engine.codes, chunks[first : first + CHUNKS_AT_ONCE])
            except Exception:  # what was learned is not lost for it
                log.exception("this document will be found by words alone")
                return list(chunks)
        return [replace(chunk, code=code) for chunk, code in zip(chunks, codes, strict=True)]

    @traced("save")
    async def _keep(
        self, work: _CurrentJob, text: DocumentText, chunks: Sequence[Chunk], learned: Learned, engine: Engine
    ) -> Document:
        """The file first, then the row: what a crash in between leaves, the next start removes."""
        job, record = work.job, await self._save(work.job, learned, engine)
        document = Document(
            id=record.document_id,
            channel=job.channel,
            name=job.name,
            sha256=job.sha256,
            pages=sum(not page.correction for page in text.pages),
            tokens=count_tokens(chunks),
            learned_at=time.time(),
            learned_by=job.requested_by,
            metrics=replace(learned.metrics, notes=(*text.notes, *learned.metrics.notes)),
            weights=record,
            questions=learned.questions if self._keep_text else (),
        )
        if self._keep_text:
            return await self._finish(work, document, text.pages, chunks)
        words = [replace(chunk, text=terms(chunk.text)) for chunk in chunks]  # to find it by, sorted
        return await self._finish(work, document, (), words)

    async def _save(self, job: Job, learned: Learned, engine: Engine) -> WeightsRecord:
        """Under the id of the document that is to be."""
        document_id = new_id()
        await self._index.will_save(document_id, job)
        model_options = {"base": engine.fingerprint, "learner": engine.learner}
        return await asyncio.to_thread(self._weights.save, document_id, job.channel, learned, **model_options)

    async def _finish(
        self, work: _CurrentJob, document: Document, pages: Sequence[Page], chunks: Sequence[Chunk]
    ) -> Document:
        try:
            if work.cancelled:
                raise Cancelled
            job = work.job
            document = await self._index.finish_job(job.id, document, pages, chunks, attempt=job.attempts)
        except Exception:  # not a cancelled task's: whether its row was committed, the next start sees
            if document.weights not in await self._index.all_weights():
                await self._delete_unused()  # without this one, as long as its row may still come
                raise
        with _errors_logged("what a document replaced could not be deleted; the next start tries again"):
            await self._delete_unused()
        return document


@dataclass(frozen=True)
class _End:
    """How an attempt at a job ended, as `Index.job_stage` has it."""

    job: Job
    stage: Stage
    error: str
    retry: bool


class _CurrentJob:
    """The job at hand."""

    def __init__(self, job: Job, closing: asyncio.Event) -> None:
        self.job = job
        self.progress = Progress(job)
        self.cancelled = self.interrupted = False
        self.pause = 0.0  # seconds until the next attempt, where storage could not be reached
        self.stop = asyncio.Event()  # give up reading; learning looks between two steps
        self.ended = asyncio.Event()
        self._closing = closing
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def cancel(self) -> None:
        self.cancelled = True
        self.stop.set()

    def interrupt(self) -> None:
        self.interrupted = True
        self.stop.set()

    def check(self) -> None:
        """Raises: Cancelled, _Interrupted."""
        if self.cancelled:
            raise Cancelled
        if self.interrupted or self._closing.is_set():
            raise _Interrupted


class _Interrupted(Exception):
    """The job goes back to the queue, for example because the runner is closing."""


def gist_pages(job: Job, pages: Sequence[Page]) -> list[Page]:
    """What is learned beside a document, to tell what it is about; nothing for several documents as one."""
    text = "" if job.kind is JobKind.CONSOLIDATE else gist(pages, job.name)
    return [Page(1, text)] if text else []


def without_gist(learned: Learned) -> Learned:
    """The last section learned what the document is about, and is no chunk's."""
    *sections, last = learned.sections
    metrics = replace(learned.metrics, gist=last, chunks=learned.metrics.chunks - 1)
    return replace(learned, sections=tuple(sections), metrics=metrics)


def check_learned(learned: Learned, chunks: Sequence[Chunk]) -> None:
    """Weights that are not finite, or don't cover the document, are never kept. Raises: LearningFailed."""
    if not (math.isfinite(learned.metrics.final_loss) and math.isfinite(learned.metrics.delta_norm)):
        raise LearningFailed("Learning this document went wrong and was undone; nothing was kept.")
    if not learned.tensors or len(learned.sections) != len(chunks):
        raise LearningFailed


def new_id() -> str:
    """Eight letters and digits, 40 random bits: short enough to type."""
    return base64.b32encode(secrets.token_bytes(5)).decode().lower()


@contextmanager
def _errors_logged(problem: str) -> Iterator[None]:
    """What a folder that can't be read or written keeps from being done waits for the next start."""
    try:
        yield
    except (OSError, StorageFailed):
        log.exception(problem)


def _advance(steps: Generator[Step, None, T], seconds: float) -> list[Step | T]:
    """The steps of so many seconds, at least one, and none that would go beyond them if it took as long as the one
    before it; after the last one what comes of them all."""
    end, took = time.monotonic() + seconds, 0.0
    done: list[Step | T] = []
    while not done or time.monotonic() + took < end:
        began = time.monotonic()
        try:
            done.append(next(steps))
        except StopIteration as finished:
            return [*done, finished.value]
        took = time.monotonic() - began
    return done


async def _await_unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """Await something that is given up, and None returned, as soon as `stop` is set."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stopped.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
