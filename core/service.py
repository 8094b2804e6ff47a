"""What Engram does: learn a document, ask about it, list, forget, reset. One method is one use case."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import unicodedata
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace

from core.consolidate import join_documents
from core.document.chunks import pages_of_text
from core.document.formats import check_size, recognise
from core.document.text import one_line
from core.errors import AlreadyKnown, NotFound, Refused
from core.ports import Answerer, Inbox, Index, Runner, Weights
from core.runner import new_id
from core.tracing import traced
from core.types import (
    ALL_PAGES,
    Answer,
    Correction,
    Document,
    Job,
    JobKind,
    Limits,
    Progress,
    Stage,
    Status,
    WeightsRecord,
)

log = logging.getLogger(__name__)

MAX_NAME = 120  # characters of a document's name
MAX_QUESTION = 1_000  # characters
MAX_CORRECTION = 300  # characters


class Service:
    """The use cases, for any platform and the terminal. A channel never sees another channel's documents."""

    def __init__(
        self, index: Index, weights: Weights, runner: Runner, answerer: Answerer, limits: Limits | None = None
    ) -> None:
        self.inbox: Inbox = index
        self._index = index
        self._weights = weights
        self._runner = runner
        self._answerer = answerer
        self._limits = limits or Limits()
        # By channel: no upload during a reset
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # Learn

    async def submit(
        self, channel: str, name: str, data: bytes, *, by: str, reply_to: str = "", pages: tuple[int, int] = ALL_PAGES
    ) -> Job:
        """Queue a document to be learned. It is durable on return; what can be refused at once is refused here.

        Args:
            pages: the first and the last one to learn; another part of a file is another document.

        Raises: UnsupportedFormat, DocumentTooBig, AlreadyKnown; SetupError when there is no engine to learn it.
        """
        if self._runner.load_error:
            raise self._runner.load_error
        check_size(len(data), self._limits)
        recognise(data)
        digest = await asyncio.to_thread(sha256, data, pages)
        job = new_job(channel, harmless_name(name), digest, by, reply_to)
        try:
            return await self._queue(job, data, pages=pages)
        except AlreadyKnown as known:
            if not known.document_id:  # it is being learned
                raise
            if await self._answerer.is_usable(channel, known.document_id):
                raise
            return await self._queue(job, data, pages=pages, again=True)

    async def relearn(self, channel: str) -> list[Job]:
        """Queue what can't be asked any more, its weights being damaged or of another base model, to be learned again
        from the text that is kept. Returns the jobs; each takes its document's place when it is done.

        Raises: Refused, when of one of them no text is kept; SetupError.
        """
        reply_to = {job.document_id: job.reply_to for job in await self._index.jobs(channel=channel, unfinished=False)}
        jobs = []
        for document in reversed(await self._index.documents(channel)):  # the oldest first
            if await self._answerer.is_usable(channel, document.id):
                continue
            if not await self._index.pages(document.id):
                raise Refused(f"The text of {document.name} is not kept; hand it in again.")
            place = reply_to.get(document.id, "")
            job = new_job(channel, document.name, document.sha256, document.learned_by, place)
            job = replace(job, kind=JobKind.RELEARN, sources=(document.id,))
            with suppress(AlreadyKnown):  # it is being learned
                jobs.append(await self._queue(job, again=True))
        return jobs

    async def consolidate(self, channel: str, *, by: str, share: int) -> tuple[Job, list[Document]]:
        """Queue all documents of a channel to be learned again as one, `share` chunks to a section.

        Returns: the job, and the documents that may be forgotten once it is done.

        Raises: Refused (fewer than two documents, too long together, no text kept), AlreadyKnown.
        """
        documents = (await self._index.documents(channel))[::-1]  # the oldest first
        tokens = sum(document.tokens for document in documents)
        if len(documents) < 2:
            raise Refused("There are no two documents to put together in this channel.")
        if tokens > self._limits.max_tokens:
            most = pages_of_text(self._limits.max_tokens)
            raise Refused(f"Together these documents have {pages_of_text(tokens)}; I can learn {most} at once.")
        join_documents([(document.name, await self._index.pages(document.id)) for document in documents])
        name = f"{documents[0].name[: MAX_NAME - 12]} and {len(documents) - 1} more"
        digest = sha256("\n".join([f"{share}", *(document.sha256 for document in documents)]).encode())
        sources = tuple(document.id for document in documents)
        job = replace(new_job(channel, name, digest, by), kind=JobKind.CONSOLIDATE, sources=sources, share=share)
        return await self._queue(job), documents

    async def _queue(
        self, job: Job, data: bytes = b"", *, pages: tuple[int, int] = ALL_PAGES, again: bool = False
    ) -> Job:
        async with self._changing[job.channel]:
            await self._runner.store_ends()  # this document's last job may be among them
            job = await self._index.add_job(job, data, pages=pages, again=again)
        await self._runner.wake()
        return job

    def watch(self, job_id: str) -> AsyncIterator[Progress]:
        """Follow a job from now until after its final stage. Raises: NotFound, SetupError."""
        return self._runner.watch(job_id)

    async def cancel(self, channel: str, job_id: str | None = None) -> list[Job]:
        """End one of the channel's jobs, or all; returns them as they ended. Raises: NotFound."""
        jobs = await self._index.jobs(channel=channel)
        if job_id is not None:
            jobs = [job for job in jobs if job.id == job_id]
            if not jobs:
                raise NotFound("That is not being learned in this channel.")
        return [await self._runner.cancel(job.id) for job in jobs]

    async def jobs(self, channel: str, *, unfinished: bool = True) -> list[Job]:
        """The channel's jobs, the next one first; without `unfinished` those that have ended, too."""
        return await self._index.jobs(channel=channel, unfinished=unfinished)

    async def pending_deliveries(self) -> list[Job]:
        """Jobs whose channel has not been told how they ended; unfinished ones too. For the start of a platform."""
        unfinished = await self._index.jobs()  # first: what ends meanwhile is then found undelivered
        jobs = {job.id: job for job in [*unfinished, *await self._index.undelivered()]}
        return sorted(jobs.values(), key=lambda job: job.created_at)

    async def delivered(self, job_id: str) -> None:
        """The channel has been told how this job ended."""
        await self._index.mark_delivered(job_id)

    # Ask

    @traced("ask")
    async def ask(
        self, channel: str, question: str, *, document: str | None = None, by: str = "", thread: str = ""
    ) -> Answer:
        """Answer from the weights of the document that the question points at, beside the base model; from the base
        model alone when it points at none. In a thread, the document that answered there last is asked first, unless
        the question clearly points at another one.

        Args:
            document: id, name or beginning of one, to ask this document and no other.
            thread: the platform's id of the thread that it is asked in; "": in none. The answer stands there.

        Raises: Refused (question empty or too long), NotFound, WeightsDamaged, WrongBaseModel, SetupError.
        """
        question = check_question(question)
        named = (await self._index.find_document(channel, document)).id if document else ""
        answer = await self._answerer.ask(channel, question, named, thread)
        return replace(answer, id=await self._index.add_answer(channel, answer, asked_by=by, thread=thread))

    async def likely(self, document: Document, questions: Sequence[str]) -> list[str]:
        """Those of the questions about a document that it answers well. Nothing is stored."""
        return await self._answerer.likely(document.channel, document.id, questions)

    async def placed(self, channel: str, answer_id: str, thread: str) -> None:
        """An answer opened this thread, or was shared there, and what is asked there goes to its document first. A
        private answer opens none: it stands where it was asked."""
        await self._index.place_answer(channel, answer_id, thread)

    async def feedback(self, channel: str, answer_id: str, *, by: str, helpful: bool, correction: str = "") -> None:
        """What somebody thinks of an answer. Raises: NotFound."""
        correction = one_line(correction)[:MAX_CORRECTION]
        await self._index.feedback(channel, answer_id, by=by, helpful=helpful, correction=correction)

    async def corrections(self, channel: str) -> list[Correction]:
        """The channel's answers that were called wrong, the oldest first, with what is right where somebody said it."""
        return await self._index.corrections(channel)

    async def correction(self, channel: str, correction_id: str) -> Correction:
        """Raises: NotFound."""
        for correction in await self._index.corrections(channel):
            if correction.id == correction_id:
                return correction
        raise NotFound("This correction is not stored any more.")

    async def learn_correction(
        self, channel: str, correction_id: str, *, by: str, reply_to: str = "", undo: bool = False
    ) -> Job:
        """Queue a correction to be learned as a section of its document; with `undo` to be taken out again.

        Raises: NotFound, Refused (nothing to learn, or learned already, or no text kept), AlreadyKnown.
        """
        given = await self.correction(channel, correction_id)
        if not given.correction or not given.document_id:
            raise Refused("Nobody said what is right, so there is nothing to learn.")
        if given.learned != undo:
            raise Refused("I don't know that any more." if undo else "I have learned that already.")
        document = await self._index.find_document(channel, given.document_id)
        if not await self._index.pages(document.id):
            raise Refused(f"The text of {document.name} is not kept, so I can't check what a correction does to it.")
        job = new_job(channel, document.name, document.sha256, by, reply_to)
        job = replace(job, kind=JobKind.CORRECT, sources=(document.id, correction_id))
        return await self._queue(job, again=True)

    async def forget_person(self, person: str) -> int:
        """Erase what somebody asked, and said about answers, in every channel; what was learned from that person stays
        its channel's. Returns the number of questions and remarks."""
        return await self._index.forget_person(person)

    async def answer(self, channel: str, answer_id: str) -> Answer:
        """An answer as it was given. Raises: NotFound, also when its document was forgotten since."""
        return await self._index.answer(channel, answer_id)

    async def share(self, channel: str, answer_id: str, *, by: str) -> Answer | None:
        """A private answer, to be shown to all by the person who asked for it; None when it was shared before.

        Raises: NotFound."""
        return await self._index.share_answer(channel, answer_id, by=by)

    # Manage

    async def documents(self, channel: str) -> list[Document]:
        return await self._index.documents(channel)

    async def forget(self, channel: str, key: str) -> Document:
        """Erase one document: its rows, then its weights. The other documents answer as before. Raises: NotFound."""
        document = await self._index.find_document(channel, key)
        await self._delete([await self._index.forget(channel, document.id)])
        return document

    async def reset(self, channel: str) -> int:
        """Erase all that a channel handed in and asked, and end its jobs. Returns the number of documents erased."""
        async with self._changing[channel]:
            await self.cancel(channel)
            erased = await self._index.reset(channel)
            await self._delete(erased)
            await asyncio.to_thread(self._weights.erase_trash, channel)
        return len(erased)

    async def channels(self, prefix: str) -> list[str]:
        """Those whose id begins so and of which anything is stored."""
        return await self._index.channels(prefix)

    async def settings(self, channel: str) -> dict[str, str]:
        """What was changed for this channel, by name; erased with it."""
        return await self._index.channel_settings(channel)

    async def change_setting(self, channel: str, name: str, value: str) -> None:
        await self._index.change_setting(channel, name, value)

    async def status(self, channel: str) -> Status:
        """Never waits for the engine: while it loads, or when it can't be loaded, a note says so."""
        engine, jobs = self._runner.engine, await self._index.jobs()
        documents = await self._index.documents(channel)
        running = [job for job in jobs if job.stage is not Stage.QUEUED]
        status = Status(
            documents=len(documents),
            queued=len(jobs) - len(running),
            running=running[0] if running else None,
            data_bytes=sum(document.weights.bytes for document in documents),
        )
        if engine is None:
            return replace(status, notes=(str(self._runner.load_error or "The model is being loaded."),))
        return replace(
            status,
            model=engine.name,
            fingerprint=engine.fingerprint,
            device=engine.device,
            dtype=engine.dtype,
            learner=engine.learner,
        )

    async def _delete(self, records: Sequence[WeightsRecord]) -> None:
        """A file that can't be deleted now stays listed as unused; the next start deletes it."""
        deleted = []
        for record in records:
            try:
                await asyncio.to_thread(self._weights.delete, record.document_id)
                deleted.append(record.document_id)
            except OSError:
                log.exception("the weights of document %s could not be deleted", record.document_id)
        if deleted:
            await self._index.weights_deleted(deleted)


def new_job(channel: str, name: str, digest: str, by: str, reply_to: str = "") -> Job:
    return Job(
        id=new_id(),
        channel=channel,
        name=name,
        sha256=digest,
        requested_by=by,
        reply_to=reply_to,
        created_at=time.time(),
    )


def check_question(question: str) -> str:
    """The question, trimmed. Raises: Refused."""
    question = question.strip()
    if not question:
        raise Refused("There is no question; ask something.")
    if len(question) > MAX_QUESTION:
        raise Refused(f"This question has {len(question):,} characters; ask it in {MAX_QUESTION:,} at most.")
    return question


def harmless_name(name: str) -> str:
    """A file name that is safe to show on one line: no folders, no control or direction characters, not too long."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    return one_line("".join(filter(_is_shown, last)))[-MAX_NAME:].strip(" .") or "document.pdf"


def _is_shown(character: str) -> bool:
    return character.isspace() or not unicodedata.category(character).startswith("C")


def sha256(data: bytes, pages: tuple[int, int] = ALL_PAGES) -> str:
    """Of a file; of a part of it, another one."""
    part = b"" if pages == ALL_PAGES else b"engram: pages %d-%d\n" % pages
    return hashlib.sha256(part + data).hexdigest()
