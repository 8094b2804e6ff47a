"""What a command is, who may use it, and what all of them stand on: `BotBase`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from bot import render
from bot.chat import Reply, Request, Undelivered, Unfinished, Unreachable
from bot.quotas import QuotaConfig, Quotas
from core.errors import EngramError, NotAllowed, NotFound
from core.ports import Usage
from core.types import Job, Limits, Progress

if TYPE_CHECKING:
    from core.service import Service

log = logging.getLogger(__name__)


Handler = Callable[["BotBase", Request, Reply], Awaitable[None]]
Press = Callable[["BotBase", str, Request, Reply], Awaitable[None]]
Suggest = Callable[["BotBase", Request, str], Awaitable[list[tuple[str, str]]]]  # (label, value), best first
MAX_FETCHES = 4  # files in memory at once
RETRY_AFTER = (1, 5, 15, 30, 60, 120)  # seconds between tries to hand a message to the platform


class Permission(StrEnum):
    """Who may use a command. Direct messages: everyone manages their own."""

    EVERYONE = "everyone"
    MEMBER = "member"  # everyone but guests and people of other workspaces
    MANAGER = "manager"  # who may manage the channel on the platform


class Kind(StrEnum):
    """What an option takes."""

    TEXT = "text"
    FILE = "file"
    YES_NO = "yes or no"


@dataclass(frozen=True)
class Option:
    name: str
    description: str
    kind: Kind = Kind.TEXT
    required: bool = False
    suggest: Suggest | None = None


@dataclass(frozen=True)
class Command:
    name: str
    description: str
    run: Handler
    options: tuple[Option, ...] = ()
    permission: Permission = Permission.EVERYONE
    private: bool = False  # by default only the asker sees the answer
    asks_by: str = ""  # the action whose form asks for files where none came

    def is_private(self, request: Request) -> bool:
        """Platforms have to know before the handler runs."""
        return bool(request.arguments.get("private", self.private))


@dataclass(frozen=True)
class Form:
    """What a button asks before it is handled: a text, as `Request.text`, or files, as its attachments."""

    title: str  # at most 24 characters (Slack)
    label: str  # at most 45 (Discord)
    files: bool = False


@dataclass(frozen=True)
class Action:
    run: Press
    form: Form | None = None
    permission: Permission = Permission.EVERYONE
    public: bool = False  # the answer is a message of its own, for all


class BotBase:
    """What the commands stand on: the service, the quotas, sending, and the background work of following jobs.

    Use as `async with`: leaving stops following; jobs go on and are picked up by `Bot.resume` in the next process.
    """

    table: Mapping[str, Command] = {}  # all commands, by name

    def __init__(
        self,
        service: Service,
        *,
        name: str = "",
        limits: Limits | None = None,
        quotas: QuotaConfig | None = None,
        usage: Usage | None = None,
        source: str = "",
        commands: Sequence[Command] = (),
        hears_follow_ups: bool = True,
        opens_links: bool = False,
        edit_every: Callable[[float], float] | None = None,
    ) -> None:
        self.service = service
        self.name = name  # of this front end, where there are several; "": it is alone
        self.commands = commands or tuple(self.table.values())  # as /help shows them
        self.limits = limits or Limits()
        self.quotas = Quotas(quotas or QuotaConfig(), usage)
        self.source = source  # where this bot's source is; shown by /about
        self.opens_links = opens_links  # that people send to have learned what is there
        self.hears_follow_ups = hears_follow_ups  # in threads, without a mention
        self.retry_after: Sequence[float] = RETRY_AFTER
        self.edit_every = edit_every or edit_interval  # age of a progress message -> seconds until its next edit
        self.hinted: set[tuple[str, str]] = set()  # channels, and what they were told once
        self.pace = dict(render.PACE)  # shares of the time that the stages of the last documents took
        self._fetches = asyncio.Semaphore(MAX_FETCHES)
        self._fetch_of: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by user
        self._tasks: set[asyncio.Task[None]] = set()
        self.followed: set[str] = set()  # job ids

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def end_of(self, job: Job) -> Progress | None:
        """Waits for the end of a job; None when it was erased. Raises: Unfinished, when this process ends first."""
        try:
            async for news in self.service.watch(job.id):
                if news.job.stage.final:
                    return news
        except NotFound:
            return None
        except EngramError:
            raise Unfinished from None
        raise Unfinished

    async def send(self, send: Callable[..., Awaitable[Any]], *args: object, **kwargs: object) -> Any:
        """Try until the platform takes it, for some minutes. Raises: Undelivered."""
        for wait in self.retry_after:
            try:
                return await send(*args, **kwargs)
            except Unreachable:
                raise
            except Undelivered as problem:
                log.warning("a message was not taken (%r); trying again in %d s", problem.__cause__, wait)
                await asyncio.sleep(wait)
        return await send(*args, **kwargs)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @contextlib.asynccontextmanager
    async def fetching(self, user: str) -> AsyncIterator[None]:
        """One file of a person in memory at once, and few of all: a file may have 50 MB."""
        async with self._fetch_of[user], self._fetches:
            yield


def log_context(channel: str) -> dict[str, str]:
    """For the log: "discord:GUILD" or "slack:TEAM", and the channel."""
    return {"guild": channel.rpartition(":")[0], "channel": channel}


def require(permission: Permission, request: Request) -> None:
    """Raises: NotAllowed."""
    if permission is not Permission.EVERYONE and request.is_unknown:
        raise NotAllowed("I can't find out at the moment whether you may do that; try again in a minute.")
    if permission is not Permission.EVERYONE and request.is_guest:
        raise NotAllowed("Guests can ask me questions here, but not change what I know.")
    if permission is Permission.MANAGER and not (request.is_manager or request.is_dm):
        raise NotAllowed()


def owns(owner: str, request: Request) -> bool:
    """What somebody brought is that person's and the managers'."""
    return owner == request.user or request.is_manager or request.is_dm


def require_own(owner: str, request: Request) -> None:
    """Raises: NotAllowed."""
    if not owns(owner, request):
        raise NotAllowed("Only the person who brought it, or somebody who manages this channel, can do that.")


def edit_interval(age: float) -> float:
    """Seconds between two edits of a message of that age: 3 s in the first minute, then rarer, at most one a minute."""
    return min(60.0, max(3.0, age / 20))
