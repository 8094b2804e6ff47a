"""To look at what Engram did: the text as it is learned, the prompt, what each layer changed, what reading would say.

For the playground and for notebooks; nothing here is stored, and no use case needs it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from operator import attrgetter

from core.device import Device, prompt_tokens
from core.document.chunks import check_length
from core.document.formats import DocumentText
from core.errors import WrongBaseModel
from core.ports import Ask, Index, Weights, section_tensors
from core.types import ALL_PAGES, Answer, Chunk, Completion, Limits, count_tokens

MAX_HITS = 50  # chunks of a document that a question points at, at most


@dataclass(frozen=True)
class Preview:
    """A document before it is learned."""

    pages: int
    chunks: tuple[Chunk, ...]  # the sections, each of which becomes a delta
    notes: tuple[str, ...]  # what was left out or looks wrong
    place: str  # what its pages are called

    @property
    def tokens(self) -> int:
        return count_tokens(self.chunks)


@dataclass(frozen=True)
class Prompt:
    """What the model was given."""

    text: str  # with its marks
    tokens: int
    document_tokens: int  # of them, those of a document's text


class Inspection:
    def __init__(
        self,
        index: Index,
        weights: Weights,
        device: Device,
        limits: Limits,
        read: Callable[..., Awaitable[DocumentText]],
    ) -> None:
        """read: as the runner's."""
        self._index, self._weights, self._device, self._limits, self._read = index, weights, device, limits, read

    async def preview(self, data: bytes, pages: tuple[int, int] = ALL_PAGES) -> Preview:
        """What these pages of a document become. Raises: Refused, SetupError."""
        document = await self._read(data, self._limits, pages)
        engine = await self._device.ready()
        chunks = await self._device.run(engine.chunk, document.pages)
        preview = Preview(len(document.pages), tuple(chunks), document.notes, document.place)
        check_length(preview.tokens, self._limits, document.pages, document.place)
        return preview

    async def prompt(self, question: str, context: str = "") -> Prompt:
        """The prompt of a question. Raises: SetupError."""
        engine = await self._device.ready()

        def read() -> Prompt:
            return Prompt(engine.prompt(question, context), *prompt_tokens(engine, Ask(question, context=context)))

        return await self._device.run(read)

    async def reading(self, channel: str, answer: Answer) -> tuple[Completion, Prompt] | None:
        """The same question, answered with the text of the section whose weights answered in the prompt, and no weights
        attached; None where none did, or where no text is kept. Raises: NotFound, SetupError."""
        text = await self.section_text(channel, answer)
        if not text:
            return None
        question = answer.understood or answer.question
        [completion], _ = await self._device.answer([Ask(question, context=text)])
        return completion, await self.prompt(question, text)

    async def section_text(self, channel: str, answer: Answer) -> str:
        """The text of the section whose weights answered; "" where none did, or where no text is kept.

        Raises: NotFound."""
        if answer.document is None or answer.section is None:
            return ""
        document = await self._index.find_document(channel, answer.document.id)
        if not await self._index.pages(document.id):
            return ""
        question = answer.understood or answer.question
        hits = await self._index.candidates(channel, question, document_id=document.id, limit=MAX_HITS)
        in_section = [hit for hit in hits if hit.section == answer.section]
        in_section.sort(key=attrgetter("chunk"))
        return "".join(hit.text for hit in in_section)

    async def layer_norms(self, channel: str, document_id: str) -> dict[int, float]:
        """L2 norm of the weight change by layer, over all sections. Raises: NotFound, WeightsDamaged ..."""
        from core.learning.norms import layer_norms

        document = await self._index.find_document(channel, document_id)
        engine = await self._device.ready()
        if document.weights.base != engine.fingerprint:
            raise WrongBaseModel

        def add_up() -> dict[int, float]:
            tensors = self._weights.load_all(document.weights, channel)
            squares: defaultdict[int, float] = defaultdict(float)
            for section in sorted({*document.weights.sections}):
                for layer, norm in layer_norms(section_tensors(tensors, section)).items():
                    squares[layer] += norm**2
            return {layer: square**0.5 for layer, square in sorted(squares.items())}

        return await asyncio.to_thread(add_up)
