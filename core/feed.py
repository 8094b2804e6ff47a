"""The newest progress of each job, for any number of watchers.

Nothing piles up: a slow watcher misses steps, never the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from core.types import Progress, Stage


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

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}

    def open(self, job_id: str) -> Feed:
        return self._feeds.setdefault(job_id, Feed())

    def put(self, progress: Progress) -> None:
        """Tell the job's watchers, if there are any. The final progress closes the feed."""
        feed = self._feeds.get(progress.job.id)
        if feed:
            feed.put(progress)
        if progress.job.stage.final:
            self.close(progress.job.id)

    def close(self, job_id: str) -> None:
        self._feeds.pop(job_id, None)

    def queued(self) -> dict[str, Progress]:
        """Job id -> newest progress of the watched jobs that wait."""
        return {job_id: feed.latest for job_id, feed in self._feeds.items() if feed.latest and feed.queued}

    def fail(self, error: BaseException) -> None:
        for feed in self._feeds.values():
            feed.fail(error)
