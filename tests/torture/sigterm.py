"""SIGTERM in the middle of learning: the process ends soon and well, and the next one learns on."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter

from bot.app import check_data
from tests.torture import Figure, Plan, Say, at_most, every, none
from tests.torture.kill import Upload, hand_in, note, world_of
from tests.torture.learn import stage_of
from tests.torture.stored import job_stages, strays

TIMES = 50
GRACE = 30.0  # seconds


async def run(plan: Plan, say: Say) -> list[Figure]:
    folder, chance, times = plan.folder / "data", random.Random(plan.seed), plan.times or TIMES
    uploads: dict[int, Upload] = {}
    good, slowest, stages, problems = 0, 0.0, Counter[str](), 0
    for number in range(1, times + 1):
        async with world_of(plan, folder) as world:
            await world.ready()
            for known in [upload for upload in uploads.values() if not upload.ends]:
                await world.answer(known.number)
            upload = hand_in(plan, world, uploads, chance)
            while stage_of(folder, upload.paper.name) != "learning":
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.uniform(0, 0.8))
            began = time.monotonic()
            world.kill(signal.SIGTERM)
            await asyncio.wait_for(world.gone(), 2 * GRACE)
            good += "Traceback" not in log_of(plan)
            slowest = max(slowest, time.monotonic() - began)
        note(world, uploads)
        found = await asyncio.to_thread(check_data, folder)
        stages[job_stages(folder)[upload.paper.name][0]] += 1
        problems += len(found.problems) + len(strays(folder))
        if number % 10 == 0:
            say(f"{number}/{times}: {dict(stages)}")
    async with world_of(plan, folder) as world:
        await world.ready()
        for known in [upload for upload in uploads.values() if not upload.ends]:
            await world.answer(known.number)
    note(world, uploads)
    names = set((await asyncio.to_thread(check_data, folder)).documents.values())
    learned = sum(upload.learned and upload.paper.name in names for upload in uploads.values())
    return [
        Figure("jobs, by their stage after the end", ", ".join(f"{n} {stage}" for stage, n in stages.items())),
        every("ended without a traceback", good, times),
        at_most("the slowest end", slowest, GRACE),
        none("files or rows out of order afterwards", problems),
        every("learned in the end, and told", learned, times),
        none("given up", sum("bad" in upload.ends for upload in uploads.values())),
    ]


def log_of(plan: Plan) -> str:
    return (plan.folder / "log").read_text()
