"""Learning jobs: hand a file in, and follow its job to the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings
    from bot.terminal import Screen
    from core.types import Document, Job


def load_file(file: Path) -> bytes:
    """Raises: Refused."""
    from core.errors import Refused

    try:
        return file.read_bytes()
    except OSError as error:
        raise Refused(f"{file} can't be opened: {(error.strerror or 'unknown reason').lower()}.") from None


def page_range(pages: str) -> tuple[int, int]:
    """ "3-12", or "" for all. Raises: Refused."""
    from core.document.formats import parse_pages
    from core.types import ALL_PAGES

    return parse_pages(pages) if pages else ALL_PAGES


async def load_document(file: Path, pages: str, settings: Settings) -> bytes:
    """A file that can be learned, as far as that can be seen without the model. Raises: Refused."""
    from core.document.formats import read_document
    from core.errors import Refused

    data = load_file(file)
    a_page = replace(settings.ocr, pages=min(1, settings.ocr.pages))  # of a scan tells enough
    try:
        await read_document(data, settings.limits, page_range(pages), ocr=a_page)
    except Refused as problem:
        raise type(problem)(f"{file.name}: {problem}") from None
    return data


async def learn_file(screen: Screen, app: App, channel: str, name: str, data: bytes, pages: str = "") -> Document:
    """Hand in and follow to the end. Raises: whatever the job failed of."""
    from core.errors import SetupError

    job = await _hand_in(screen, app, channel, name, data, pages)  # what is known is refused before the model is there
    try:
        with screen.waiting("Loading the model"):
            await app.runner.ready()
    except SetupError:
        await app.service.cancel(channel, job.id)
        raise
    return await follow(screen, app, channel, job)


async def follow(screen: Screen, app: App, channel: str, job: Job) -> Document:
    """Show a job to its end. Ctrl-C cancels; SIGTERM leaves the job in the queue for the next start.

    Raises: whatever the job failed of.
    """
    import asyncio
    from contextlib import suppress

    from bot.terminal import JobView
    from core.errors import Cancelled, LearningFailed, NotFound

    try:
        with JobView(screen.live) as view:
            async for progress in app.service.watch(job.id):
                view.show(progress)
    except asyncio.CancelledError:
        if not screen.terminated:
            with suppress(NotFound):  # it has just ended
                await app.service.cancel(channel, job.id)
        raise
    if not progress.job.reply_to:  # else its chat is told at the next start of the bot
        await app.service.delivered(job.id)
    if progress.document is None:
        raise progress.failure or (LearningFailed(progress.job.error) if progress.job.error else Cancelled())
    return progress.document


async def _hand_in(screen: Screen, app: App, channel: str, name: str, data: bytes, pages: str) -> Job:
    """A new job, or the one that an earlier process did not finish."""
    from core.errors import AlreadyKnown
    from core.service import sha256

    part = page_range(pages)
    try:
        return await app.service.submit(channel, name, data, by="local", pages=part)
    except AlreadyKnown:
        digest = sha256(data, part)
        unfinished = [job for job in await app.service.jobs(channel) if job.sha256 == digest]
        if not unfinished:
            raise
        screen.note("Learning this document was interrupted; it is learned again.")
        return unfinished[0]
