"""How much one person or one channel may ask of the bot. Windows live in memory: a restart begins them anew."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from bot.wording import in_words
from core.errors import QuotaReached

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
MANY_KEYS = 10_000  # users or channels in one window


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


class Window:
    """A sliding window: at most `limit` units in any `period` seconds, for each key."""

    def __init__(self, limit: int, period: float, words: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.period, self.words, self._clock = limit, period, words, clock
        self._taken: dict[str, deque[tuple[float, int]]] = defaultdict(deque)

    def check(self, key: str) -> None:
        """Raises: QuotaReached, with the seconds until there is room again."""
        taken = self._recent(key)
        if not self.limit or sum(amount for _, amount in taken) < self.limit:
            return
        wait = self._room_at(taken) - self._clock()
        raise QuotaReached(f"{self.words.format(limit=self.limit)}; try again in {in_words(wait)}.", retry_after=wait)

    def take(self, key: str, amount: int = 1) -> None:
        if self.limit and amount:
            self._taken[key].append((self._clock(), amount))
        if len(self._taken) > MANY_KEYS:
            for other in list(self._taken):
                self._recent(other)  # no memory is kept for the quiet

    def _recent(self, key: str) -> deque[tuple[float, int]]:
        taken = self._taken[key]
        while taken and taken[0][0] <= self._clock() - self.period:
            taken.popleft()
        if not taken:
            return self._taken.pop(key)
        return taken

    def _room_at(self, taken: deque[tuple[float, int]]) -> float:
        """When enough of the window has run off for one more unit."""
        left = sum(amount for _, amount in taken)
        for taken_at, amount in taken:
            left -= amount
            if left < self.limit:
                return taken_at + self.period
        return self._clock()


class Quotas:
    """All windows; each method either lets the request pass and counts it, or raises QuotaReached."""

    def __init__(self, config: QuotaConfig, clock: Callable[[], float] = time.monotonic) -> None:
        def window(limit: int, period: float, words: str) -> Window:
            return Window(limit, period, words, clock)

        self.config = config
        self._uploads = (
            window(config.user_uploads_per_hour, HOUR, "You may hand in {limit} documents an hour"),
            window(config.channel_uploads_per_hour, HOUR, "A channel may hand in {limit} documents an hour"),
        )
        self._pages = (
            window(config.user_pages_per_day, DAY, "You may hand in {limit} pages a day"),
            window(config.channel_pages_per_day, DAY, "A channel may hand in {limit} pages a day"),
        )
        self._commands = window(config.user_commands_per_minute, MINUTE, "I take {limit} commands a minute from you")
        self._questions = (
            window(config.user_questions_per_minute, MINUTE, "You may ask {limit} questions a minute"),
            window(config.channel_questions_per_minute, MINUTE, "A channel may ask {limit} questions a minute"),
        )

    def command(self, user: str) -> None:
        """Raises: QuotaReached."""
        self._commands.check(user)
        self._commands.take(user)

    def upload(self, user: str, channel: str, documents: int) -> None:
        """One more document, where the channel has `documents` stored or queued. Raises: QuotaReached."""
        if self.config.channel_documents and documents >= self.config.channel_documents:
            limit = self.config.channel_documents
            raise QuotaReached(f"This channel already holds {limit} documents, the limit; /forget one first.")
        for window, key in zip(self._pages, (user, channel), strict=True):
            window.check(key)
        _pass(self._uploads, user, channel)

    def pages(self, user: str, channel: str, pages: int) -> None:
        """Count the pages of a document once they are known; the next upload feels them."""
        for window, key in zip(self._pages, (user, channel), strict=True):
            window.take(key, pages)

    def question(self, user: str, channel: str) -> None:
        """Raises: QuotaReached."""
        _pass(self._questions, user, channel)


def _pass(windows: tuple[Window, Window], user: str, channel: str) -> None:
    """All windows are asked before any is charged: a refused request costs nothing."""
    for window, key in zip(windows, (user, channel), strict=True):
        window.check(key)
    for window, key in zip(windows, (user, channel), strict=True):
        window.take(key)
