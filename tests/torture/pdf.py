"""Thousands of damaged and hostile files: each ends in text or in one sentence, in time, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bot.cli.demo import SAMPLE
from tests.torture import Figure, Plan, Say, at_most, every, none
from tests.torture.hostile import HOSTILE
from tests.torture.papers import paper

FILES = 3_000
KILLS = 100  # children killed at random points
TOGETHER = 2
LIMIT = 60.0  # seconds for one file
SMALL = 100_000  # bytes; larger hostile files are read once, and not damaged
SELDOM = 200  # one damaged file in so many is of a kind that takes the whole minute
FOREIGN = re.compile(r"[/\\]\w|\w\.py|code=|Error|Traceback")  # a path, or another library's words


@dataclass
class Tally:
    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


async def run(plan: Plan, say: Say) -> list[Figure]:
    chance, tally, times = random.Random(plan.seed), Tally(), plan.times or FILES
    before = set(os.listdir(tempfile.gettempdir()))
    sources = [(SAMPLE / "sample.pdf").read_bytes(), paper("x.pdf", chance).data]
    slow: list[bytes] = []
    for name, make in HOSTILE.items():
        seconds = await read(name, data := make(), tally)
        say(f"{name}: {seconds:.1f} s")
        if len(data) < SMALL:
            (slow if seconds > LIMIT / 2 else sources).append(data)
    hostile = dict(tally.ends)
    await read_damaged(times, sources, slow, chance, tally, say)
    survived = sum([await killed(sources[0], chance) for _ in range(min(KILLS, times))])
    for problem in tally.problems:
        say(problem)
    left = set(os.listdir(tempfile.gettempdir())) - before
    return [
        Figure("hostile files, how they ended", ", ".join(f"{n} {kind}" for kind, n in hostile.items())),
        Figure("all files, how they ended", ", ".join(f"{n} {kind}" for kind, n in tally.ends.items())),
        none("neither text nor a sentence of ours", len(tally.problems)),
        at_most("the slowest file", max(tally.seconds), LIMIT + 5),
        Figure("a file as a rule (median)", f"{statistics.median(tally.seconds):.2f} s"),
        every("children killed at random points: one sentence, and the next file is read", survived, min(KILLS, times)),
        none("files left behind", sum(name.startswith("engram-") and "torture" not in name for name in left)),
    ]


async def read_damaged(
    times: int, sources: Sequence[bytes], slow: Sequence[bytes], chance: random.Random, tally: Tally, say: Say
) -> None:
    """Most are ordinary documents. Whatever takes its whole minute takes it when damaged, too, so it comes seldom."""
    numbers = iter(range(1, times + 1))

    async def read_on() -> None:
        for number in numbers:
            kinds = slow if slow and number % SELDOM == 0 else sources[:2] if chance.random() < 0.6 else sources
            await read(f"damaged {number}", damaged(chance.choice(kinds), chance), tally)
            if number % 200 == 0:
                say(f"{number}/{times}: {dict(tally.ends)}, slowest {max(tally.seconds):.1f} s")

    await asyncio.gather(*(read_on() for _ in range(TOGETHER)))


async def read(name: str, data: bytes, tally: Tally) -> float:
    """Returns: seconds."""
    from core.document.formats import read_document
    from core.errors import Refused
    from core.types import Limits

    began = time.monotonic()
    try:
        end = "read" if (await read_document(data, Limits())).pages else "nothing"
    except Refused as refused:
        end = type(refused).__name__
        if FOREIGN.search(str(refused)):
            tally.problems.append(f"{name}: {refused}")
    except Exception as error:
        end = "broke"
        tally.problems.append(f"{name}: {error!r}")
    tally.ends[end] += 1
    tally.seconds.append(time.monotonic() - began)
    return tally.seconds[-1]


async def killed(data: bytes, chance: random.Random) -> bool:
    """Whether a child's death is one sentence, or came too late."""
    from core.document.formats import read_document
    from core.errors import Refused
    from core.types import Limits

    reading = asyncio.create_task(read_document(data, Limits()))
    await asyncio.sleep(chance.uniform(0.02, 0.6))
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    try:
        return bool((await reading).pages)
    except Refused:
        return True


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Cut, overwritten, doubled, with other numbers in it: most of it is still a PDF."""
    broken = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(8, len(broken))
        match chance.randrange(6):
            case 0:
                broken = broken[: max(at, 64)]
            case 1:
                for _ in range(chance.randrange(1, 100)):
                    broken[chance.randrange(8, len(broken))] = chance.randrange(256)
            case 2:
                broken[at:at] = broken[chance.randrange(len(broken)) :][:2000]
            case 3:
                del broken[at : at + chance.randrange(1, 500)]
            case 4:
                renumber(broken, chance)
            case 5:
                broken[at : at + 4] = chance.choice([b"null", b"<<<<", b"[[[[", b" -1 ", b"9999", b"\0\0\0\0", b"0 R "])
    return bytes(broken)


def renumber(broken: bytearray, chance: random.Random) -> None:
    """Another number in the place of one: a reference, a length, an offset."""
    numbers = list(re.finditer(rb"\d+", broken))
    if numbers:
        found = chance.choice(numbers)
        broken[found.start() : found.end()] = str(chance.choice([0, 1, 2, 3, -1, 2**31, 10**9, 65536])).encode()
