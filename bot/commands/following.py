"""A job's message: its progress while it is learned, and its end, which is told once and never lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from structlog.contextvars import bound_contextvars

from bot import metrics, render
from bot.chat import Live, Message, Undelivered, Unreachable
from bot.commands.base import BotBase, log_context
from core.errors import EngramError, NotFound, StorageFailed
from core.types import Document, Job, JobKind, Progress, Stage

log = logging.getLogger(__name__)


LATE_SECONDS = 30.0  # seconds after which an end that another front end has not told is told by this one
MAX_TRIED = 4  # example questions that are tried before some are offered


def follow(bot: BotBase, job: Job, live: Live) -> None:
    """Keep a message up to date with a job, once: a job may be new and found by `Bot.resume` at the same time."""
    if job.id not in bot.followed:
        bot.followed.add(job.id)
        with bound_contextvars(**log_context(job.channel), job=job.id):  # the task takes them along
            bot.spawn(deliver(bot, job, live))


async def deliver(bot: BotBase, job: Job, live: Live) -> None:
    """Show a job's progress until its end, and mark the end as told. It may be told twice, and is never left untold."""
    try:
        last = await _watch(bot, job, live)
        if bot.name and not await bot.service.inbox.claim(f"told:{job.id}", bot.name, LATE_SECONDS):
            return  # another front end tells it
        message = await _ending(bot, last)
        with contextlib.suppress(Unreachable):  # nobody is left to be told
            await bot.send(live.finish, message)
        metrics.job_ended(last)
        await _mark_delivered(bot, job)
    except NotFound:  # erased together with its channel
        with contextlib.suppress(Undelivered):
            await bot.send(live.finish, render.vanished(job.name))
    except EngramError as problem:  # this process stops, or has no model: the job waits for the next start
        await live.edit(render.waits(job.name, problem))
    except Exception:
        log.exception("the end of a job was not told; the next start tries again")
    finally:
        bot.followed.discard(job.id)


async def resume_job(bot: BotBase, job: Job, reopen: Callable[[str], Awaitable[Live | None]]) -> None:
    """`reopen`: as `Bot.resume` has it."""
    if job.reply_to and (live := await reopen(job.reply_to)):
        follow(bot, job, live)


async def deliver_overdue(bot: BotBase, reopen: Callable[[str], Awaitable[Live | None]]) -> None:
    """Ends that another front end did not live to tell."""
    late: set[str] = set()  # ids of jobs that had ended, and were not told, at the last look
    while True:
        await asyncio.sleep(LATE_SECONDS)
        with contextlib.suppress(StorageFailed):
            ended = {job.id: job for job in await bot.service.pending_deliveries() if job.stage.final}
            for id, job in ended.items():
                if id in late:
                    await resume_job(bot, job, reopen)
            late = set(ended)


async def _mark_delivered(bot: BotBase, job: Job) -> None:
    try:
        await bot.service.delivered(job.id)
    except StorageFailed:
        log.exception("that an end was told could not be stored; the next start tells it again")


async def _ending(bot: BotBase, last: Progress) -> Message:
    if last.job.kind is JobKind.CORRECT:
        given = {one.id: one for one in await bot.service.corrections(last.job.channel)}
        return render.corrected(last, given.get(last.job.sources[1]))
    if not last.document:
        return render.finished(last)
    return render.finished(last, await _older(bot, last.document), await _examples(bot, last.document))


async def _older(bot: BotBase, document: Document) -> Document | None:
    """The one that the channel knows by the same name."""
    for other in await bot.service.documents(document.channel):
        if other.name == document.name and other.id != document.id:
            return other
    return None


async def _examples(bot: BotBase, document: Document) -> list[tuple[int, str]]:
    """Questions to try, each with its number: they read well, and their answers are supported."""
    good = list(filter(render.reads_well, document.questions))
    try:
        likely = await bot.service.likely(document, good[:MAX_TRIED])
    except EngramError:  # forgotten meanwhile, or this process stops
        return []
    return [(document.questions.index(text), text) for text in likely[: render.MAX_EXAMPLES]]


async def _watch(bot: BotBase, job: Job, live: Live) -> Progress:
    """The last news, which is final. Raises: NotFound."""
    shown = ProgressMessage(bot, live)
    ticking = bot.spawn(shown.tick())
    try:
        async for news in bot.service.watch(job.id):
            await shown.take(news)
            if news.job.stage.final:
                if news.document and news.job.kind is JobKind.LEARN:
                    bot.pace = _pace(bot.pace, shown.spent)
                return news
            await shown.edit()
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)  # an edit must not come after the end
    raise NotFound()


class ProgressMessage:
    """A job's progress as its message shows it: with each piece of news and in between, so that it always moves."""

    def __init__(self, bot: BotBase, live: Live) -> None:
        self.spent: dict[Stage, float] = {}  # seconds in each stage
        self._bot, self._live = bot, live
        self._clock = asyncio.get_running_loop().time
        self._began, self._next_edit = self._clock(), 0.0
        self._news: Progress | None = None
        self._came = 0.0  # when the news did
        self._pages = 0

    async def take(self, news: Progress) -> None:
        if self._news and (stage := self._news.job.stage) in render.STAGES:
            self.spent[stage] = self.spent.get(stage, 0.0) + self._clock() - self._came
        self._news, self._came = news, self._clock()
        self._pages = await _charge(self._bot, news, self._pages)

    async def edit(self) -> None:
        """If it is time to."""
        if self._news and self._clock() >= self._next_edit:
            self._next_edit = self._clock() + self._bot.edit_every(self._clock() - self._began)
            seconds = self._news.seconds + self._clock() - self._came
            await self._live.edit(render.progress(replace(self._news, seconds=seconds), self._bot.pace))

    async def tick(self, every: float = 1.0) -> None:
        while True:
            await asyncio.sleep(every)
            await self.edit()


def _pace(known: Mapping[Stage, float], spent: Mapping[Stage, float]) -> dict[Stage, float]:
    """Half of what was measured before, half of this document's shares."""
    total = sum(spent.values()) or 1.0
    return {stage: (share + spent.get(stage, 0.0) / total) / 2 for stage, share in known.items()}


async def _charge(bot: BotBase, news: Progress, charged: int) -> int:
    """Count a document's pages against the quota as soon as they are known, once."""
    if news.pages and not charged:
        with contextlib.suppress(StorageFailed):
            await bot.quotas.pages(news.job.requested_by, news.job.channel, news.pages)
    return charged or news.pages
