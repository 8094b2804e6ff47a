"""A mixed load for as long as asked: uploads, questions, resets, restarts. Nothing may be lost, cross over, or grow.

The process is ended twice in the first third, by SIGTERM and by kill -9. Memory and file descriptors are looked at in
the life that lasts to the end, after it has warmed up.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bot.app import check_data
from tests.torture import Figure, Plan, Say, at_most, every, kill, none
from tests.torture.kill import world_of
from tests.torture.papers import paper
from tests.torture.stored import strays
from tests.torture.world import World

CHANNELS = 6
FAST, SLOW = (5.0, 0.5, 30.0), (90.0, 6.0, 420.0)  # seconds between uploads, questions, erases; SLOW: with the model
KEPT = 4  # documents of a channel; then one is forgotten
SAMPLE_EVERY = 5.0
LEAST_SAMPLES = 3  # of the life that is judged; a slow machine takes longer to learn its first document
STALL = 0.25  # seconds
GROWTH = 5.0  # percent
PATIENCE = 600.0  # seconds for the last ends to be told


@dataclass
class Upload(kill.Upload):
    removed: bool = False  # forgotten, or reset


@dataclass
class Load:
    plan: Plan
    chance: random.Random
    world: World
    uploads: dict[int, Upload] = field(default_factory=dict)
    asked: dict[int, Upload] = field(default_factory=dict)  # question -> what it was about
    sure: set[int] = field(default_factory=set)  # questions that must be answered with the secret
    numbers: Any = None
    answered: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)  # crossed over
    failed: list[str] = field(default_factory=list)  # refused, or not what must come
    resets: int = 0
    late: int = 0  # no answer within a minute
    samples: list[dict[str, float]] = field(default_factory=list)  # of this life, once it has ended a document
    ends_before: int = 0  # of this life

    def next(self) -> int:
        return next(self.numbers)

    @property
    def ends(self) -> int:
        return sum(len(upload.ends) for upload in self.uploads.values())


async def run(plan: Plan, say: Say) -> list[Figure]:
    folder, began = plan.folder / "data", time.monotonic()
    load = Load(plan, random.Random(plan.seed), None, numbers=iter(range(1, 10**9)))  # type: ignore[arg-type]
    stalls: list[dict[str, float]] = []
    lives = [(plan.seconds / 6, signal.SIGTERM), (plan.seconds / 3, signal.SIGKILL), (plan.seconds, None)]
    for until, how in lives:
        async with world_of(plan, folder) as world:
            load.world, load.samples, load.ends_before = world, [], load.ends
            await world.ready(PATIENCE)
            await live(load, began + until, say, least_samples=0 if how else LEAST_SAMPLES)
            if how is None:
                await settle(load)
            stalls += [await world.stats(load.next())]
            if how is not None:
                world.kill(how)
                await world.gone()
        note(load)
    found = await asyncio.to_thread(check_data, folder)
    for line in (load.wrong + load.failed)[:10]:
        say(line)
    (plan.folder / "samples.json").write_text(json.dumps(load.samples))
    return [*outcome(load, found.problems, len(strays(folder))), *health(load.samples, stalls, plan.seconds)]


def outcome(load: Load, problems: Sequence[str], strays: int) -> list[Figure]:
    uploads = [upload for upload in load.uploads.values() if upload.received]
    told = sum(bool(upload.ends) or upload.removed for upload in uploads)
    learned = sum(upload.learned for upload in uploads)
    sure = len(load.sure)
    return [
        Figure("documents handed in, learned", f"{len(uploads)}, {learned}"),
        every("documents whose end was told, or that were erased", told, len(uploads)),
        Figure("questions answered, resets", f"{load.answered}, {load.resets}"),
        none("answers with another channel's secret", len(load.wrong)),
        *([every("answers with the secret, where it was known", load.right, sure)] if load.plan.fast else []),
        none("refused", len(load.failed)),
        none("not answered within a minute", load.late),
        none("problems in index, weights and files at the end", len(problems) + strays),
    ]


def health(samples: Sequence[dict[str, float]], stalls: Sequence[dict[str, float]], seconds: float) -> list[Figure]:
    """Of the last life without its first third, which warms up: its first fifth against its last."""
    warm = samples[len(samples) // 3 :]
    fifth = max(1, len(warm) // 5)
    first, last = warm[:fifth], warm[-fifth:]

    def middle(of: Sequence[dict[str, float]], key: str) -> float:
        return statistics.median(sample[key] for sample in of)

    before, after = middle(first, "rss"), middle(last, "rss")
    growth = 100 * (after - before) / before
    fds = middle(first, "fds"), middle(last, "fds")
    longest, own = (max(life[key] for life in stalls) for key in ("stall", "own_stall"))
    return [
        Figure("memory, then and at the end", f"{before / 2**20:,.0f} MB, {after / 2**20:,.0f} MB"),
        Figure("growth of memory", f"{growth:+.1f} %", f"<= {GROWTH:g} %", growth <= GROWTH),
        Figure("most memory", f"{max(sample['rss'] for sample in samples) / 2**20:,.0f} MB"),
        Figure(
            "file descriptors, then and at the end",
            f"{fds[0]:g}, {fds[1]:g}",
            f"at most {2 + CHANNELS} more",  # each channel's file stays open once it was used
            fds[1] - fds[0] <= 2 + CHANNELS,
        ),
        at_most("longest stall of the event loop, waiting for a processor left out", own, STALL),
        Figure("the same with it", f"{longest:.2f} s"),
        Figure("seconds in all", f"{seconds:,.0f}"),
    ]


async def live(load: Load, until: float, say: Say, least_samples: int) -> None:
    """One life of the process: until then, and until there are so many samples."""
    upload_every, ask_every, erase_every = FAST if load.plan.fast else SLOW
    tasks = [
        asyncio.create_task(again(upload, load, upload_every)),
        asyncio.create_task(again(ask, load, ask_every)),
        asyncio.create_task(again(erase, load, erase_every)),
        asyncio.create_task(again(sample, load, SAMPLE_EVERY)),
        asyncio.create_task(sample(load)),  # a short life may end before the next one
    ]
    while (rest := until - time.monotonic()) > 0 or (len(load.samples) < least_samples and rest > -PATIENCE):
        await asyncio.sleep(min(60.0, rest) if rest > 0 else 1.0)
        note(load)
        say(f"{max(0.0, until - time.monotonic()):,.0f} s left: {len(load.uploads)} documents, {load.answered} answers")
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, (EOFError, TimeoutError)):
            raise result


async def again(what: Any, load: Load, every_seconds: float) -> None:
    while True:
        await asyncio.sleep(load.chance.expovariate(1 / every_seconds))
        try:
            await what(load)
        except TimeoutError:
            load.late += 1


async def upload(load: Load) -> None:
    number = load.next()
    new = Upload(
        number, f"channel{load.chance.randrange(CHANNELS)}", paper(f"paper-{number}.pdf", load.chance, lines=28)
    )
    load.uploads[number] = new
    file = load.plan.folder / new.paper.name
    file.write_bytes(new.paper.data)
    load.world.send(number, "hear", channel=new.channel, files=[{"name": file.name, "path": str(file)}])


async def ask(load: Load) -> None:
    """About a document that is known: mostly where it is, else in a channel that may not know."""
    known = [one for one in load.uploads.values() if one.learned and not one.removed]
    if not known:
        return
    about, number = load.chance.choice(known), load.next()
    home = load.chance.random() < 0.7
    channel = about.channel if home else f"channel{load.chance.randrange(CHANNELS)}"
    load.world.send(number, "ask", channel=channel, arguments={"question": about.paper.question})
    text = (await load.world.answer(number))["text"]
    load.answered += 1
    others = {one.paper.secret for one in load.uploads.values() if one.channel != channel}
    load.wrong += [f"{channel} was told {secret}" for secret in others if secret in text]
    if not re.search(
        "without the document|find that in|seem to be about|know any documents|still learning|forgotten while",
        text,
        re.I,
    ):
        load.failed.append(f"{channel}: {text}")
    if home and not about.removed:
        load.sure.add(number)
        load.right += about.paper.secret in text


async def erase(load: Load) -> None:
    """Forget the oldest document of a full channel, or reset a channel."""
    channel, number = f"channel{load.chance.randrange(CHANNELS)}", load.next()
    mine = [one for one in load.uploads.values() if one.channel == channel and not one.removed]
    known = [one for one in mine if one.learned]
    if len(known) > KEPT:
        known[0].removed = True
        load.world.send(number, "forget", channel=channel, arguments={"document": known[0].paper.name})
    else:
        for one in mine:
            one.removed = True
        load.resets += 1
        load.world.send(number, "press", channel=channel, action="reset")
    await load.world.answer(number)


async def sample(load: Load) -> None:
    now = await load.world.stats(load.next())
    note(load)
    if load.ends > load.ends_before:  # before that the model is loaded
        load.samples.append({key: now[key] for key in ("rss", "fds", "tasks", "stall", "own_stall", "at")})


def note(load: Load) -> None:
    """Write down which ends were told, and forget what was read."""
    for event in load.world.events:
        one = load.uploads.get(event.get("number", 0))
        if one:
            one.received |= event["event"] == "received"
            one.ends += [event["tone"]] if event["event"] == "finish" else []
    load.world.events.clear()


async def settle(load: Load) -> None:
    """Every end is told, or the patience is over."""
    until = time.monotonic() + PATIENCE
    while (
        any(one.received and not one.ends and not one.removed for one in load.uploads.values())
        and time.monotonic() < until
    ):
        await asyncio.sleep(0.5)
        note(load)
