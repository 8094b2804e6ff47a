"""200 channels, in each of which somebody asks and reads the answer, while all workers learn all the time: one process
on SQLite, then two front ends and four workers on PostgreSQL. How much more they do, and how long people wait.

--seconds: for each of the two; --times: channels, in place of 200. The engine waits where a device would compute, so
that processors are left for the rest.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path

import psutil

from tests import postgres
from tests.torture import Figure, Plan, Say, every, none
from tests.torture.papers import Paper, paper
from tests.torture.servers import DURABLE
from tests.torture.soak import PATIENCE
from tests.torture.world import Nursery, World

CHANNELS = 200
SERVERS = ["front end 1", "front end 2", "worker", "worker", "worker", "worker"]
PAUSE = 20.0  # seconds that somebody reads an answer
HANDED_IN = 12  # documents that wait or are being learned
PACE = {"step_seconds": 0.25, "answer_seconds": 0.1}  # a document of two chunks takes 5 s
SECRET = re.compile(r"\d{8}")


@dataclass
class Crowd:
    folder: Path
    chance: random.Random
    front_ends: list[World] = field(default_factory=list)
    papers: dict[str, Paper] = field(default_factory=dict)  # by channel: what is asked about
    homes: dict[str, str] = field(default_factory=dict)  # secret -> channel
    numbers: count[int] = field(default_factory=lambda: count(1))
    waits: list[float] = field(default_factory=list)  # seconds from a question to its answer
    right: int = 0
    crossed: int = 0
    learned: int = 0
    used: Counter[str] = field(default_factory=Counter)  # who -> seconds of a processor

    async def learn(self, channel: str, lines: int) -> Paper:
        """Raises: RuntimeError, when it is not learned."""
        number = next(self.numbers)
        own = paper(f"paper-{number}.pdf", self.chance, lines=lines)
        self.homes[own.secret] = channel
        file = self.folder / own.name
        file.write_bytes(own.data)
        world = self.chance.choice(self.front_ends)
        world.send(number, "hear", channel=channel, files=[{"name": own.name, "path": str(file)}])
        if (await world.answer(number, 6 * PATIENCE))["tone"] != "good":
            raise RuntimeError(f"{own.name} was not learned")
        return own

    async def teach(self, channels: Sequence[str]) -> None:
        for channel in channels:
            self.papers[channel] = await self.learn(channel, 10)

    async def ask(self, channel: str) -> None:
        await asyncio.sleep(self.chance.uniform(0, PAUSE))
        while True:
            number, began, own = next(self.numbers), time.monotonic(), self.papers[channel]
            world = self.chance.choice(self.front_ends)
            world.send(number, "ask", channel=channel, arguments={"question": own.question})
            text = (await world.answer(number, PATIENCE))["text"]
            self.waits.append(time.monotonic() - began)
            self.right += own.secret in text
            self.crossed += any(self.homes.get(secret, channel) != channel for secret in SECRET.findall(text))
            await asyncio.sleep(PAUSE)

    async def hand_in(self, channels: cycle[str]) -> None:
        while True:
            await self.learn(next(channels), 40)
            self.learned += 1


async def run(plan: Plan, say: Say) -> list[Figure]:
    alone = await measure(plan, ["bot"], say, {})
    before = dict(os.environ)
    try:
        with postgres.running(DURABLE) as database:
            os.environ["ENGRAM_DATABASE_URL"] = database.url()
            server = int((database.data / "postmaster.pid").read_text().split()[0])
            servers = await measure(plan, SERVERS, say, {"PostgreSQL": [server]})
    finally:
        os.environ.clear()
        os.environ.update(before)
    figures = []
    for name, crowd in (("one process", alone), ("two front ends, four workers", servers)):
        waits = statistics.quantiles(crowd.waits, n=20)
        figures += [
            Figure(f"{name}: documents a minute", f"{60 * crowd.learned / plan.seconds:.1f}"),
            Figure(f"{name}: questions a second", f"{len(crowd.waits) / plan.seconds:.1f}"),
            Figure(f"{name}: wait, p50 / p95", f"{waits[9]:.2f} / {waits[18]:.2f} s"),
            every(f"{name}: answers that are right", crowd.right, len(crowd.waits)),
            none(f"{name}: answers with another channel's secret", crowd.crossed),
            Figure(f"{name}: processors in use, of {os.cpu_count()}", processors(crowd.used, plan.seconds)),
        ]
    ratio = f"{servers.learned / max(1, alone.learned):.1f}; {len(servers.waits) / len(alone.waits):.1f}"
    return [*figures, Figure("times as many documents; questions", ratio)]


async def measure(plan: Plan, roles: Sequence[str], say: Say, others: dict[str, list[int]]) -> Crowd:
    """others: who else does the work -> processes."""
    folder = plan.folder / roles[0]
    folder.mkdir()
    crowd, channels = (
        Crowd(folder, random.Random(plan.seed)),
        [f"channel{number}" for number in range(plan.times or CHANNELS)],
    )
    async with Nursery() as nursery:
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            await start(crowd, stack, nursery, roles, {})
            await asyncio.gather(*(crowd.teach(channels[at::HANDED_IN]) for at in range(HANDED_IN)))
        say(f"{', '.join(roles)}: {len(channels)} documents in {time.monotonic() - began:.0f} s, engine at once")
        async with AsyncExitStack() as stack:
            worlds = await start(crowd, stack, nursery, roles, PACE)
            processes = {**others, "the harness": [os.getpid()]}
            for world in worlds:
                processes.setdefault(world.role.rstrip(" 12"), []).append(world.pid)
            turns, before = cycle(channels), processor_seconds(processes)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(crowd.hand_in(turns)) for _ in range(HANDED_IN)]
                tasks += [group.create_task(crowd.ask(channel)) for channel in channels]
                await asyncio.sleep(plan.seconds)
                for task in tasks:
                    task.cancel()
            crowd.used = processor_seconds(processes) - before
        say(f"load of the last minute: {os.getloadavg()[0]:.1f}")
    return crowd


async def start(
    crowd: Crowd, stack: AsyncExitStack, nursery: Nursery, roles: Sequence[str], pace: dict[str, float]
) -> list[World]:
    log, data = crowd.folder / "log", crowd.folder / "data"
    worlds = [World(data, nursery, role=role, log=log, pace={"step_seconds": 0.0, **pace}) for role in roles]
    for world in worlds:
        await stack.enter_async_context(world)
    for world in worlds:
        await world.ready()
    crowd.front_ends = [world for world in worlds if world.role != "worker"]
    return worlds


def processor_seconds(processes: dict[str, list[int]]) -> Counter[str]:
    """Seconds of a processor that each kind of process has used. Children of a bot or a worker read documents, and are
    a kind of their own."""
    used: Counter[str] = Counter()
    for name, pids in processes.items():
        for pid in pids:
            process = psutil.Process(pid)
            times = process.cpu_times()
            used[name] += times.user + times.system
            children = "reading documents" if name in ("bot", "worker") else name
            used[children] += times.children_user + times.children_system
            for child in process.children(recursive=True) if pid != os.getpid() else ():
                with suppress(psutil.NoSuchProcess):
                    times = child.cpu_times()
                    used[children] += times.user + times.system + times.children_user + times.children_system
    everything = psutil.cpu_times()
    used["everything"] = everything.user + everything.system
    return used


def processors(used: Counter[str], seconds: float) -> str:
    """How many each kind of process kept busy."""
    return ", ".join(f"{name} {busy / seconds:.2f}" for name, busy in used.most_common())
