"""How much one person or one channel may ask of the bot: counted in memory, where a restart begins anew, or by all
front ends together in their database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bot.wording import in_words
from core.errors import QuotaReached
from core.ports import Usage, Used

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
MAX_KEYS = 10_000  # in memory; then those of the quiet are dropped


@dataclass(frozen=True)
class QuotaConfig:
    """Caps; 0 switches one off."""

    user_uploads_per_hour: int = 20
    channel_uploads_per_hour: int = 60
    user_pages_per_day: int = 1000
    channel_pages_per_day: int = 3000
    user_questions_per_minute: int = 10
    channel_questions_per_minute: int = 60
    user_commands_per_minute: int = 30  # everything that a person writes to the bot or presses, questions, too
    channel_documents: int = 200


class InMemory:
    """Implements core.ports.Usage for one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._used: dict[str, Used] = {}

    @asynccontextmanager
    async def usage(self, key: str) -> AsyncIterator[Used]:
        used = self._recent(key)
        yield used
        self._used[key] = used
        if len(self._used) > MAX_KEYS:
            for other in list(self._used):
                if not self._recent(other):
                    del self._used[other]

    def _recent(self, key: str) -> Used:
        return [(until, amount) for until, amount in self._used.get(key, []) if until > self.clock()]


@dataclass(frozen=True)
class Window:
    """A sliding window: at most `limit` units in any `period` seconds, for each key."""

    name: str
    limit: int
    period: float
    words: str

    def check(self, used: Used, now: float) -> None:
        """Raises: QuotaReached, with the seconds until there is room again."""
        if self.limit and sum(amount for _, amount in used) >= self.limit:
            wait = self._room_at(used) - now
            words = self.words.format(limit=self.limit)
            raise QuotaReached(f"{words}; try again in {in_words(wait)}.", retry_after=wait)

    def _room_at(self, used: Used) -> float:
        """When enough of the window has run off for one more unit."""
        left = sum(amount for _, amount in used)
        for until, amount in used:
            left -= amount
            if left < self.limit:
                return until
        raise AssertionError("with nothing left there is room")


class Quotas:
    """All windows; each method either lets the request pass and counts it, or raises QuotaReached."""

    def __init__(self, config: QuotaConfig, usage: Usage | None = None) -> None:
        """usage: where it is counted; None: in this process."""
        self.config = config
        self._usage = usage or InMemory()
        uploads, pages = "upload {limit} documents an hour", "upload {limit} pages a day"
        asks = "ask {limit} questions a minute"
        self._uploads = (
            Window("user uploads", config.user_uploads_per_hour, HOUR, f"You can {uploads}"),
            Window("channel uploads", config.channel_uploads_per_hour, HOUR, f"A channel can {uploads}"),
        )
        self._pages = (
            Window("user pages", config.user_pages_per_day, DAY, f"You can {pages}"),
            Window("channel pages", config.channel_pages_per_day, DAY, f"A channel can {pages}"),
        )
        self._questions = (
            Window("user questions", config.user_questions_per_minute, MINUTE, f"You can {asks}"),
            Window("channel questions", config.channel_questions_per_minute, MINUTE, f"A channel can {asks}"),
        )
        commands = "I take {limit} commands a minute from you"
        self._commands = Window("commands", config.user_commands_per_minute, MINUTE, commands)

    async def command(self, user: str) -> None:
        """Raises: QuotaReached."""
        await self._use({self._commands: user})

    async def upload(self, user: str, channel: str, documents: int) -> None:
        """One more document, where the channel has `documents` stored or queued. Raises: QuotaReached."""
        if self.config.channel_documents and documents >= self.config.channel_documents:
            limit = self.config.channel_documents
            raise QuotaReached(f"This channel has {limit} documents, the limit. Forget one first.")
        await self._use(_keys(self._pages, user, channel), 0)
        await self._use(_keys(self._uploads, user, channel))

    async def pages(self, user: str, channel: str, pages: int) -> None:
        """Count the pages of a document once they are known; the next upload feels them."""
        await self._use(_keys(self._pages, user, channel), pages, checked=False)

    async def question(self, user: str, channel: str) -> None:
        """Raises: QuotaReached."""
        await self._use(_keys(self._questions, user, channel))

    async def _use(self, keys: dict[Window, str], amount: int = 1, *, checked: bool = True) -> None:
        """All windows are asked before any is charged: a refused request costs nothing. Raises: QuotaReached."""
        now = self._usage.clock()
        async with AsyncExitStack() as stack:
            charged = []
            for window, key in keys.items():
                if window.limit:
                    used = await stack.enter_async_context(self._usage.usage(f"{window.name} {key}"))
                    charged.append((window, used))
                    if checked:
                        window.check(used, now)
            for window, used in charged:
                if amount:
                    used.append((now + window.period, amount))


def _keys(windows: tuple[Window, Window], user: str, channel: str) -> dict[Window, str]:
    return dict(zip(windows, (user, channel), strict=True))
