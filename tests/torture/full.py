"""A full disk: no file of the process may grow beyond a random size, so that each write fails once, somewhere.

The limit (RLIMIT_FSIZE) hits the index, its log and the weights alike, like a disk that has that much room. Then the
room comes back, the process goes on, and everything that was acknowledged must come to its told end.
"""

from __future__ import annotations

import asyncio
import random
import resource
from collections import Counter

from bot.app import check_data
from tests.torture import Figure, Plan, Say, every, none
from tests.torture.kill import Upload, ended, hand_in, note, world_of
from tests.torture.stored import strays
from tests.torture.world import World

TIMES = 50
SMALLEST, LARGEST = 1, 200  # KiB that a file may have
PATIENCE = 60.0


async def run(plan: Plan, say: Say) -> list[Figure]:
    folder, chance, times = plan.folder / "data", random.Random(plan.seed), plan.times or TIMES
    uploads: dict[int, Upload] = {}
    how, whole, told, again = Counter[str](), 0, 0, 0
    problems: list[str] = []
    for number in range(1, times + 1):
        async with world_of(plan, folder) as world:
            await world.ready()
            fill(world, chance.randrange(SMALLEST, LARGEST) * 1024)
            upload = hand_in(plan, world, uploads, chance)
            how[await end_of(world, upload)] += 1
            fill(world, resource.RLIM_INFINITY)
            told += await is_told(world, upload)
            found = await asyncio.to_thread(check_data, folder)
            whole += not found.problems
            problems += found.problems
            if not learned(world, upload):  # it may be handed in again
                second = hand_in(plan, world, uploads, chance, upload)
                again += await is_told(world, second) and learned(world, second)
            else:
                again += 1
            world.send(10**6 + number, "reset", channel=upload.channel)  # keeps the files small
            world.send(2 * 10**6 + number, "press", action="reset", channel=upload.channel)
            await world.answer(2 * 10**6 + number)
        note(world, uploads)
        if number % 10 == 0:
            say(f"{number}/{times}: {dict(how)}")
    for problem in problems:
        say(problem)
    async with world_of(plan, folder) as world:
        await world.ready()
    found = await asyncio.to_thread(check_data, folder)
    return [
        Figure("while there was no room", ", ".join(f"{n} {what}" for what, n in how.items())),
        every("told in the end", told, times),
        every("index whole, weights of every document whole", whole, times),
        every("learned as soon as there was room", again, times),
        none("files that no document names, after the next start", len(strays(folder)) + len(found.problems)),
    ]


def fill(world: World, limit: int) -> None:
    resource.prlimit(world.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


async def end_of(world: World, upload: Upload) -> str:
    """What happened while there was no room."""
    try:
        event = await world.answer(upload.number, 15.0)
    except TimeoutError:
        return "still waiting"
    return "learned" if event["tone"] == "good" else "failed, and told so"


async def is_told(world: World, upload: Upload) -> bool:
    try:
        return bool(await world.answer(upload.number, PATIENCE))
    except TimeoutError:
        return False


def learned(world: World, upload: Upload) -> bool:
    return ended(world, upload) and any(
        e["event"] == "finish" and e["number"] == upload.number and e["tone"] == "good" for e in world.events
    )
