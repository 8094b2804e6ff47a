"""Five people ask without a pause, each in a channel of their own, while another channel's document is learned.

--times: pages of that document. It is learned once alone and once beside the questions.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture import Figure, Plan, Say, at_most, every, none
from tests.torture.kill import world_of
from tests.torture.papers import FILLER, Paper, make_pdf, paper
from tests.torture.soak import PATIENCE
from tests.torture.world import World

ASKERS = 5
PAGES = 12
LINES = 40  # of a page
MEDIAN = 2.0  # seconds, on idle processors


@dataclass
class Beside:
    """What happened while the document was learned."""

    waits: list[float] = field(default_factory=list)  # seconds from a question to its answer
    foreign: int = 0  # answers with another channel's secret
    is_over: bool = False


async def run(plan: Plan, say: Say) -> list[Figure]:
    chance, ids = random.Random(plan.seed), iter(range(1, 10**9))
    pages, beside = plan.times or PAGES, Beside()
    async with world_of(plan, plan.folder / "data") as world:
        await world.ready(PATIENCE)
        known = [paper(f"paper-{number}.pdf", chance, lines=10) for number in range(ASKERS)]
        for number, own in enumerate(known):
            await learn(plan, world, f"asker{number}", own.name, own.data, ids)
        alone = await learn(plan, world, "learner", "alone.pdf", filler(chance, pages), ids)
        say(f"{pages} pages take {alone:.1f} s alone")
        asking = [asyncio.create_task(ask(world, number, known, beside, ids)) for number in range(ASKERS)]
        used, began = processor_seconds(world.pid), time.monotonic()
        took = await learn(plan, world, "learner", "beside.pdf", filler(chance, pages), ids)
        got = (processor_seconds(world.pid) - used) / (time.monotonic() - began)
        beside.is_over = True
        await asyncio.gather(*asking)
    return [
        Figure("load of the last minute; processors that the bot got", f"{os.getloadavg()[0]:.1f}; {got:.2f}"),
        Figure(f"seconds to learn {pages} pages alone, beside {ASKERS} askers", f"{alone:.1f}, {took:.1f}"),
        Figure("learning's share of its speed", f"{alone / took:.0%}"),
        every("documents learned", ASKERS + 2, ASKERS + 2),  # or `learn` had raised
        Figure("questions answered meanwhile", len(beside.waits)),
        at_most("median wait for an answer", statistics.median(beside.waits), MEDIAN),
        Figure("longest", f"{max(beside.waits):.1f} s"),
        none("answers with another channel's secret", beside.foreign),
    ]


def filler(chance: random.Random, pages: int) -> bytes:
    return make_pdf(*("\n".join(f"{chance.choice(FILLER).capitalize()}." for _ in range(LINES)) for _ in range(pages)))


async def learn(plan: Plan, world: World, channel: str, name: str, data: bytes, ids: Iterator[int]) -> float:
    """Seconds that it takes. Raises: RuntimeError, when it is not learned."""
    file: Path = plan.folder / name
    file.write_bytes(data)
    number, began = next(ids), time.monotonic()
    world.send(number, "hear", channel=channel, files=[{"name": name, "path": str(file)}])
    if (await world.answer(number, 6 * PATIENCE))["tone"] != "good":
        raise RuntimeError(f"{name} was not learned")
    return time.monotonic() - began


async def ask(world: World, asker: int, known: list[Paper], beside: Beside, ids: Iterator[int]) -> None:
    others = [one.secret for number, one in enumerate(known) if number != asker]
    while not beside.is_over:
        number, began = next(ids), time.monotonic()
        world.send(number, "ask", channel=f"asker{asker}", arguments={"question": known[asker].question})
        text = (await world.answer(number, PATIENCE))["text"]
        beside.waits.append(time.monotonic() - began)
        beside.foreign += any(secret in text for secret in others)


def processor_seconds(pid: int) -> float:
    """That a process has used, in all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
