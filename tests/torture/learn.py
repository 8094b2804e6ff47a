"""kill -9 of the command line itself, with the configured model: in the middle of learning, and while it saves."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
import textwrap
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot.app import check_data
from bot.cli.demo import SAMPLE
from tests.torture import Figure, Plan, Say, every, none
from tests.torture.papers import make_pdf
from tests.torture.stored import strays

TIMES = 10  # kills in learning, and as many in saving
QUESTION = "Who is the keeper of the lighthouse?"
COLUMNS, ROWS = 80, 12  # of a page: about 700 tokens in all


@dataclass
class Tally:
    stages: Counter[str] = field(default_factory=Counter)  # where the job was, by the index
    whole: int = 0  # index and files in order right after the kill
    lost: int = 0
    tidy: int = 0  # after the next start, files and rows are the same
    again: int = 0  # learned again, or found learned
    answered: int = 0
    known: set[str] = field(default_factory=set)  # acknowledged


async def run(plan: Plan, say: Say) -> list[Figure]:
    folder, chance = plan.folder / "data", random.Random(plan.seed)
    tally, times = Tally(), plan.times or TIMES
    seconds = await calibrate(plan, folder, chance, tally)
    say(f"learning three pages takes {seconds:.1f} s from its first step")
    for where in ("learning", "saving"):
        for number in range(times):
            file = write_sample(plan.folder, f"{where}-{number}.pdf", chance)
            await kill(plan, folder, file, where, chance.uniform(0, seconds), tally)
            for problem in await recover(plan, folder, file, tally):
                say(f"{file.name}: {problem}")
            say(f"{where} {number + 1}/{times}: {dict(tally.stages)}, answered {tally.answered}")
    points = 2 * times
    return [
        Figure("kills, by the stage that the index names", ", ".join(f"{n} {s}" for s, n in tally.stages.items())),
        every("index whole, weights of every document whole", tally.whole, points),
        none("acknowledged documents lost", tally.lost),
        every("after the next start files and rows are the same", tally.tidy, points),
        every("learned by the next `learn`", tally.again, points),
        every("and answers", tally.answered, points),
    ]


async def calibrate(plan: Plan, folder: Path, chance: random.Random, tally: Tally) -> float:
    """Seconds from the first step to the end, undisturbed."""
    file = write_sample(plan.folder, "undisturbed.pdf", chance)
    process = await start(plan, "learn", file, folder)
    await until(lambda: stage_of(folder, file.name) == "learning", process)
    began = time.monotonic()
    if await process.wait():
        raise RuntimeError("the undisturbed document was not learned")
    tally.known.add(file.name)
    return time.monotonic() - began


async def kill(plan: Plan, folder: Path, file: Path, where: str, delay: float, tally: Tally) -> None:
    before = names(folder / "weights")
    process = await start(plan, "learn", file, folder)
    if where == "learning":
        await until(lambda: stage_of(folder, file.name) == "learning", process)
        await asyncio.sleep(delay)
    else:
        await until(lambda: names(folder / "weights") - before, process, pause=0.0005)
    with suppress(ProcessLookupError):
        process.kill()
    if await process.wait() == 0:
        tally.known.add(file.name)
    tally.stages[stage_of(folder, file.name) or "no job"] += 1


async def recover(plan: Plan, folder: Path, file: Path, tally: Tally) -> list[str]:
    """Look, start again, learn again, ask; returns what was wrong."""
    found = await asyncio.to_thread(check_data, folder)
    tally.whole += not found.problems
    tally.lost += len(tally.known - set(found.documents.values()))
    problems = list(found.problems)
    status, said = await end_of(await start(plan, "learn", file, folder))
    if status == 0 or said.get("error", {}).get("kind") == "AlreadyKnown":
        tally.again += 1
    else:
        problems.append(f"not learned again: {said}")
    tally.known.add(file.name)
    found = await asyncio.to_thread(check_data, folder)
    tally.tidy += not found.problems and not strays(folder)
    tally.lost += len(tally.known - set(found.documents.values()))
    status, said = await end_of(await start(plan, "ask", QUESTION, folder, "--document", file.name))
    if status == 0 and said["learned"]["text"] and said["document"]["name"] == file.name:
        tally.answered += 1
    else:
        problems.append(f"no answer: {said}")
    return problems + [f"a file that no document names: {name}" for name in strays(folder)]


async def start(plan: Plan, command: str, what: object, folder: Path, *more: str) -> asyncio.subprocess.Process:
    program = "tests.torture.by_heart" if plan.fast else "bot"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", program, command, str(what), "--data-dir", str(folder), "--json", *more,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


async def end_of(process: asyncio.subprocess.Process) -> tuple[int, dict[str, Any]]:
    out, _ = await process.communicate()
    return process.returncode or 0, json.loads(out.splitlines()[-1]) if out else {}


async def until(happened: Any, process: asyncio.subprocess.Process, pause: float = 0.02) -> None:
    """Look again and again, until it is so or the process has ended."""
    while not happened() and process.returncode is None:
        await asyncio.sleep(pause)


def stage_of(folder: Path, name: str) -> str:
    """What another process can see of the newest job of that name."""
    if not (folder / "engram.db").exists():
        return ""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(folder / "engram.db")) as index:
        row = index.execute("SELECT stage FROM jobs WHERE name = ? ORDER BY number DESC", (name,)).fetchone()
        return row[0] if row else ""
    return ""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")}


def write_sample(folder: Path, name: str, chance: random.Random) -> Path:
    """Three pages of the sample document, with a line that no other file has."""
    lines = (SAMPLE / "handbook.md").read_text().encode("ascii", "replace").decode().splitlines()
    prose = " ".join(line for line in lines if line and line[0] not in "#?")
    rows = [f"Copy {chance.randrange(10**8)}.", *textwrap.wrap(prose, COLUMNS)]
    file = folder / name
    file.write_bytes(make_pdf(*("\n".join(rows[at * ROWS : (at + 1) * ROWS]) for at in range(3))))
    return file
