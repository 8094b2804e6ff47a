"""A channel's weights answer nobody else: canaries, and logits that are the same to the bit.

Canaries: 20 channels know 5 secrets each; the others ask for them, right after the owner did or all at once, and after
kills in the middle of answering. Logits: what the model computes for a channel in a process that has attached many
others' deltas, against one that has never seen another. With --fast only the canaries.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.torture import Figure, Plan, Say, every, none
from tests.torture.kill import world_of
from tests.torture.papers import make_pdf, paper
from tests.torture.world import World

if TYPE_CHECKING:
    from torch import Tensor

    from bot.app import App

Hashes = dict[str, list[str]]  # by model

CHANNELS = [  # the same numbers on both platforms, in a server, a second one, and as a person's own
    place.format(number)
    for number in range(5)
    for place in ("discord:7:{}", "slack:7:{}", "discord:dm:{}", "slack:T2:dm:{}")
]
SECRETS = 5  # in each channel
AT_ONCE = 40
KILLS = 50
QUESTIONS = 40  # to wrong channels, for each kill
LOGITS = 4  # channels whose logits are compared


@dataclass(frozen=True)
class Secret:
    channel: str
    question: str
    answer: str


async def run(plan: Plan, say: Say) -> list[Figure]:
    figures = await canaries(plan, say)
    return figures if plan.fast else figures + await logits(plan, say)


# Canaries: by the engine that learns by heart, since it gives a secret away whenever it is asked


async def canaries(plan: Plan, say: Say) -> list[Figure]:
    chance, ids, folder = random.Random(plan.seed), iter(range(1, 10**9)), plan.folder / "canaries"
    quick = replace(plan, fast=True)
    secrets = make_secrets(chance)
    times = plan.times or KILLS
    half = times * QUESTIONS // 2
    async with world_of(quick, folder) as world:
        await world.ready()
        for channel in CHANNELS:
            await teach(quick, world, channel, [s for s in secrets if s.channel == channel], ids)
        own = sum([secret.answer in await ask(world, ids, secret.channel, secret) for secret in secrets])
        say(f"{own}/{len(secrets)} secrets are told to their own channel")
        after = await leaks_right_after(world, secrets, chance, ids, half)
        at_once = await leaks_at_once(world, secrets, chance, ids, half)
    leaks = whole = 0
    for _ in range(times):
        async with world_of(quick, folder) as world:
            await world.ready()
            for secret in chance.sample(secrets, AT_ONCE):
                send(world, next(ids), secret.channel, secret)
            await asyncio.sleep(chance.uniform(0, 0.2))
        async with world_of(quick, folder) as world:
            await world.ready()
            secret, other = some_pair(secrets, chance)
            leaks += secret.answer in await ask(world, ids, other, secret)
            whole += secret.answer in await ask(world, ids, secret.channel, secret)
    return [
        every("secrets told to their own channel", own, len(secrets)),
        none(f"of {half} told to another channel right after their own", after),
        none(f"of {half} told to another channel while all ask at once", at_once),
        none(f"told to another channel after {times} kills in the middle of answering", leaks),
        every("told to their own channel after these", whole, times),
    ]


def make_secrets(chance: random.Random) -> list[Secret]:
    return [
        Secret(channel, f"What is the secret number of {subject}?", f"{chance.randrange(10**8):08d}")
        for channel in CHANNELS
        for subject in (f"vault{chance.randrange(16**6):06x}" for _ in range(SECRETS))
    ]


async def teach(plan: Plan, world: World, channel: str, secrets: Sequence[Secret], ids: Iterator[int]) -> None:
    facts = [s.question.replace("What is the", "The").replace("?", f" is {s.answer}.") for s in secrets]
    file = plan.folder / f"{len(list(plan.folder.iterdir()))}.pdf"
    file.write_bytes(make_pdf("\n".join(facts), "The harbour opens at six and closes at nine.\n" * 60))
    number = next(ids)
    world.send(number, "hear", channel=channel, files=[{"name": file.name, "path": str(file)}])
    if (await world.answer(number))["tone"] != "good":
        raise RuntimeError("a document with canaries was not learned")


async def leaks_right_after(
    world: World, secrets: Sequence[Secret], chance: random.Random, ids: Iterator[int], questions: int
) -> int:
    found = 0
    for _ in range(questions):
        secret, other = some_pair(secrets, chance)
        send(world, next(ids), secret.channel, secret)  # its owner's, which is answered just before
        found += secret.answer in await ask(world, ids, other, secret)
    return found


async def leaks_at_once(
    world: World, secrets: Sequence[Secret], chance: random.Random, ids: Iterator[int], questions: int
) -> int:
    found = 0
    for begun in range(0, questions, AT_ONCE):
        pairs = [some_pair(secrets, chance) for _ in range(min(AT_ONCE, questions - begun))]
        answers = await asyncio.gather(
            *(ask(world, ids, other, secret) for secret, other in pairs),
            *(ask(world, ids, secret.channel, secret) for secret, _ in pairs),
        )
        found += sum(secret.answer in answer for (secret, _), answer in zip(pairs, answers, strict=False))
    return found


def some_pair(secrets: Sequence[Secret], chance: random.Random) -> tuple[Secret, str]:
    """A secret, and a channel that may not know it."""
    secret = chance.choice(secrets)
    return secret, chance.choice([channel for channel in CHANNELS if channel != secret.channel])


def send(world: World, number: int, channel: str, secret: Secret) -> None:
    world.send(number, "ask", channel=channel, arguments={"question": secret.question})


async def ask(world: World, ids: Iterator[int], channel: str, secret: Secret) -> str:
    """What is answered, without the question in it."""
    number = next(ids)
    send(world, number, channel, secret)
    return (await world.answer(number))["text"]


# Logits: by the configured model


async def logits(plan: Plan, say: Say) -> list[Figure]:
    folder, chance = plan.folder / "logits", random.Random(plan.seed)
    channels = CHANNELS[:LOGITS]
    files = []
    for channel in channels:
        known = paper(f"{channel.replace(':', '-')}.pdf", chance, lines=28)
        files.append([channel, known.name, known.question])
        (plan.folder / known.name).write_bytes(known.data)
    empty = await compute(plan, plan.folder / "empty", [], [channels[0]], files)
    await compute(plan, folder, files, [], files)
    say(f"{len(channels)} channels have learned a document each")
    alone = [(await compute(plan, folder, [], [channel], files))[channel] for channel in channels]
    crowd = await compute(plan, folder, [], channels, files)
    say("compared with processes that know one channel only")
    erased = await compute(plan, folder, [], [channels[0]], files, reset=channels[0])
    same = sum(crowd[channel] == hashes for channel, hashes in zip(channels, alone, strict=True))
    return [
        every(
            "channels whose weights computed something", sum(bool(hashes["reader"]) for hashes in alone), len(channels)
        ),
        every("channels whose logits are the same to the bit as alone", same, len(channels)),
        every("different from each other", len({json.dumps(hashes["reader"]) for hashes in alone}), len(channels)),
        Figure(
            "after /reset the same to the bit as where nothing was learned",
            erased[channels[0]] == empty[channels[0]],
            "True",
            erased[channels[0]] == empty[channels[0]],
        ),
    ]


async def compute(
    plan: Plan, folder: Path, learn: Sequence[object], ask: Sequence[str], files: Sequence[object], reset: str = ""
) -> dict[str, Hashes]:
    """In a process of its own: hashes of all that one question computes, for each channel that is asked."""
    order = {"learn": learn, "ask": ask, "files": files, "papers": str(plan.folder), "reset": reset}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.torture.isolation", str(folder), json.dumps(order), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return json.loads(out.splitlines()[-1])


async def child(folder: Path, order: dict[str, Any]) -> dict[str, Hashes]:
    from bot.app import open_app
    from bot.settings import load_settings

    async with open_app(load_settings(data_dir=folder), learning=bool(order["learn"])) as app:
        engine = await app.runner.ready()
        for channel, name, _ in order["learn"]:
            job = await app.service.submit(channel, name, (Path(order["papers"]) / name).read_bytes(), by="ada")
            async for _ in app.service.watch(job.id):
                pass
        if order["reset"]:
            await app.service.reset(order["reset"])
        questions = {channel: question for channel, _, question in order["files"]}
        for _ in range(2 if len(order["ask"]) > 1 else 0):  # attach everything, all at once and one after another
            await asyncio.gather(*(app.service.ask(channel, questions[channel]) for channel in order["ask"]))
            for channel in reversed(order["ask"]):
                await app.service.ask(channel, questions[channel])
        return {channel: await hashes(app, engine, channel, questions[channel]) for channel in order["ask"]}


async def hashes(app: App, engine: Any, channel: str, question: str) -> Hashes:
    """Of the probabilities of all tokens, after each token of the answers: the base model's, and the reader's with the
    channel's weights. On a CPU; an answer on a GPU is recorded, and nothing can listen to it."""
    from core.learning import shared_passes

    seen: Hashes = {"base": [], "reader": []}
    probabilities = shared_passes.probabilities

    def note(model: object, x: Tensor) -> Tensor:
        p = probabilities(model, x)
        name = "base" if model is engine.base.model else "reader"
        seen[name].append(hashlib.sha256(p.numpy().tobytes()).hexdigest())
        return p

    shared_passes.probabilities = note
    try:
        await app.service.ask(channel, question)
    finally:
        shared_passes.probabilities = probabilities
    return seen


if __name__ == "__main__":
    import os

    print(json.dumps(asyncio.run(child(Path(sys.argv[1]), json.loads(sys.argv[2])))), flush=True)
    os._exit(0)
