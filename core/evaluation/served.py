"""The product for the instrument: a real Service with its index, weights and runner, in a temporary folder.

The instrument is no part of the product, so it may know storage; nothing in the product imports this module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from core.answerer import Answerer
from core.device import BATCH_ROWS
from core.document.formats import DocumentText
from core.ports import Engine, Learned
from core.runner import Runner
from core.search.parameters import RankingParameters
from core.service import Service
from core.squad import Article
from core.types import Chunk, Document, Limits, Page, Step
from storage.folder import DataFolder
from storage.index import Index
from storage.weights import Weights

PAGE_END = "\f"  # between an article's paragraphs, as plain text has it between pages
ANY_SIZE = Limits(min_tokens=1, max_tokens=10**8, max_bytes=10**9)


class LearnsOnce:
    """An engine that learns a text once, in whatever channels it stands: the same weights come out again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.learned: dict[tuple[str, ...], Learned] = {}  # by the text of the chunks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        key = tuple(chunk.text for chunk in chunks)
        if key not in self.learned:
            self.learned[key] = yield from self._engine.learn(chunks, title=title)
        return self.learned[key]


@dataclass
class Served:
    """A service whose channels know articles of question sets."""

    service: Service
    grounded: Service  # the same, with the section's text in the prompt (ENGRAM_GROUND=true)
    index: Index
    weights: Weights
    runner: Runner
    engine: LearnsOnce
    documents: dict[tuple[str, int], Document] = field(default_factory=dict)  # by channel, and number of the article

    async def learn(
        self, channel: str, number: int, article: Article, tick: Callable[[int, int], None] = lambda done, total: None
    ) -> Document:
        """Have a channel learn an article, unless it knows it. Its paragraphs become the document's pages.

        Raises: what it failed of.
        """
        if known := self.documents.get((channel, number)):
            return known
        data = PAGE_END.join(article.text).encode()
        job = await self.service.submit(channel, article.title, data, by="bench")
        async for progress in self.service.watch(job.id):
            if progress.step:
                tick(progress.step.done, progress.step.total)
        if progress.failure:
            raise progress.failure
        assert progress.document  # it ended, and did not fail
        self.documents[channel, number] = progress.document
        return progress.document

    def learned(self, article: Article) -> Learned:
        """What learning it gave, before it was stored. Raises: KeyError, when no channel learned it."""
        chunks = tuple(chunk.text for chunk in self.engine.chunk(article_pages(article)))
        for texts, learned in self.engine.learned.items():
            if texts[: len(chunks)] == chunks and len(texts) <= len(chunks) + 1:  # the gist follows the chunks
                return learned
        raise KeyError(article.title)

    def number(self, channel: str, document_id: str) -> int:
        """Which article a document of a channel is."""
        for (owner, number), document in self.documents.items():
            if (owner, document.id) == (channel, document_id):
                return number
        raise KeyError(document_id)


@asynccontextmanager
async def open_service(
    load: Callable[[], Engine], *, ranking: RankingParameters | None = None, batch_rows: int = BATCH_ROWS
) -> AsyncIterator[Served]:
    """Everything wired and running, until it is left; then the folder goes.

    Args:
        load: gives the engine; called once, in the device's thread.
        ranking: instead of the numbers that belong to the model.
        batch_rows: of one batch of answers.

    Raises: SetupError, ModelNotFound.
    """
    with TemporaryDirectory(prefix="engram-bench-") as path, DataFolder(Path(path)) as folder:
        async with Index(folder.index) as index:
            weights = Weights(folder.weights, index.id)
            factory = lambda: LearnsOnce(load())  # noqa: E731
            async with Runner(factory, index, weights, ANY_SIZE, read=read_article, batch_rows=batch_rows) as runner:
                answerer = partial(Answerer, index, weights, runner.device, ranking=ranking)
                yield Served(
                    service=Service(index, weights, runner, answerer(), ANY_SIZE),
                    grounded=Service(index, weights, runner, answerer(ground=True), ANY_SIZE),
                    index=index,
                    weights=weights,
                    runner=runner,
                    engine=cast(LearnsOnce, await runner.device.ready()),
                )


async def read_article(data: bytes, limits: Limits, pages: tuple[int, int], **_progress: Any) -> DocumentText:
    """What `Served.learn` handed in, paragraph by paragraph. How files of people are read is measured elsewhere."""
    return DocumentText(tuple(Page(n, text) for n, text in enumerate(data.decode().split(PAGE_END), start=1)))


def article_pages(article: Article) -> list[Page]:
    """An article's paragraphs as pages, as `read_article` reads them."""
    return [Page(n, text) for n, text in enumerate(article.text, start=1)]
