"""Answers from weights: which sections a question is put to, their answers in one batch, and which of them is given."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from core.device import Device
from core.document.gist import without_frame
from core.errors import ForgottenMeanwhile, NoGist, NotFound, WeightsDamaged, WrongBaseModel
from core.ports import Ask, Index, Weights
from core.search.citation import cite, closest_place
from core.search.closeness import closeness
from core.search.followup import MAX_HISTORY, needs_history
from core.search.parameters import RankingParameters
from core.search.ranking import Hit, by_closeness, distinct, groups_to_ask, judge, sections_to_ask
from core.search.whole import GIST_QUESTION, asks_about_whole, summed_up
from core.tracing import span, traced
from core.types import Answer, Certainty, Completion, Document, DocumentRef, Page

if TYPE_CHECKING:
    from torch import Tensor


class Answerer:
    """Implements core.ports.Answerer, beside the device. It stores nothing."""

    def __init__(
        self,
        index: Index,
        weights: Weights,
        device: Device,
        *,
        floor: float = 0.0,
        ground: bool = False,
        ranking: RankingParameters | None = None,
    ) -> None:
        """
        Args:
            floor: confidence below which an answer from weights is not given.
            ground: whether a section's text stands in the prompt beside its weights.
            ranking: instead of the numbers that belong to the model.
        """
        self._index = index
        self._weights = weights
        self._device = device
        self._floor = floor
        self._ground = ground
        self._ranking = ranking
        self._fetching: set[asyncio.Task[None]] = set()

    async def ask(self, channel: str, question: str, named: str = "", thread: str = "") -> Answer:
        with self._device.asking():
            if asks_about_whole(question) and (document := await self._document_to_summarise(channel, named, thread)):
                return await self._sum_up(question, document)
            return await self._ask_sections(channel, question, named, thread)

    async def likely(self, channel: str, document_id: str, questions: Sequence[str]) -> list[str]:
        asking = []
        for question in questions:
            asked = await self._sections_to_ask(channel, question, document_id)
            asking.append(self._answer(question, asked, gate=False, compare=False))
        answers = await asyncio.gather(*asking)
        return [answer.question for answer in answers if answer.certainty is Certainty.LIKELY]

    async def is_usable(self, channel: str, document_id: str) -> bool:
        document = await self._index.find_document(channel, document_id)
        try:
            await self._load(document, document.weights.sections[0])
        except (WeightsDamaged, WrongBaseModel):
            return False
        return True

    async def _ask_sections(self, channel: str, question: str, named: str, thread: str) -> Answer:
        understood = await self._understand(channel, question, thread)
        asked = await self._sections_to_ask(channel, understood, named, thread)
        answer = await self._answer(understood, asked, gate=not named)
        if thread:
            self._prefetch(answer, asked)
        return answer if understood == question else replace(answer, question=question, understood=understood)

    def _prefetch(self, answer: Answer, asked: Sequence[Sequence[Hit]]) -> None:
        """What the thread's next questions may need, while this answer is read."""
        for hit in chain.from_iterable(asked):
            if answer.document and (hit.document.id, hit.section) == (answer.document.id, answer.section):
                fetching = asyncio.create_task(
                    asyncio.to_thread(self._weights.prefetch, hit.document.weights, hit.section)
                )
                self._fetching.add(fetching)
                fetching.add_done_callback(self._fetching.discard)
                return

    async def _document_to_summarise(self, channel: str, named: str, thread: str) -> Document | None:
        """The document that a question about a whole one means: the one that is named, the thread's, else the newest;
        None where the channel knows none."""
        documents = await self._index.documents(channel)  # the newest first
        wanted = named or (await self._index.thread_document(channel, thread) if thread else None)
        for document in documents:
            if document.id == wanted:
                return document
        return documents[0] if documents else None

    async def _sum_up(self, question: str, document: Document) -> Answer:
        """From the weights that learned what the whole document is about. Raises: NoGist, WeightsDamaged,
        WrongBaseModel, SetupError."""
        section = document.metrics.gist
        if section is None:
            raise NoGist
        weights = await self._load(document, section)
        ask = Ask(GIST_QUESTION, weights=weights, learner=document.weights.learner)
        (learned, base), tokens = await self._device.answer([ask, Ask(question)])
        learned = replace(learned, text=without_frame(learned.text))
        pages = await self._index.pages(document.id)
        certainty, cited = await asyncio.to_thread(summed_up, learned, pages, document.name)
        if certainty is Certainty.ABSENT:
            raise NoGist
        return Answer(
            question=question,
            base=base,
            learned=learned,
            document=DocumentRef(document.id, document.name),
            prompt_tokens=tokens[0].total,
            pages=cited,
            places=_cited_places(pages, cited, question, learned.text),
            certainty=certainty,
            section=section,
        )

    async def _understand(self, channel: str, question: str, thread: str) -> str:
        """The question; in a thread a follow-up made whole from the questions before it, never from the document."""
        if not thread or not needs_history(question):
            return question
        history = await self._index.thread_questions(channel, thread, MAX_HISTORY)
        return await self._device.rewrite_question(history, question) if history else question

    async def _sections_to_ask(self, channel: str, question: str, named: str = "", thread: str = "") -> list[list[Hit]]:
        """Whose weights a question is put to: those of a document that is named; else of the channel's documents and,
        in a thread, of the one that answered there last. Within a document words find the section as well as closeness
        does (LOG.md)."""
        ranking = await self._parameters()
        within = partial(self._index.candidates, channel, question, limit=ranking.considered_chunks)
        if named:
            return [sections_to_ask(await within(document_id=named), ranking)]
        last = await self._index.thread_document(channel, thread) if thread else None
        in_thread = await within(document_id=last) if last else []
        return groups_to_ask(await self._search(channel, question, ranking), in_thread, ranking)

    @traced("search")
    async def _search(self, channel: str, question: str, ranking: RankingParameters) -> list[Hit]:
        """What the question points at in a channel, by words and closeness; nothing where it knows no document."""
        hits = await self._index.candidates(channel, question, limit=ranking.reranked_chunks)
        query = await self._device.query(question) if hits else None
        close = await asyncio.to_thread(closeness, query, [hit.code for hit in hits]) if query else None
        return by_closeness(hits, close, ranking)

    async def _answer(
        self, question: str, asked: Sequence[Sequence[Hit]], *, gate: bool = True, compare: bool = True
    ) -> Answer:
        """One batch: a row for each section, and the base model's; of the learned answers one is given, or none.

        Args:
            asked: groups of sections, those first whose answer is given where it is one.
            gate: whether an answer has to be about the question; else the base model answers alone.
            compare: with the base model's answer, which takes longer than the learned one.
        """
        ranking = await self._parameters()
        hits, weights, unusable = await self._load_all(distinct(asked).values())
        pages: dict[str, Sequence[Page]] = {}
        asks = []
        for hit, tensors in zip(hits, weights, strict=True):
            if hit.document.id not in pages:
                pages[hit.document.id] = await self._index.pages(hit.document.id)
            context = hit.text if self._ground and pages[hit.document.id] else ""
            learner = hit.document.weights.learner
            asks.append(Ask(question, weights=tensors, context=context, learner=learner))
        completions, tokens = await self._device.answer([*asks, Ask(question)] if compare else asks)
        base = completions.pop() if compare else Completion("", 0, 0.0)
        by_chunk = {hit.key: completion for hit, completion in zip(hits, completions, strict=True)}
        decide = partial(judge, question, asked, by_chunk, pages, ranking, floor=self._floor, gate=gate)
        with span("evidence"):
            best, certainty = await asyncio.to_thread(decide)
        row = list(by_chunk).index(best.hit.key) if best else -1  # the last is the base model's
        answer = Answer(
            question=question,
            base=base,
            learned=None,
            document=None,
            prompt_tokens=tokens[row].total,
            unusable=unusable,
            unrelated=best is None and bool(hits),
            certainty=certainty,
            document_tokens=tokens[row].document,
        )
        if best is None:
            return answer
        is_supported = bool(best.pages) and certainty is not Certainty.ABSENT
        return replace(
            answer,
            learned=best.completion,
            document=DocumentRef(best.hit.document.id, best.hit.document.name),
            pages=best.pages,
            places=_cited_places(pages[best.hit.document.id], best.pages, question, best.completion.text),
            section=best.hit.section,
            closest="" if is_supported else await self._closest_place(question, best.hit.document, hits, pages),
        )

    async def _closest_place(
        self, question: str, document: Document, hits: Sequence[Hit], pages: Mapping[str, Sequence[Page]]
    ) -> str:
        """Where to look in the document whose weights answered. hits: those that were asked."""
        of_document = [hit for hit in hits if hit.document.id == document.id]
        closest = max(of_document, key=lambda hit: hit.score)
        return await asyncio.to_thread(closest_place, pages[document.id], closest.text, question)

    async def _load_all(self, asked: Collection[Hit]) -> tuple[list[Hit], list[Mapping[str, Tensor]], tuple[str, ...]]:
        """The hits whose weights could be loaded, these weights, and the names of the other documents: one bad document
        fails no question that another can answer, nor does one that is forgotten meanwhile. Raises: when all did,
        what the first unusable one failed of, or ForgottenMeanwhile."""
        loads = (self._load(hit.document, hit.section) for hit in asked)
        results = await asyncio.gather(*loads, return_exceptions=True)
        hits: list[Hit] = []
        weights: list[Mapping[str, Tensor]] = []
        unusable: dict[str, WeightsDamaged | WrongBaseModel] = {}
        for hit, result in zip(asked, results, strict=True):
            if isinstance(result, WeightsDamaged | WrongBaseModel):
                unusable.setdefault(hit.document.name, result)
            elif isinstance(result, BaseException):
                if not isinstance(result, NotFound):  # it was forgotten
                    raise result
            else:
                hits.append(hit)
                weights.append(result)
        if unusable and not hits:
            name, problem = next(iter(unusable.items()))
            raise type(problem)(f"{name}: {problem}")
        if asked and not hits:
            raise ForgottenMeanwhile
        return hits, weights, tuple(unusable)

    async def _parameters(self) -> RankingParameters:
        return self._ranking or await self._device.ranking()

    @traced("load")
    async def _load(self, document: Document, section: int) -> Mapping[str, Tensor]:
        engine = await self._device.ready()
        load = partial(self._weights.load, base=engine.fingerprint, section=section)
        try:
            return await asyncio.to_thread(load, document.weights, document.channel)
        except WeightsDamaged:
            now = await self._index.find_document(document.channel, document.id)  # NotFound: forgotten a moment ago
            if now.id == document.id:
                raise
            return await self._load(now, section)  # corrected a moment ago: the other sections are the same


def _cited_places(pages: Sequence[Page], numbers: Sequence[int] | None, question: str, answer: str) -> tuple[str, ...]:
    """What the format calls the places where the answer stands, on the pages of these numbers."""
    cited = [page for page in pages if page.number in (numbers or ())]
    return tuple(dict.fromkeys(cite(page, question, answer) for page in cited))
