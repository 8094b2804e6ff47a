"""Documents that are handed in, and stopping what is being learned."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import cast

from bot import render
from bot.chat import Attachment, Message, Reply, Request, Undelivered
from bot.commands.asking import answer_when_learned
from bot.commands.base import BotBase, owns, require_own
from bot.commands.channel import documents_by_id
from bot.commands.following import follow
from bot.links import linked, without_links
from core.document.formats import KINDS, check_size, may_be_document, pages_in, parse_pages
from core.errors import NotFound, Refused, UnsupportedFormat
from core.service import harmless_name
from core.types import ALL_PAGES, Job

log = logging.getLogger(__name__)


FETCH_TIMEOUT = 120.0  # seconds for one attachment


async def learn(bot: BotBase, request: Request, reply: Reply) -> None:
    """Every attachment gets its own message and its own job. A question beside them is answered when they are known."""
    if links := request.arguments.get("links"):
        more = linked(cast(Sequence[str], links), bot.limits, allowed=bot.opens_links)
        request = replace(request, attachments=(*request.attachments, *more))
    if not request.attachments:
        raise Refused("I see no file there. Attach a document to your message, and I will learn it.")
    asked = str(request.arguments.get("pages") or "")
    pages = parse_pages(asked) if asked else pages_in(without_links(request.text)) or ALL_PAGES
    jobs = []
    for attachment in request.attachments:
        if job := await _learn_one(bot, attachment, request, reply, pages):
            jobs.append(job)
    question = str(request.arguments.get("question") or "")
    if question and jobs:
        await answer_when_learned(bot, jobs, question, request, reply)


async def press_upload(bot: BotBase, _: str, request: Request, reply: Reply) -> None:
    await learn(bot, request, reply)


async def _learn_one(
    bot: BotBase, attachment: Attachment, request: Request, reply: Reply, pages: tuple[int, int]
) -> Job | None:
    name = harmless_name(attachment.name)
    try:
        await _admit(bot, attachment, request)
    except Refused as problem:
        await bot.send(reply.say, render.refused(problem, name), private=True)
        return None
    live = await bot.send(reply.post, render.received(name))
    try:
        async with bot.fetching(request.user):
            data = await _fetch(attachment)
            given = {"by": request.user, "reply_to": live.address, "pages": pages}
            job = await bot.service.submit(request.channel, name, data, **given)
            del data
    except Exception as problem:
        if not isinstance(problem, Refused):
            log.exception("a document could not be taken in")
        await bot.send(live.finish, render.refused(problem, name))
        return None
    follow(bot, job, live)
    return job


async def _fetch(attachment: Attachment) -> bytes:
    """Raises: Refused."""
    try:
        return await asyncio.wait_for(attachment.read(), FETCH_TIMEOUT)
    except Refused:
        raise
    except Exception as problem:
        log.warning("an attachment could not be fetched", exc_info=problem)
        raise Refused("I could not download it; please send it again.") from None


async def _admit(bot: BotBase, attachment: Attachment, request: Request) -> None:
    """What can be refused before the file is fetched. The content is judged later, by `core.document.formats`."""
    if not may_be_document(attachment.name, attachment.content_type):
        raise UnsupportedFormat(f"I can't read such a file; send me {KINDS}.")
    check_size(attachment.size, bot.limits)
    known = await bot.service.documents(request.channel)
    coming = await bot.service.jobs(request.channel)
    await bot.quotas.upload(request.user, request.channel, len(known) + len(coming))


async def cancel(bot: BotBase, request: Request, reply: Reply) -> None:
    """Managers stop whatever the channel learns; others their own."""
    jobs = await bot.service.jobs(request.channel)
    own = [job for job in jobs if owns(job.requested_by, request)]
    if not own:
        raise NotFound(
            "Somebody else's document is being learned." if jobs else "I am learning nothing here right now."
        )
    for job in own:
        await bot.service.cancel(request.channel, job.id)
    await bot.send(reply.say, render.cancelling([job.name for job in own]), private=True)


async def press_cancel(bot: BotBase, job_id: str, request: Request, reply: Reply) -> None:
    jobs = {job.id: job for job in await bot.service.jobs(request.channel)}
    job = jobs.get(job_id)
    if job is None:
        raise NotFound("This is already over.")
    require_own(job.requested_by, request)
    await bot.service.cancel(request.channel, job_id)
    await bot.send(reply.say, render.cancelling([job.name]), private=True)


async def upload_deleted(
    bot: BotBase, channel: str, posted: Callable[[str], bool], say: Callable[[Message], Awaitable[None]]
) -> None:
    """Somebody removed a message with files: what is not learned yet is stopped, the rest may be forgotten.

    Args:
        posted: whether a `Job.reply_to` answers that message.
        say: something in the channel. Raises: Undelivered.
    """
    jobs = [job for job in await bot.service.jobs(channel, unfinished=False) if posted(job.reply_to)]
    known = await documents_by_id(bot, channel)
    for job in jobs:
        if not job.stage.final:
            await bot.service.cancel(channel, job.id)
        elif job.document_id in known:
            with contextlib.suppress(Undelivered):
                await bot.send(say, render.upload_deleted(known[job.document_id]))
