"""The newest progress of each job, for any number of watchers.

Nothing piles up: a slow watcher misses steps, never the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from core.errors import EngramError, NotFound
from core.ports import Index
from core.types import Document, Job, Progress, Stage

MAX_FAILURES = 1_000  # newest failed jobs whose error is remembered in memory; the row keeps its sentence only


class Feed:
    """The newest progress of one job; iterate over it to follow it from now to its end."""

    def __init__(self) -> None:
        self.latest: Progress | None = None
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    @property
    def queued(self) -> bool:
        return self.latest is not None and self.latest.job.stage is Stage.QUEUED

    def put(self, progress: Progress) -> None:
        self.latest = progress
        self._wake_watchers()

    def fail(self, error: BaseException) -> None:
        """Nothing more will come; watchers raise this."""
        self._error = error
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Progress]:
        seen = None
        while True:
            changed, progress = self._changed, self.latest
            if progress is not None and progress is not seen:
                yield progress
                seen = progress
            if progress is not None and progress.job.stage.final:
                return
            if self._error:
                raise self._error
            await changed.wait()


class Feeds:
    """The feeds of unfinished jobs that somebody watches or works on."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._feeds: dict[str, Feed] = {}
        self._failures: dict[str, EngramError] = {}  # by job id, oldest first

    def open(self, job_id: str) -> Feed:
        return self._feeds.setdefault(job_id, Feed())

    async def watch(self, job_id: str) -> Feed:
        """A feed that begins with what the index says. Raises: NotFound."""
        feed = self.open(job_id)
        if feed.latest is None:
            try:
                job = await self._index.job(job_id)
                document, places = await self.learned_document(job), await self._places()
            except EngramError:
                self._feeds.pop(job_id, None)
                raise
            if feed.latest is None:  # unless whoever works on it was faster
                failure = self._failures.get(job_id)
                self.put(Progress(job, place=places.get(job_id, 0), document=document, failure=failure))
        return feed

    def put(self, progress: Progress) -> None:
        """Tell the job's watchers, if there are any. The final progress closes the feed."""
        feed = self._feeds.get(progress.job.id)
        if feed:
            feed.put(progress)
        if progress.failure:
            self._failures[progress.job.id] = progress.failure
            if len(self._failures) > MAX_FAILURES:
                del self._failures[next(iter(self._failures))]
        if progress.job.stage.final:
            self._feeds.pop(progress.job.id, None)

    async def look_up(self, job_id: str) -> None:
        """Publish a job's end if its row records one. A worker whose own update came too late calls this."""
        if latest := self.latest(job_id):
            try:
                job = await self._index.job(job_id)
            except NotFound:  # erased
                job = replace(latest.job, stage=Stage.CANCELLED)
            if job.stage.final:
                self.put(replace(latest, job=job, document=await self.learned_document(job)))

    def latest(self, job_id: str) -> Progress | None:
        """The newest progress of a job that somebody watches."""
        feed = self._feeds.get(job_id)
        return feed.latest if feed else None

    def watched(self) -> list[str]:
        """Ids of jobs."""
        return [*self._feeds]

    async def publish_places(self) -> None:
        """Tell those whose jobs wait that they moved up."""
        queued = [feed.latest for feed in self._feeds.values() if feed.latest and feed.queued]
        if not queued:
            return
        places = await self._places()
        for progress in queued:
            place = places.get(progress.job.id, progress.place)
            if place != progress.place:
                self.put(replace(progress, place=place))

    def fail(self, error: BaseException) -> None:
        for feed in self._feeds.values():
            feed.fail(error)

    async def learned_document(self, job: Job) -> Document | None:
        """The document that the job made; None before its end, or once it is forgotten."""
        try:
            return await self._index.find_document(job.channel, job.document_id) if job.document_id else None
        except NotFound:  # forgotten since
            return None

    async def _places(self) -> dict[str, int]:
        """Job id -> number of jobs ahead, of all that wait; those that are worked on count as one."""
        jobs = await self._index.jobs()
        waiting = [job.id for job in jobs if job.stage is Stage.QUEUED]
        first = 1 if len(waiting) < len(jobs) else 0
        return {job_id: place for place, job_id in enumerate(waiting, start=first)}
