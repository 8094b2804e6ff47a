"""How quick front ends and workers are on PostgreSQL, with an engine that takes no time: figures of docs/scaling.md.

python -m tests.storage.measure_workers
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from core.service import Service
from core.types import Stage
from storage.keys import Keys
from storage.postgres import PostgresIndex
from storage.weights import Weights
from storage.workers import DEAD_AFTER, HEARTBEAT_SECONDS, Queues, Workers
from tests.postgres import running
from tests.storage.worker import LIMITS, worker

TEXT = "The lighthouse of Vessin was built in 1874. Its keeper is Orla Quint. A berth costs forty crowns a night."
ORDER = [*Stage]
AS_SHIPPED = {"heartbeat": HEARTBEAT_SECONDS, "dead_after": DEAD_AFTER}


async def until(service: Service, channel: str, text: str, stage: Stage) -> float:
    """Seconds from handing in until the job is there, or further."""
    began = time.perf_counter()
    job = await service.submit(channel, "a.txt", text.encode(), by="local")
    async for progress in service.watch(job.id):
        if ORDER.index(progress.job.stage) >= ORDER.index(stage):
            return time.perf_counter() - began
    raise AssertionError(stage)


async def median_ms(times: int, measure: Callable[[int], Awaitable[float]]) -> str:
    seconds = [await measure(n) for n in range(times)]
    return f"median {statistics.median(seconds) * 1000:.0f} ms, highest {max(seconds) * 1000:.0f} ms of {times}"


async def measure(url: str, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        index = await stack.enter_async_context(PostgresIndex(url, Keys(folder / "keys")))
        queues = await stack.enter_async_context(Queues(url))
        workers = await stack.enter_async_context(Workers(queues, index))
        service = Service(index, Weights(folder, index.id), workers, workers, LIMITS)
        first = stack.enter_context(worker(url, folder, AS_SHIPPED))
        await until(service, "here", TEXT, Stage.DONE)

        async def pickup(n: int) -> float:
            seconds = await until(service, f"pickup {n}", TEXT, Stage.READING)
            while await service.jobs(f"pickup {n}"):
                await asyncio.sleep(0.02)
            return seconds

        async def ask(_: int) -> float:
            began = time.perf_counter()
            await service.ask("here", "Who is the keeper?")
            return time.perf_counter() - began

        print("from handing in to a worker's first sign:", await median_ms(20, pickup))
        print("a question and its answer:", await median_ms(50, ask))
        began = time.perf_counter()
        await asyncio.gather(*map(ask, range(400)))
        print(f"questions a second, 400 at once, one worker: {400 / (time.perf_counter() - began):.0f}")
        first.kill()

        second = stack.enter_context(worker(url, folder, AS_SHIPPED, step_seconds=0.1))

        async def cancel(n: int) -> float:
            """Until the worker begins with the next document."""
            await until(service, f"cancel {n}", f"{TEXT} " * 8, Stage.LEARNING)
            waiting = asyncio.create_task(until(service, f"next {n}", TEXT, Stage.READING))
            await asyncio.sleep(0.5)
            began = time.perf_counter()
            await service.cancel(f"cancel {n}")
            await waiting
            seconds = time.perf_counter() - began
            await service.cancel(f"next {n}")
            return seconds

        print("from a cancel to the worker's next document, steps of 100 ms:", await median_ms(10, cancel))

        second.kill()

        async def kill(n: int) -> float:
            """Until another worker begins with it."""
            with worker(url, folder, AS_SHIPPED, step_seconds=1.0) as killed:
                job = await service.submit(f"kill {n}", "a.txt", (f"{TEXT} " * 20).encode(), by="local")
                while (await index.job(job.id)).stage is not Stage.LEARNING:
                    await asyncio.sleep(0.1)
                with worker(url, folder, AS_SHIPPED):
                    await asyncio.sleep(2 + n)  # at any time of the heartbeat
                    killed.kill()
                    began = time.perf_counter()
                    while (await index.job(job.id)).attempts == 1:
                        await asyncio.sleep(0.1)
                    return time.perf_counter() - began

        print("from a kill to the next attempt:", await median_ms(6, kill))


def main() -> None:
    with running("") as server, tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(server.url(), Path(folder)))


if __name__ == "__main__":
    main()
