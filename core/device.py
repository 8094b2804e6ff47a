"""One thread that owns the engine, and with it the model and the device.

Everything handed in is done first come, first served. Questions that wait at the same moment are answered in one batch.
Between two steps of learning the questions that are there are answered (`let_questions_go`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from core.errors import EngramError, ModelNotFound
from core.ports import Ask, Engine
from core.search.parameters import RankingParameters
from core.tracing import traced
from core.types import Completion

if TYPE_CHECKING:
    from core.search.closeness import Query

log = logging.getLogger(__name__)
T = TypeVar("T")

# Rows of one engine.answer call. A question has up to four: three sections and the base model; and in a thread three
# more, of its document.
BATCH_ROWS = 24
MAX_WAIT = 10.0  # seconds that a step of learning waits for questions
GATHER_SECONDS = 0.05  # seconds that a batch waits for the rows of a question whose search has just been computed


class PromptTokens(NamedTuple):
    """Of one prompt."""

    total: int
    document: int  # those of a document's text


RowAnswers = tuple[list[Completion], list[PromptTokens]]  # to one question: for each of its rows


class Device:
    """The engine behind one thread; made inside a running event loop.

    Args:
        engine_factory: loads the engine; blocking; called at most once, in the device's thread.
    """

    def __init__(self, engine_factory: Callable[[], Engine], *, batch_rows: int = BATCH_ROWS) -> None:
        self._engine_factory = engine_factory
        self._batch_rows = batch_rows
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._loading: asyncio.Future[Engine] | None = None
        self._waiting: deque[_Question] = deque()
        self._unsearched: deque[_Search] = deque()
        self._asked: set[asyncio.Future[None]] = set()  # questions from when they came until they are answered
        self._searched = 0  # questions whose search was computed since the last batch
        self._searched_at = 0.0  # when the last one was

    def load(self) -> asyncio.Future[Engine]:
        """Start to load the engine, unless that was done."""
        if self._loading is None:
            self._loading = self.run(self._load)
        return self._loading

    async def ready(self) -> Engine:
        """The engine, once it is loaded. Raises: SetupError."""
        return await asyncio.shield(self.load())

    @property
    def engine(self) -> Engine | None:
        """The engine, if it is loaded by now."""
        return self._loading.result() if self._loading and self._loaded and not self.load_error else None

    async def ranking(self) -> RankingParameters:
        """The numbers of the search that belong to the engine's model. Raises: SetupError."""
        await self.ready()
        return self._ranking

    @property
    def load_error(self) -> BaseException | None:
        """Why there is no engine, if loading it failed."""
        return self._loading.exception() if self._loading and self._loaded else None

    @property
    def _loaded(self) -> bool:
        return bool(self._loading and self._loading.done() and not self._loading.cancelled())

    def run(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Call in the device's thread."""
        return self._loop.run_in_executor(self._thread, function, *args)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a question, from its search to its answer, which are two turns in the thread."""
        answered = self._loop.create_future()
        self._asked.add(answered)
        try:
            yield
        finally:
            self._asked.discard(answered)
            answered.set_result(None)

    async def let_questions_go(self) -> float:
        """Wait until the questions that are here now are answered; those that come meanwhile are not waited for.
        Returns: seconds."""
        began = time.monotonic()
        if self._asked:
            await asyncio.wait(set(self._asked), timeout=MAX_WAIT)
        return time.monotonic() - began

    @traced("answer")
    async def answer(self, asks: Sequence[Ask]) -> RowAnswers:
        """Answer these rows in one batch, together with whoever else is waiting.

        Returns: for each row a completion, and the tokens of its prompt.
        """
        await self.ready()
        question = _Question(tuple(asks), self._loop.create_future())
        self._waiting.append(question)
        self._thread.submit(self._answer_waiting)  # one for each question, so none is left behind
        return await question.reply

    @traced("query")
    async def query(self, question: str) -> Query | None:
        """What the engine makes of a question, for the search; None where it makes nothing of it, or fails to: words
        find sections, too. Raises: SetupError."""
        await self.ready()
        search = _Search(question, self._loop.create_future())
        self._unsearched.append(search)
        self._thread.submit(self._search_waiting)
        return await search.reply

    @traced("follow-up")
    async def rewrite_question(self, history: Sequence[str], question: str) -> str:
        """A follow-up as the engine rewrites it; as it is where that fails. Raises: SetupError."""
        engine = await self.ready()
        try:
            return await self.run(engine.rewrite_question, history, question)
        except Exception:
            log.exception("a follow-up is asked as it is")
            return question

    def close(self) -> None:
        """Turn away who still waits; what runs in the thread runs to its end."""
        while self._waiting:
            _settle(self._waiting.popleft().reply, EngramError("Engram is stopping; ask again in a moment."))
        while self._unsearched:
            _settle(self._unsearched.popleft().reply, None)
        self._thread.shutdown(wait=False, cancel_futures=True)

    # In the device's thread

    def _load(self) -> Engine:
        try:
            engine = self._engine_factory()
            self._ranking = engine.ranking
            return engine
        except EngramError:
            raise
        except Exception as error:
            log.exception("the engine could not be loaded")
            raise ModelNotFound from error

    def _search_waiting(self) -> None:
        """Those that came while the thread was busy, in one batch."""
        if batch := self._take(self._unsearched):
            self._search_batch(batch)
            self._searched += len(batch)
            self._searched_at = time.monotonic()

    def _search_batch(self, batch: list[_Search]) -> None:
        engine = self.engine
        assert engine is not None  # `query` waited for it
        queries: Sequence[Query | None] = [None]
        try:
            queries = engine.queries([search.question for search in batch])
        except Exception:
            if len(batch) > 1:  # one bad question must not cost the others their search
                for search in batch:
                    self._search_batch([search])
                return
            log.exception("the search goes on by words alone")
        for search, query in zip(batch, queries, strict=True):
            self._loop.call_soon_threadsafe(_settle, search.reply, query)

    def _answer_waiting(self) -> None:
        """Questions that were searched together are asked together."""
        while len(self._waiting) < self._searched and time.monotonic() < self._searched_at + GATHER_SECONDS:
            time.sleep(0.002)
        self._searched = 0
        if batch := self._take(self._waiting):
            self._answer_batch(batch)

    def _take(self, waiting: deque[W]) -> list[W]:
        """The first ones that wait: of at most `batch_rows` rows together, but one at least."""
        batch: list[W] = []
        rows = 0
        while waiting and (not batch or rows + waiting[0].rows <= self._batch_rows):
            first = waiting.popleft()
            if not first.reply.done():  # done already: the asker has gone
                batch.append(first)
                rows += first.rows
        return batch

    def _answer_batch(self, batch: list[_Question]) -> None:
        engine = self.engine
        assert engine is not None  # `answer` waited for it
        replies: list[RowAnswers | EngramError] = []
        try:
            completions = engine.answer(list(chain.from_iterable(question.asks for question in batch)))
            start = 0
            for question in batch:
                stop = start + len(question.asks)
                replies.append((completions[start:stop], [prompt_tokens(engine, ask) for ask in question.asks]))
                start = stop
        except Exception as error:
            if len(batch) > 1:  # one bad row must not cost the others their answers
                for question in batch:
                    self._answer_batch([question])
                return
            if not isinstance(error, EngramError):
                log.exception("answering failed")
            replies = [error if isinstance(error, EngramError) else EngramError()]
        for question, reply in zip(batch, replies, strict=True):
            self._loop.call_soon_threadsafe(_settle, question.reply, reply)


class _Search(NamedTuple):
    """A question that waits for what the engine makes of it."""

    question: str
    reply: asyncio.Future[Query | None]
    rows: int = 1


class _Question(NamedTuple):
    """Rows that wait for one reply."""

    asks: tuple[Ask, ...]
    reply: asyncio.Future[RowAnswers]

    @property
    def rows(self) -> int:
        return len(self.asks)


W = TypeVar("W", _Search, _Question)


def prompt_tokens(engine: Engine, ask: Ask) -> PromptTokens:
    total = engine.prompt_tokens(ask.question, ask.context)
    return PromptTokens(total, total - engine.prompt_tokens(ask.question) if ask.context else 0)


def _settle(reply: asyncio.Future[T], value: T | EngramError) -> None:
    if reply.done():
        return
    if isinstance(value, EngramError):
        reply.set_exception(value)
    else:
        reply.set_result(value)
