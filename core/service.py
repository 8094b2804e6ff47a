"""What Engram does: learn a document, ask about it, list, forget, reset. One method is one use case."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
import unicodedata
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from core.closeness import COMPARED
from core.consolidate import joined
from core.document.chunks import pages_of_text
from core.document.formats import check_size, recognise
from core.document.language import ENGLISH, language_of
from core.document.places import cite
from core.errors import AlreadyKnown, NotFound, Refused, WeightsDamaged, WrongBaseModel
from core.ports import Ask, Hit, Inbox, Index, Weights
from core.prompts import NOT_IN_TEXT
from core.runner import Runner, new_id
from core.search.evidence import asked_words, evidence, fits
from core.search.followup import REMEMBERED, needs_history
from core.tracing import traced
from core.types import (
    ALL_PAGES,
    Answer,
    Certainty,
    Completion,
    Correction,
    Document,
    DocumentRef,
    Job,
    JobKind,
    Limits,
    Progress,
    Stage,
    Status,
    WeightsRecord,
)

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

MAX_NAME = 120  # characters of a document's name
MAX_QUESTION = 1_000  # characters
HITS = 10  # chunks that are looked at for sections that may answer
ROUTED = 3  # sections that may answer a question
WITHIN = 3.0  # of the best hit's score makes a section worth asking (LOG.md)
LEAVES = 4.0  # more than that above a thread's document, and the question is about another one (LOG.md)
TRUST = 0.4  # nats of confidence that one of a hit's score is worth (LOG.md)
BORNE_OUT = 2.0  # nats that it is worth when the text bears an answer out (LOG.md)
ABOUT = 0.25  # share of a question's words from which the only section is about it, when its answer is sure (LOG.md)
UNSURE = 0.3  # so much more when the answer is not sure at all: weights doubt what they did not learn (LOG.md)
CHANCE = 0.01  # so much more for each e-fold of sections: the best of many holds more by chance (LOG.md)
ODDS = 0.2  # so much less for each nat of log-odds by closeness (LOG.md)
USUAL = -0.6  # beyond these (LOG.md)
SUPPORTED = 0.5  # share of what is asked, beside the answer, from which it is supported (LOG.md)
SURE_ENOUGH = 0.7  # confidence from which an answer that the text supports is likely (LOG.md)
SPAN = 12  # words of an answer that is taken from the text as it stands, at most
GUESSED = 0.8  # confidence below which an answer that the text does not support is no answer (LOG.md)
PDF_MAGIC = b"%PDF-"  # somewhere in the first 1,024 bytes


class Service:
    """The use cases, for any platform and the terminal. A channel never sees another channel's documents."""

    def __init__(
        self,
        index: Index,
        weights: Weights,
        runner: Runner,
        limits: Limits | None = None,
        *,
        floor: float = 0.0,
        ground: bool = False,
    ) -> None:
        self.inbox: Inbox = index
        self._index = index
        self._weights = weights
        self._runner = runner
        self._limits = limits or Limits()
        self._floor = floor  # confidence below which an answer from weights is not given
        self._ground = ground  # whether a section's text stands in the prompt beside its weights
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(
            asyncio.Lock
        )  # by channel: no upload during a reset

    # Learn

    async def submit(
        self,
        channel: str,
        name: str,
        data: bytes,
        *,
        by: str,
        reply_to: str = "",
        pages: tuple[int, int] = ALL_PAGES,
    ) -> Job:
        """Queue a document to be learned. It is durable on return; what can be refused at once is refused here.

        Args:
            pages: the first and the last one to learn; another part of a file is another document.

        Raises: NotAPdf, PdfTooBig, AlreadyKnown; SetupError when there is no engine to learn it.
        """
        if self._runner.device.load_error:
            raise self._runner.device.load_error
        check_size(len(data), self._limits)
        recognise(data)
        digest = await asyncio.to_thread(sha256, data, pages)
        job = new_job(channel, harmless_name(name), digest, by, reply_to)
        try:
            return await self._queue(job, data, pages=pages)
        except AlreadyKnown as known:
            if not known.document_id or await self._is_usable(
                await self._index.find_document(channel, known.document_id)
            ):
                raise
            return await self._queue(job, data, pages=pages, again=True)

    async def relearn(self, channel: str) -> list[Job]:
        """Queue what can't be asked any more, its weights being damaged or of another base model, to be learned again
        from the text that is kept. Returns the jobs; each takes its document's place when it is done.

        Raises: Refused, when of one of them no text is kept; SetupError.
        """
        documents = [d for d in await self._index.documents(channel) if not await self._is_usable(d)]
        replies = {job.document_id: job.reply_to for job in await self._index.jobs(channel=channel, unfinished=False)}
        jobs = []
        for document in documents[::-1]:  # the oldest first
            if not await self._index.pages(document.id):
                raise Refused(f"The text of {document.name} is not kept; hand it in again.")
            reply_to = replies.get(document.id, "")
            job = new_job(channel, document.name, document.sha256, document.learned_by, reply_to)
            job = replace(job, kind=JobKind.RELEARN, sources=(document.id,))
            with suppress(AlreadyKnown):  # it is being learned
                jobs.append(await self._queue(job, again=True))
        return jobs

    async def _is_usable(self, document: Document) -> bool:
        try:
            await self._load(document, document.weights.sections[0])
        except (WeightsDamaged, WrongBaseModel):
            return False
        return True

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
        joined([(document.name, await self._index.pages(document.id)) for document in documents])
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
                raise NotFound("Nothing of that kind is being learned in this channel.")
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
        understood = await self._understand(channel, question, thread)
        answer = await self._answer(channel, understood, document, thread)
        if understood != question:
            answer = replace(answer, question=question, understood=understood)
        return replace(answer, id=await self._index.add_answer(channel, answer, asked_by=by, thread=thread))

    async def _understand(self, channel: str, question: str, thread: str) -> str:
        """The question; in a thread a follow-up made whole from the questions before it, never from the document."""
        if not thread or not needs_history(question):
            return question
        history = await self._index.thread_questions(channel, thread, REMEMBERED)
        return await self._runner.device.whole_question(history, question) if history else question

    async def likely(self, document: Document, questions: Sequence[str]) -> list[str]:
        """Those of the questions about a document that it answers well. Nothing is stored."""
        found = [await self._within(document.id, document.channel, question) for question in questions]
        pairs = zip(questions, found, strict=True)
        asking = (self._ask_learned(question, hits, doubt=False, compare=False) for question, hits in pairs)
        given = await asyncio.gather(*asking)
        return [answer.question for answer in given if answer.certainty is Certainty.LIKELY]

    async def placed(self, channel: str, answer_id: str, thread: str) -> None:
        """An answer opened this thread, or was shared there, and what is asked there goes to its document first. A
        private answer opens none: it stands where it was asked."""
        await self._index.place_answer(channel, answer_id, thread)

    async def corrections(self, channel: str) -> list[Correction]:
        """The channel's answers that were called wrong, the oldest first, with what is right where somebody said it."""
        return await self._index.corrections(channel)

    async def feedback(self, channel: str, answer_id: str, *, by: str, helpful: bool, correction: str = "") -> None:
        """What somebody thinks of an answer. Raises: NotFound."""
        await self._index.feedback(
            channel, answer_id, by=by, helpful=helpful, correction=" ".join(correction.split())[:MAX_QUESTION]
        )

    async def answer(self, channel: str, answer_id: str) -> Answer:
        """An answer as it was given. Raises: NotFound, also when its document was forgotten since."""
        return await self._index.answer(channel, answer_id)

    async def share(self, channel: str, answer_id: str, *, by: str) -> Answer | None:
        """A private answer, to be shown to all by the person who asked for it; None when it was shared before.

        Raises: NotFound."""
        return await self._index.share_answer(channel, answer_id, by=by)

    async def _answer(self, channel: str, question: str, document: str | None, thread: str) -> Answer:
        """By the document that is named; else by that of the thread, as if the channel knew no other, unless the
        question clearly points at another one; where that gives no answer, by the channel's documents."""
        if document:
            named = await self._index.find_document(channel, document)
            return await self._ask_learned(question, await self._within(named.id, channel, question), doubt=False)
        hits = await self._search(channel, question)
        last = await self._index.thread_document(channel, thread) if thread else None
        if last and not points_elsewhere(hits, lambda hit: hit.document.id == last):
            answer = await self._ask_learned(question, await self._within(last, channel, question))
            if answer.learned and is_answer(answer.learned.text):
                return answer
        return await self._ask_learned(question, hits[:HITS])

    @traced("search")
    async def _within(self, document_id: str, channel: str, question: str) -> list[Hit]:
        """What the question points at in one document, whose words find the section as well as closeness (LOG.md)."""
        return await self._index.route(channel, question, document_id=document_id, limit=HITS)

    @traced("search")
    async def _search(self, channel: str, question: str) -> list[Hit]:
        """What the question points at in a channel, by closeness, too, where there are documents to choose from."""
        several = len(await self._index.documents(channel)) > 1
        query = await self._runner.device.query(question) if several else None
        return await self._index.route(channel, question, query=query, limit=COMPARED)

    async def _ask_learned(
        self, question: str, found: Sequence[Hit], doubt: bool = True, *, compare: bool = True
    ) -> Answer:
        """One batch: a row for each section that the question may be about, and the base model's. One section answers:
        its confidence, its place in the search and the pages that bear it out decide. `doubt`: the base model answers
        alone when nothing is about the question, or known. `compare`: with the base model's answer, which takes longer
        than the learned one."""
        hits = best_of_sections(found)
        if not hits:
            return await self._ask_base(question)
        tried = await asyncio.gather(*(self._load(hit.document, hit.section) for hit in hits), return_exceptions=True)
        hits, loaded, unusable = _usable(hits, tried)
        contexts = [await self._text_of(hit) if self._ground else "" for hit in hits]
        rows = [
            Ask(question, weights=weights, context=context, learner=hit.document.weights.learner)
            for weights, context, hit in zip(loaded, contexts, hits, strict=True)
        ]
        asks = [*rows, Ask(question)] if compare else rows
        completions, tokens = await self._runner.device.answer(asks)
        base = completions.pop() if compare else Completion("", 0, 0.0)
        borne_out = await self._borne_out(question, hits, completions)
        which = best_of(completions, [hit.score for hit in hits], borne_out)
        document, learned, pages = hits[which].document, completions[which], borne_out[which]
        if doubt and not is_about(hits[which], learned.confidence, pages):
            return Answer(question, base, None, None, tokens[-1].whole, unrelated=True, unusable=unusable)
        if learned.confidence < self._floor:
            learned, pages = replace(learned, text=NOT_IN_TEXT), pages and ()
        reference = DocumentRef(document.id, document.name)
        certain = certainty(question, learned, await self._evidence(question, learned.text, document, pages))
        places = await self._places(question, learned.text, document, pages)
        whole, of_document = tokens[which]
        return Answer(
            question, base, learned, reference, whole, pages,
            places=places, certainty=certain, document_tokens=of_document, unusable=unusable,
            section=hits[which].section,
        )  # fmt: skip

    async def _text_of(self, hit: Hit) -> str:
        """The text of a section; "" when none is kept."""
        texts = await self._index.chunk_texts(hit.document.id)
        kept = await self._index.pages(hit.document.id)
        return texts[hit.chunk] if kept and hit.chunk < len(texts) else ""

    async def _evidence(
        self, question: str, answer: str, document: Document, pages: Sequence[int] | None
    ) -> float | None:
        """Of what is asked, how much stands beside the answer on these pages; None when no text is kept."""
        if pages is None:
            return None
        texts = [page.text for page in await self._index.pages(document.id) if page.number in pages]
        return await asyncio.to_thread(evidence, texts, question, answer)

    async def _places(
        self, question: str, answer: str, document: Document, pages: Sequence[int] | None
    ) -> tuple[str, ...]:
        """What the format calls the places on these pages where the answer stands."""
        if not pages:
            return ()
        kept = [page for page in await self._index.pages(document.id) if page.number in pages]
        return tuple(dict.fromkeys(cite(page, question, answer) for page in kept))

    @traced("evidence")
    async def _borne_out(
        self, question: str, hits: Sequence[Hit], completions: Sequence[Completion]
    ) -> list[tuple[int, ...] | None]:
        """For each section's answer the pages of its document that bear it out; each document is read once."""
        places: dict[str, list[int]] = {}
        for at, hit in enumerate(hits):
            places.setdefault(hit.document.id, []).append(at)
        pages: dict[int, tuple[int, ...] | None] = {}
        for document, mine in places.items():
            found = await self._index.support(document, [completions[at].text for at in mine], question)
            pages |= zip(mine, found, strict=True)
        return [pages[at] for at in range(len(hits))]

    async def _ask_base(self, question: str) -> Answer:
        """The channel knows no document."""
        (base,), ((prompt_tokens, _),) = await self._runner.device.answer([Ask(question)])
        return Answer(question=question, base=base, learned=None, document=None, prompt_tokens=prompt_tokens)

    @traced("load")
    async def _load(self, document: Document, section: int) -> Mapping[str, Tensor]:
        engine = await self._runner.device.ready()
        load = partial(self._weights.load, base=engine.fingerprint, section=section)
        try:
            return await asyncio.to_thread(load, document.weights, document.channel)
        except WeightsDamaged:
            await self._index.find_document(document.channel, document.id)  # NotFound: forgotten a moment ago
            raise

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
        device, jobs = self._runner.device, await self._index.jobs()
        documents = await self._index.documents(channel)
        note = str(device.load_error or "The model is being loaded.")
        engine = device.engine
        return Status(
            model=engine.name if engine else "",
            fingerprint=engine.fingerprint if engine else "",
            device=engine.device if engine else "",
            dtype=engine.dtype if engine else "",
            learner=engine.learner if engine else "",
            documents=len(documents),
            queued=sum(job.stage is Stage.QUEUED for job in jobs),
            running=next((job for job in jobs if job.stage is not Stage.QUEUED), None),
            data_bytes=sum(document.weights.bytes for document in documents),
            notes=() if engine else (note,),
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


def _usable(
    hits: Sequence[Hit], tried: Sequence[Mapping[str, Tensor] | BaseException]
) -> tuple[list[Hit], list[Mapping[str, Tensor]], tuple[str, ...]]:
    """The hits whose weights could be loaded, these weights, and the names of the other documents: one bad document
    fails no question that another can answer. Raises: what the first one failed of, when all did."""
    problems = [problem for problem in tried if isinstance(problem, BaseException)]
    for problem in problems:
        if not isinstance(problem, WeightsDamaged | WrongBaseModel):
            raise problem
    good = [(hit, weights) for hit, weights in zip(hits, tried, strict=True) if not isinstance(weights, BaseException)]
    bad = [hit.document.name for hit, weights in zip(hits, tried, strict=True) if isinstance(weights, BaseException)]
    if not good:
        raise type(problems[0])(f"{bad[0]}: {problems[0]}")
    return [hit for hit, _ in good], [weights for _, weights in good], tuple(dict.fromkeys(bad))


def best_of_sections(hits: Sequence[Any], most: int = ROUTED) -> list[Any]:
    """The best hit of each section that is worth asking, in their order. A document that would take all places leaves
    the last one to the next document. hits: with document, section and score."""
    best: dict[tuple[Any, int], Any] = {}
    for hit in hits:
        if hit.score >= hits[0].score - WITHIN:
            best.setdefault((hit.document, hit.section), hit)
    found = list(best.values())
    asked, others = found[:most], [hit for hit in found[most:] if hit.document != found[0].document]
    if others and most > 1 and all(hit.document == found[0].document for hit in asked):
        asked[-1] = others[0]
    return asked


def points_elsewhere(hits: Sequence[Any], mine: Callable[[Any], bool]) -> bool:
    """Whether a question in a thread points at another document than the thread's own, by far.

    Args:
        hits: of the channel, best first, with their scores. What is not among them scores no better than the last.
        mine: whether a hit is the thread's document's.
    """
    own = next((hit.score for hit in hits if mine(hit)), hits[-1].score if hits else 0.0)
    return bool(hits) and hits[0].score - own > LEAVES


def best_of(
    completions: Sequence[Completion], scores: Sequence[float], pages: Sequence[Sequence[int] | None] = ()
) -> int:
    """Which section answers: the surest, with regard to its score in the search and to the pages that bear its answer
    out, where they are known. One that says "not in the text" only when all do."""

    def order(i: int) -> tuple[bool, float]:
        given, borne_out = completions[i], bool(pages and pages[i])
        sure = math.log(max(given.confidence, 1e-9)) + TRUST * scores[i] + BORNE_OUT * borne_out
        return is_answer(given.text), sure

    return max(range(len(completions)), key=order)


def certainty(question: str, learned: Completion, share: float | None) -> Certainty:
    """How far a learned answer can be trusted. One that no sentence supports, or of another kind than its question
    wants, is never likely.

    Args:
        share: of what is asked, that stands beside the answer in the text; None when no text is kept.
    """
    if not is_answer(learned.text) or not learned.text.strip():
        return Certainty.ABSENT
    is_plausible = fits(question, learned.text) and bool(asked_words(question))  # "What is it?" asks for anything
    is_plausible = is_plausible and language_of(question) == ENGLISH  # of others 2 of 17 were right (LOG.md)
    is_supported = share is not None and share >= SUPPORTED and is_plausible
    if is_supported and learned.confidence >= SURE_ENOUGH:
        return Certainty.LIKELY
    is_short = len(learned.text.split()) <= SPAN  # a longer answer may be in words of its own
    if share == 0.0 and is_short and learned.confidence < GUESSED:
        return Certainty.ABSENT
    return Certainty.UNSURE


def is_answer(text: str) -> bool:
    """Whether weights say more than that the text does not hold the answer."""
    return text != NOT_IN_TEXT


def is_about(hit: Any, sure: float, pages: Sequence[int] | None) -> bool:
    """Whether the section that answers is about the question: it holds enough of its words, counting its closeness, or
    the text bears the answer out.

    Args:
        hit: the section's, with share, among and odds. The more chunks were searched, the more of the question's words
            stand in the best of them by chance.
        sure: confidence of the answer, 0..1.
        pages: those that bear the answer out; None when no text is kept.
    """
    bar = ABOUT + UNSURE * (1 - sure) + CHANCE * math.log(hit.among)
    closer = ODDS * (hit.odds - USUAL) if hit.odds is not None else 0.0
    return hit.share + closer >= bar or bool(pages)


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
        raise Refused(f"This question has {len(question):,} characters; the limit is {MAX_QUESTION:,}.")
    return question


def harmless_name(name: str) -> str:
    """A file name that is safe to show on one line: no folders, no control or direction characters, not too long."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    visible = "".join(" " if c.isspace() else c for c in last if c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join(visible.split())[-MAX_NAME:].strip(" .") or "document.pdf"


def sha256(data: bytes, pages: tuple[int, int] = ALL_PAGES) -> str:
    """Of a file; of a part of it, another one."""
    part = b"" if pages == ALL_PAGES else b"engram: pages %d-%d\n" % pages
    return hashlib.sha256(part + data).hexdigest()
