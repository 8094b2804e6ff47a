"""kill -9 at random points of a job, from the arrival of a file to the last word about it; then start again.

One data folder lives through all of it. Each point: a new document into one of the channels, a kill, a look at the
folder, a start that must tell how every document ended that was acknowledged before.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bot.app import check_data
from tests.torture import Figure, Plan, Say, at_most, every, none
from tests.torture.papers import Paper, paper
from tests.torture.stored import job_stages, strays
from tests.torture.world import World

TIMES = 200
CHANNELS = 5
DOWNLOAD = 0.3  # seconds that a file takes to arrive
IN_TIME = 60.0  # seconds after a start in which every end must be told
PATIENCE = 600.0  # seconds until it counts as never told; on a busy machine, late is not lost
STARTING = 0.15  # of all kills fall into the start of the process


@dataclass
class Upload:
    number: int
    channel: str
    paper: Paper
    received: bool = False  # acknowledged
    ends: list[str] = field(default_factory=list)  # each time that its end was told: the tone
    refusals: list[str] = field(default_factory=list)  # what was said of it when it was not learned

    @property
    def learned(self) -> bool:
        return "good" in self.ends


@dataclass
class Tally:
    points: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    starts: int = 0
    starting: float = 1.0  # seconds that a start took at most
    tidy: int = 0
    told: int = 0  # starts after which every acknowledged document's end was told
    slowest: float = 0.0  # seconds from a start to the last of these
    problems: list[str] = field(default_factory=list)


async def run(plan: Plan, say: Say) -> list[Figure]:
    chance, times, tally = random.Random(plan.seed), plan.times or TIMES, Tally()
    folder = plan.folder / "data"
    uploads: dict[int, Upload] = {}
    span = await undisturbed(plan, folder, uploads, chance)
    say(f"an undisturbed document takes {span:.1f} s")
    for number in range(1, times + 1):
        await point(plan, folder, uploads, chance, span, tally, number)
        if number % 10 == 0:
            say(f"{number}/{times}: {dict(tally.points)}; {len(tally.problems)} problems {tally.problems[-3:]}")
    async with world_of(plan, folder) as world:
        await catch_up(world, uploads, tally)
        answers = {u.number: await ask(world, u) for u in uploads.values() if u.learned}
    wrong = [number for number, answer in answers.items() if uploads[number].paper.secret not in answer]
    tally.problems += [f"a wrong answer about {uploads[number].paper.name}: {answers[number]}" for number in wrong]
    for problem in tally.problems:
        say(problem)
    found = await asyncio.to_thread(check_data, folder)
    learned = [upload for upload in uploads.values() if upload.learned]
    names = set(found.documents.values())
    return [
        Figure("points, by where the job was", ", ".join(f"{n} {what}" for what, n in sorted(tally.points.items()))),
        every("index whole, weights of every document whole", tally.whole, times),
        every("after the start files and rows are the same", tally.tidy, tally.starts),
        every("every acknowledged end told after the start", tally.told, tally.starts),
        at_most("the slowest of these", tally.slowest, IN_TIME),
        none("documents told as learned that are gone", sum(upload.paper.name not in names for upload in learned)),
        none("documents with two versions", len(found.documents) - len(names)),
        none("learned documents that don't answer", len(wrong)),
        Figure("documents learned, of those handed in", f"{len(learned)}/{len(uploads)}"),
        Figure("ends told more than once", sum(len(upload.ends) > 1 for upload in uploads.values())),
    ]


async def undisturbed(plan: Plan, folder: Path, uploads: dict[int, Upload], chance: random.Random) -> float:
    """Seconds from a file's arrival to its end."""
    async with world_of(plan, folder) as world:
        await world.ready()
        upload = hand_in(plan, world, uploads, chance)
        end = await world.answer(upload.number)
        note(world, uploads)
        return end["at"] - world.events[1]["at"]


async def point(
    plan: Plan, folder: Path, uploads: dict[int, Upload], chance: random.Random, span: float, tally: Tally, number: int
) -> None:
    async with world_of(plan, folder) as world:
        if chance.random() < STARTING:
            await asyncio.sleep(chance.uniform(0, tally.starting))
            upload = None
        else:
            await catch_up(world, uploads, tally)
            upload = hand_in(plan, world, uploads, chance)
            await asyncio.sleep(chance.uniform(0, 1.2 * span))
    note(world, uploads)
    found = await asyncio.to_thread(check_data, folder)
    tally.points[where(upload, job_stages(folder))] += 1
    tally.whole += not found.problems
    tally.problems += [f"point {number}: {problem}" for problem in found.problems]
    names = set(found.documents.values())
    for known in uploads.values():
        if known.learned and known.paper.name not in names:
            tally.problems.append(f"point {number}: {known.paper.name} is lost")


async def catch_up(world: World, uploads: dict[int, Upload], tally: Tally) -> None:
    """After a start, everything that was acknowledged comes to its told end."""
    tally.starting = max(tally.starting, await world.ready())
    found = await asyncio.to_thread(check_data, world.folder)
    tally.starts += 1
    tally.tidy += not strays(world.folder) and not found.problems
    open_ones = [upload for upload in uploads.values() if upload.received and not upload.ends]
    try:
        ends = [await world.answer(upload.number, PATIENCE) for upload in open_ones]
    except TimeoutError:
        for upload in [upload for upload in open_ones if not ended(world, upload)]:
            said = [f"{e['event']} {e.get('text', '')!r}" for e in world.events if e.get("number") == upload.number]
            tally.problems.append(f"never told: {upload.paper.name}; since the start it was said: {said}")
    else:
        tally.told += 1
        ready = next(event["at"] for event in world.events if event["event"] == "ready")
        tally.slowest = max([tally.slowest, *(end["at"] - ready for end in ends)])
    note(world, uploads)
    for upload in open_ones:
        upload.ends = upload.ends or ["never"]


def hand_in(
    plan: Plan, world: World, uploads: dict[int, Upload], chance: random.Random, again: Upload | None = None
) -> Upload:
    """A new document, or one that was not learned."""
    number = len(uploads) + 1
    if again:
        upload = Upload(number, again.channel, again.paper)
    else:
        upload = Upload(number, f"channel{number % CHANNELS}", paper(f"paper-{number}.pdf", chance))
    uploads[number] = upload
    file = plan.folder / upload.paper.name
    file.write_bytes(upload.paper.data)
    files = [{"name": file.name, "path": str(file), "seconds": DOWNLOAD}]
    world.send(number, "hear", channel=upload.channel, files=files)
    return upload


async def ask(world: World, upload: Upload) -> str:
    number = 10**6 + upload.number
    arguments = {"question": upload.paper.question, "document": upload.paper.name}
    world.send(number, "ask", channel=upload.channel, arguments=arguments)
    return (await world.answer(number))["text"]


def note(world: World, uploads: dict[int, Upload]) -> None:
    """Write down what a process had said about uploads; each event once."""
    for event in world.events:
        upload = uploads.get(event.get("number", 0))
        if upload and not event.get("noted"):
            event["noted"] = True
            upload.received |= event["event"] == "received"
            if event["event"] in ("finish", "say"):
                upload.ends.append(event["tone"])
                if event["tone"] != "good":
                    upload.refusals.append(event["text"].partition("\n")[2])


def ended(world: World, upload: Upload) -> bool:
    return any(e["event"] in ("finish", "say") and e["number"] == upload.number for e in world.events)


def where(upload: Upload | None, stages: dict[str, tuple[str, bool]]) -> str:
    """By what the index knew of it."""
    if upload is None:
        return "starting"
    stage, delivered = stages.get(upload.paper.name, ("", False))
    if not stage:
        return "arriving"
    return "told" if delivered else "not yet told" if stage in ("done", "failed") else stage


def world_of(plan: Plan, folder: Path) -> World:
    return World(folder, plan.nursery if plan.fast else None, log=plan.folder / "log")
