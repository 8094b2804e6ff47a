"""The event loop while other processes want all of the processors. --times says how many they are."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.torture import Figure, Plan, Say, at_most, none
from tests.torture.kill import world_of
from tests.torture.soak import PATIENCE, STALL, Load, live

BUSY = 4  # processes


async def run(plan: Plan, say: Say) -> list[Figure]:
    load = Load(plan, random.Random(plan.seed), None, numbers=iter(range(1, 10**9)))  # type: ignore[arg-type]
    async with world_of(plan, plan.folder / "data") as world, busy(plan.times or BUSY):
        load.world = world
        await world.ready(PATIENCE)
        await live(load, time.monotonic() + plan.seconds, say, least_samples=0)
        found = await world.stats(load.next())
    learned = sum(one.learned for one in load.uploads.values())
    return [
        Figure("busy processes; load of the last minute", f"{plan.times or BUSY}; {os.getloadavg()[0]:.1f}"),
        Figure("documents learned, questions answered", f"{learned}, {load.answered}"),
        none("refused, or another channel's", len(load.wrong) + len(load.failed)),
        at_most("longest stall of the event loop", found["stall"], STALL),
        Figure("the same without the time that it waited for a processor", f"{found['own_stall']:.2f} s"),
    ]


@asynccontextmanager
async def busy(number: int) -> AsyncIterator[None]:
    """Processes that do nothing, as fast as they can."""
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass") for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            await process.wait()
