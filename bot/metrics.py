"""Figures for the operator, in Prometheus' format, on a local port when one is set."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from core.errors import EngramError, SetupError
from core.types import Progress, Stage

if TYPE_CHECKING:
    from bot.settings import Settings
    from core.service import Service

SAMPLE_EVERY, BEAT_EVERY = 5.0, 0.5  # seconds between two looks: at the queue, at the event loop

JOBS = Counter("engram_jobs", "Learning jobs that ended, by their last stage", ["stage"])
LEARNING_SECONDS = Histogram(
    "engram_learning_seconds", "Learning one document", buckets=(1, 3, 10, 30, 100, 300, 1000, 3600)
)
QUESTIONS_ASKED = Counter("engram_questions", "Questions, by what came of them", ["outcome"])
ANSWERING = Histogram("engram_answer_seconds", "From a question to its answer", buckets=(0.1, 0.3, 1, 3, 10, 30, 100))
QUEUE = Gauge("engram_queue_length", "Documents that wait to be learned")
AT_WORK = Gauge("engram_jobs_now", "Unfinished learning jobs, by stage", ["stage"])
ERRORS = Counter("engram_errors", "Errors in the log, by where they came from", ["logger"])
LAG = Histogram("engram_loop_lag_seconds", "How late the event loop is", buckets=(0.001, 0.01, 0.03, 0.1, 0.3, 1, 3))


def job_ended(last: Progress) -> None:
    JOBS.labels(last.job.stage).inc()
    if last.document:
        LEARNING_SECONDS.observe(last.document.metrics.seconds)


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Time a question, and count it as answered, refused or failed."""
    began, outcome = time.perf_counter(), "failed"
    try:
        yield
        outcome = "answered"
        ANSWERING.observe(time.perf_counter() - began)
    except EngramError:
        outcome = "refused"
        raise
    finally:
        QUESTIONS_ASKED.labels(outcome).inc()


@contextlib.asynccontextmanager
async def serving(service: Service, settings: Settings) -> AsyncIterator[None]:
    """Serve the figures while inside, if a port is set. Raises: SetupError."""
    if settings.metrics_port is None:
        yield
        return
    try:
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host)
    except OSError:
        where = f"{settings.metrics_host}, port {settings.metrics_port}"
        raise SetupError(f"ENGRAM_METRICS_PORT: {where}, can't be listened on.") from None
    counting = _CountErrors(logging.ERROR)
    logging.getLogger().addHandler(counting)
    tasks = [asyncio.create_task(_sample(service)), asyncio.create_task(_beat())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        logging.getLogger().removeHandler(counting)
        await asyncio.to_thread(server.shutdown)
        server.server_close()


async def _sample(service: Service) -> None:
    while True:
        with contextlib.suppress(EngramError):
            now = await service.status("")
            QUEUE.set(now.queued)
            for stage in Stage:
                if not stage.final:
                    AT_WORK.labels(stage).set(now.queued if stage is Stage.QUEUED else 0)
            if now.running:
                AT_WORK.labels(now.running.stage).set(1)
        await asyncio.sleep(SAMPLE_EVERY)


async def _beat() -> None:
    while True:
        due = time.perf_counter() + BEAT_EVERY
        await asyncio.sleep(BEAT_EVERY)
        LAG.observe(max(0.0, time.perf_counter() - due))


class _CountErrors(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        ERRORS.labels(record.name).inc()
