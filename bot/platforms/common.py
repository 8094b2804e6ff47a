"""What Discord and Slack do in the same way: failures of sending and logging in, hosts of files, who talks to whom in a
thread, and messages that are edited until their job ends."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import yarl
from aiolimiter import AsyncLimiter

from bot.chat import Live, Message, Undelivered, Unreachable
from bot.platforms.recent import Recent
from core.document.text import one_line
from core.errors import Refused, SetupError

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings
    from core.service import Service

log = logging.getLogger(__name__)

PICTURE = "loss.png"
BUTTON = "engram"  # what ids of buttons begin with
STALE_AFTER = 15 * 60  # seconds; nobody looks at an older progress message any more, so the end is posted anew
THREADS_FOR = 86_400  # seconds that a conversation is remembered


def bot_options(app: App, settings: Settings) -> dict[str, Any]:
    """What every platform's `Bot` is made with."""
    return {
        "usage": app.usage,
        "limits": settings.limits,
        "quotas": settings.quotas,
        "source": settings.source_url,
        "opens_links": settings.links,
    }


async def erase_all(service: Service, prefix: str) -> None:
    """Erase what was taught in all channels whose key begins with `prefix`, as when the bot is removed from a server or
    workspace."""
    for channel in await service.channels(prefix):
        await service.reset(channel)


def is_from(url: object, hosts: Collection[yarl.URL]) -> bool:
    """Whether an address has one of these origins (scheme, host and port)."""
    try:
        return yarl.URL(url).origin() in hosts  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False


def require_host(url: str, hosts: Collection[yarl.URL], platform: str) -> None:
    """Files are fetched from the platform's own hosts, whatever an event says. Raises: Refused."""
    if not is_from(url, hosts):
        log.warning("a file is kept at a foreign address and was not fetched")
        raise Refused(f"{platform} keeps this file somewhere else; attach the file itself.")


@contextmanager
def login_errors(explain: Callable[[Exception], str]) -> Iterator[None]:
    """What trying again can't heal, as one clear line.

    Args:
        explain: the sentence for an exception; "" for one that is raised as it is.

    Raises: SetupError.
    """
    try:
        yield
    except Exception as problem:
        if sentence := explain(problem):
            raise SetupError(sentence) from None
        raise


@contextmanager
def sending(will_pass: Callable[[Exception], bool | None]) -> Iterator[None]:
    """Failures of sending a message, as the commands know them.

    Args:
        will_pass: whether trying again may help; None for an exception that is raised as it is.

    Raises: Undelivered, when it may; else Unreachable.
    """
    try:
        yield
    except Exception as problem:
        passes = will_pass(problem)
        if passes is None:
            raise
        if passes:
            raise Undelivered from problem
        log.warning("a message could not be sent: %s", one_line(str(problem)))
        raise Unreachable from problem


class Conversations:
    """Who talks to whom in the bot's threads. People who talk to each other are not answered."""

    def __init__(self) -> None:
        self._talking = Recent(THREADS_FOR)  # thread -> people who are talking to each other

    def is_to_others(self, thread: Hashable, author: Hashable, people: Collection[Hashable], to_all: bool) -> bool:
        """Whether a message is for other people: by a mention or a reply. Who was spoken to then speaks to others, too.

        Args:
            people: who is mentioned or replied to, the bot left out.
            to_all: whether everybody is mentioned.
        """
        talking = self._talking.get(thread) or set()
        if not (people or to_all or author in talking):
            return False
        self._talking.put(thread, {*talking, *people, author})
        return True

    def end(self, thread: Hashable) -> None:
        """Somebody spoke to the bot again."""
        self._talking.drop(thread)


class PostedMessage(Live, ABC):
    """A message of the bot that shows a job's progress, then its end."""

    def __init__(
        self,
        address: str,
        edits: AsyncLimiter,  # of all channels together; progress beyond them is dropped, not queued
        trouble: tuple[type[BaseException], ...],  # what the platform's client raises
        will_pass: Callable[[Exception], bool | None],  # as for `sending`
        is_final: Callable[[BaseException], bool],  # whether editing this message will never work again
    ) -> None:
        self.address, self._edits, self._editable = address, edits, True
        self._trouble, self._will_pass, self._is_final = trouble, will_pass, is_final

    async def edit(self, message: Message) -> None:
        if not self._editable or not self._edits.has_capacity():
            return
        try:
            await self._update_in_turn(message)
        except self._trouble as problem:
            self._editable = not self._is_final(problem)
            log.debug("a progress message could not be edited: %s", problem)

    async def finish(self, message: Message) -> None:
        """An edit calls nobody: where somebody is to be called, the end is a message of its own, and this one goes."""
        with sending(self._will_pass):
            stays = not message.notify and self._editable and self._age() < STALE_AFTER
            if stays and await self._finish_here(message):
                return
            await self._post_end(message)
            with suppress(*self._trouble):
                await self._delete()

    async def _finish_here(self, message: Message) -> bool:
        """Edit the message into its end; safe to repeat. False when it takes no more edits."""
        try:
            await self._update_in_turn(message)
        except self._trouble as problem:
            if not self._is_final(problem):
                raise
            return False
        return True

    async def _update_in_turn(self, message: Message) -> None:
        await self._edits.acquire()
        await self._update(message)

    # What a platform has to say

    @abstractmethod
    def _age(self) -> float:
        """Seconds."""

    @abstractmethod
    async def _update(self, message: Message) -> None: ...

    @abstractmethod
    async def _post_end(self, message: Message) -> None: ...

    @abstractmethod
    async def _delete(self) -> None: ...
