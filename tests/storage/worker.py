"""A worker in a process of its own, with an engine that learns by heart.

Forked by a server that has imported everything, since to start Python and import torch takes seconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from core.answerer import Answerer
from core.runner import Runner
from core.types import Limits
from storage.keys import Keys
from storage.postgres import PostgresIndex
from storage.weights import Weights
from storage.workers import PublishingFeeds, Queues, Worker
from tests.fakes import read_plain
from tests.torture.by_heart import ByHeart

LIMITS = Limits(min_tokens=5, max_tokens=1_000, max_bytes=10_000)
QUICK = {"heartbeat": 0.5, "dead_after": 8.0}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


async def work(url: str, folder: Path, engine: ByHeart, pace: dict[str, float]) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with PostgresIndex(url, Keys(folder / "keys")) as index, Queues(url) as queues:
        weights, feeds = Weights(folder, index.id), PublishingFeeds(index)
        options = {"read": read_plain, "learning": False, "tidy": False, "feeds": feeds}
        async with Runner(lambda: engine, index, weights, LIMITS, **options) as runner:
            answerer = Answerer(index, weights, runner.device)
            working = asyncio.create_task(Worker(queues, index, runner, answerer, feeds, **pace).run())
            await stopped.wait()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


def main(url: str, folder: Path, engine: ByHeart, pace: dict[str, float]) -> None:
    torch.set_num_threads(1)
    asyncio.run(work(url, folder, engine, pace))


@contextmanager
def worker(url: str, folder: Path, pace: dict[str, float] = QUICK, **engine: float) -> Iterator[BaseProcess]:
    """
    Args:
        pace: as `Worker` has it.
        engine: how slow it is, as in `ByHeart`.
    """
    process = FORKS.Process(target=main, args=(url, folder, ByHeart(**engine), pace))
    process.start()
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGCONT)
        process.kill()
        process.join()
