"""What a person says is right, as one more section of a document; and the document without it again.

The other sections stay as they are, to the bit. A correction is learned from its question and answer as a page of its
own, which is what a citation names. It is kept when the document's own questions are answered as well as before, as
they would be asked: the search is rehearsed with the correction in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.errors import LearningFailed
from core.ports import Ask, Index, Learned, section_of, section_tensors
from core.search.parameters import RankingParameters
from core.search.ranking import ChunkKey, Hit, judge, sections_to_ask
from core.search.words import normalise
from core.squad import f1
from core.types import Chunk, Completion, Document, Page

if TYPE_CHECKING:
    from torch import Tensor

    from core.device import Device

PLACE = "a correction"  # what a citation calls its page
MIN_F1 = 0.5  # F1 from which an answer counts, as in the self-check
SAME_QUESTION = 0.75  # of the words of two questions: they ask for the same thing
Pairs = Sequence[tuple[str, str]]  # questions and their answers


@dataclass(frozen=True)
class Version:
    """What a document consists of."""

    pages: tuple[Page, ...]
    chunks: tuple[Chunk, ...]
    tensors: Mapping[str, Tensor]  # named SECTION/MODULE
    sections: tuple[int, ...]  # of each chunk
    gist: int | None = None  # section that learned what the whole is about

    def with_page(self, page: Page, chunks: Sequence[Chunk], learned: Learned) -> Version:
        """A page more, with the chunks that it was cut into and what was learned of them."""
        first = max(section_of(name) for name in self.tensors) + 1
        tensors = dict(self.tensors)
        for name, tensor in learned.tensors.items():
            section, _, module = name.partition("/")
            tensors[f"{first + int(section)}/{module}"] = tensor
        moved = tuple(first + section for section in learned.sections)
        chunks, sections = numbered([*self.chunks, *chunks]), (*self.sections, *moved)
        return Version((*self.pages, page), chunks, tensors, sections, self.gist)

    def without_page(self, number: int) -> Version:
        chunks, sections = [], []
        for chunk, section in zip(self.chunks, self.sections, strict=True):
            if chunk.start_page != number:
                chunks.append(chunk)
                sections.append(section)
        used = {*sections, self.gist}
        tensors = {name: tensor for name, tensor in self.tensors.items() if section_of(name) in used}
        pages = tuple(page for page in self.pages if page.number != number)
        return Version(pages, numbered(chunks), tensors, tuple(sections), self.gist)


def numbered(chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
    return tuple(replace(chunk, index=index) for index, chunk in enumerate(chunks))


def chunked(chunk: Callable[[Sequence[Page]], list[Chunk]], pages: Sequence[Page]) -> list[Chunk]:
    """The chunks of a document: those of its own text, then those of each correction. `chunk`: cuts a text."""
    chunks = chunk([page for page in pages if not page.correction])
    for page in pages:
        chunks += chunk([page]) if page.correction else []
    return list(numbered(chunks))


def page_of(number: int, question: str, answer: str, correction: str) -> Page:
    """What is learned of a correction. How its text reads was measured (LOG.md)."""
    text = f"{question.strip().rstrip('?.! ')}? {answer.strip().rstrip('.')}."
    return Page(number, text, places=((0, PLACE),), correction=correction)


class Rehearsal:
    """Asks a document questions as the service would, if it consisted of something else. Answers are remembered: a
    section that two versions share is asked once."""

    def __init__(self, device: Device, index: Index, document: Document, pause: Callable[[], None]) -> None:
        """pause: called before each question; what it raises ends the rehearsal."""
        self._device, self._index, self._document, self._pause = device, index, document, pause
        self._said: dict[tuple[str, int], Completion] = {}  # by question and section

    async def answers(self, version: Version, questions: Sequence[str]) -> list[str]:
        """Raises: EngramError."""
        ranking = await self._device.ranking()
        weights = replace(self._document.weights, sections=version.sections)
        document = replace(self._document, weights=weights)
        hits_of = await self._index.rehearse(document, version.chunks, questions, ranking.considered_chunks)
        answers = []
        for question, hits in zip(questions, hits_of, strict=True):
            answers.append(await self._answer(version, question, sections_to_ask(hits, ranking), ranking))
        return answers

    async def _answer(self, version: Version, question: str, asked: Sequence[Hit], ranking: RankingParameters) -> str:
        self._pause()
        asks: dict[int, Ask] = {}  # by section
        for hit in asked:
            if (question, hit.section) not in self._said:
                weights = section_tensors(version.tensors, hit.section)
                asks[hit.section] = Ask(question, weights, learner=self._document.weights.learner)
        completions, _ = await self._device.answer(list(asks.values())) if asks else ([], [])
        for section, completion in zip(asks, completions, strict=True):
            self._said[question, section] = completion
        given: dict[ChunkKey, Completion] = {hit.key: self._said[question, hit.section] for hit in asked}
        pages = {self._document.id: version.pages}
        best, _ = await asyncio.to_thread(judge, question, [asked], given, pages, ranking, gate=False)
        return best.completion.text if best else ""


async def check(rehearsal: Rehearsal, before: Version, after: Version, corrected: tuple[str, str], own: Pairs) -> None:
    """Whether a correction may be kept.

    Args:
        corrected: the question and what is right.
        own: the document's own questions and their answers; those that ask what is corrected are left out.

    Raises: LearningFailed, with what is wrong.
    """
    others = [pair for pair in own if not alike(pair[0], corrected[0])]
    questions = [question for question, _ in others]
    good = right(await rehearsal.answers(before, questions), others)
    still = right(await rehearsal.answers(after, questions), others)
    if still < good:
        raise LearningFailed(
            f"With this correction I get {still} of my own {len(others)} questions about the document right, and "
            f"without it {good}; so I left it out."
        )
    if not right(await rehearsal.answers(after, [corrected[0]]), [corrected]):
        raise LearningFailed("I tried, and I still don't answer that question so; I left it out.")


def right(answers: Sequence[str], pairs: Pairs) -> int:
    """How many are right."""
    return sum(f1(given, [wanted]) >= MIN_F1 for given, (_, wanted) in zip(answers, pairs, strict=True))


def alike(one: str, other: str) -> bool:
    a, b = set(normalise(one)), set(normalise(other))
    return len(a & b) >= SAME_QUESTION * len(a | b)
