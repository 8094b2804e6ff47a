"""The configured model in two workers on PostgreSQL and S3: what it says there is what it says in one process.

Four channels know a part of the sample each. Every question about it is asked in its own channel and in another one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bot.cli.demo import SAMPLE
from tests import objects, postgres
from tests.torture import Figure, Plan, Say, every
from tests.torture.servers import DURABLE
from tests.torture.soak import PATIENCE
from tests.torture.world import World

CHANNELS = 4
PARAGRAPHS = 3  # of the sample, for each channel
WORKING = 5.0  # seconds of a processor, apart from loading the model, by which a worker is known to have learned


@dataclass
class Part:
    """What one channel knows."""

    channel: str
    text: str = ""
    questions: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    own: list[str] = field(default_factory=list)  # answers, part by part
    elsewhere: list[str] = field(default_factory=list)  # asked in the next part's channel
    worked: list[float] = field(default_factory=list)  # seconds of a processor that each worker used
    weights: dict[str, str] = field(default_factory=dict)  # channel and tensor -> sha256


async def run(plan: Plan, say: Say) -> list[Figure]:
    before, parts = dict(os.environ), sample_parts()
    alone = await listen(plan, ["bot"], parts)
    say("one process has learned and answered")
    try:
        with postgres.running(DURABLE) as database, objects.running() as variables:
            os.environ |= variables | {"ENGRAM_DATABASE_URL": database.url()}
            os.environ["ENGRAM_OBJECTS"] = f"s3://{objects.BUCKET}/engram"
            servers = await listen(plan, ["front end 1", "worker", "worker"], parts)
    finally:
        os.environ.clear()
        os.environ.update(before)
    for one, other in zip(alone.own + alone.elsewhere, servers.own + servers.elsewhere, strict=True):
        if one != other:
            say(f"{one!r} / {other!r}")
    expected = [text for part in parts for text in part.expected]
    same_weights = sum(servers.weights.get(name) == digest for name, digest in alone.weights.items())
    return [
        every("tensors that are the same to the bit", same_weights, len(alone.weights)),
        every(
            "answers in the own channel that are the same to the letter", same(alone.own, servers.own), len(expected)
        ),
        every("in another channel", same(alone.elsewhere, servers.elsewhere), len(expected)),
        Figure(
            "right in the own channel, one process and two workers",
            f"{right(alone.own, expected)}, {right(servers.own, expected)} of {len(expected)}",
        ),
        Figure("right in another channel", f"{right(alone.elsewhere, expected)}, {right(servers.elsewhere, expected)}"),
        every("workers that have learned", sum(seconds > WORKING for seconds in servers.worked), 2),
        Figure("seconds of a processor, of each worker", ", ".join(f"{seconds:.0f}" for seconds in servers.worked)),
    ]


def sample_parts() -> list[Part]:
    [article] = json.loads((SAMPLE / "sample.squad.json").read_text())["data"]
    parts = []
    for number in range(CHANNELS):
        part = Part(f"channel{number}")
        for paragraph in article["paragraphs"][number * PARAGRAPHS :][:PARAGRAPHS]:
            part.text += paragraph["context"] + "\n\n"
            for question in paragraph["qas"]:
                part.questions.append(question["question"])
                part.expected.append(question["answers"][0]["text"])
        parts.append(part)
    return parts


async def listen(plan: Plan, roles: Sequence[str], parts: Sequence[Part]) -> Outcome:
    folder, outcome = plan.folder / roles[0], Outcome()
    folder.mkdir()
    async with AsyncExitStack() as stack:
        worlds = [World(folder / "data", role=role, log=folder / "log") for role in roles]
        for world in worlds:
            await stack.enter_async_context(world)
        for world in worlds:
            await world.ready()
        workers = [psutil.Process(world.pid) for world in worlds if world.role == "worker"]
        before = [worker.cpu_times().user for worker in workers]
        await asyncio.gather(*(teach(worlds[0], folder, number, part) for number, part in enumerate(parts)))
        outcome.worked = [worker.cpu_times().user - used for worker, used in zip(workers, before, strict=True)]
        numbers = iter(range(1_000, 10**9))
        for part, other in zip(parts, [*parts[1:], parts[0]], strict=True):
            for question in part.questions:
                outcome.own.append(await ask(worlds[0], next(numbers), part.channel, question))
                outcome.elsewhere.append(await ask(worlds[0], next(numbers), other.channel, question))
    outcome.weights = await stored(folder / "data", parts)
    return outcome


async def stored(data: Path, parts: Sequence[Part]) -> dict[str, str]:
    from bot.app import open_app
    from bot.settings import load_settings

    digests = {}
    async with open_app(load_settings(data_dir=data), learning=False) as app:
        for part in parts:
            [document] = await app.service.documents(part.channel)
            tensors = await asyncio.to_thread(app.service._weights.load_all, document.weights, part.channel)
            for name, tensor in tensors.items():
                digests[f"{part.channel}/{name}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    return digests


async def teach(world: World, folder: Path, number: int, part: Part) -> None:
    """Raises: RuntimeError, when it is not learned."""
    file = folder / f"part-{number}.txt"
    file.write_text(part.text)
    world.send(number, "hear", channel=part.channel, files=[{"name": file.name, "path": str(file)}])
    end = await world.answer(number, PATIENCE)
    if end["tone"] != "good":
        raise RuntimeError(f"{file.name} was not learned: {end['text']}")


async def ask(world: World, number: int, channel: str, question: str) -> str:
    """What is answered."""
    world.send(number, "ask", channel=channel, arguments={"question": question})
    return (await world.answer(number, PATIENCE))["text"]


def same(answers: Sequence[str], others: Sequence[str]) -> int:
    return sum(answer == other for answer, other in zip(answers, others, strict=True))


def right(answers: Sequence[str], expected: Sequence[str]) -> int:
    return sum(text.casefold() in answer.casefold() for text, answer in zip(expected, answers, strict=True))
