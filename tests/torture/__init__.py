"""Breaks the bot on purpose and counts what is lost: `python -m tests.torture MODE`. Real processes on real storage.

A mode is a module with `async def run(plan: Plan, say: Say) -> list[Figure]` and a row in MODES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.torture.world import Nursery

Say = Callable[[str], None]  # a line of what happens

MODES = {  # name -> what it does; its module has the same name
    "kill": "kill -9 at random points of a job, then start again",
    "learn": "kill -9 the command line while it learns and while it saves",
    "sigterm": "SIGTERM in the middle of learning",
    "full": "fill the disk at random points",
    "damage": "flip, cut and swap files of weights",
    "erase": "search the data folder for canaries after /forget and /reset, and after a crash in the middle",
    "isolation": "ask channels for each other's secrets; compare logits with a process that knows one channel only",
    "poison": "learn documents that give orders; nobody else's answers may change",
    "pdf": "read thousands of damaged and hostile files",
    "writers": "eight writers at once on one index",
    "stall": "the event loop while other processes want all of the processors",
    "load": "five people ask without a pause while a document of --times pages is learned",
    "servers": "front ends and workers on PostgreSQL and S3: kill -9, a restart of the database, cuts of the network",
    "model": "the model in two workers on PostgreSQL and S3 says what it says in one process",
    "crowd": "200 channels ask while all workers learn: one process, then two front ends and four workers",
    "soak": "uploads, questions, resets and restarts, for as long as --seconds says",
}


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    folder: Path  # an empty one; each mode makes its data folders there
    times: int | None = None  # how often; None: as many as the promise names
    seconds: float = 60.0  # for what is measured in time
    seed: int = 0
    fast: bool = False  # the tiny engine that learns by heart, instead of the configured model
    nursery: Nursery | None = None  # where processes with that engine come from


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    found: object
    wanted: str = ""  # "" : no promise hangs on it
    good: bool = True


async def torture(mode: str, plan: Plan, say: Say) -> list[Figure]:
    """Run one mode to its end."""
    from tests.torture.world import Nursery

    async with Nursery() as nursery:
        return await import_module(f"tests.torture.{mode}").run(replace(plan, nursery=nursery), say)


def none(what: str, found: int) -> Figure:
    """Of this there may be none."""
    return Figure(what, found, "0", found == 0)


def every(what: str, found: int, of: int) -> Figure:
    """This must have gone well each time."""
    return Figure(what, f"{found}/{of}", f"{of}/{of}", found == of)


def at_most(what: str, found: float, limit: float, unit: str = "s") -> Figure:
    return Figure(what, f"{found:,.2f} {unit}", f"<= {limit:g} {unit}", found <= limit)
