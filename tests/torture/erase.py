"""What was erased is searched for, byte by byte, in every file of the data folder.

100 canaries: words in the text, in names, in questions. After /forget or /reset none may be left, in plain text or in
the form that the weights hold it, also when the process is killed in the middle and starts again. Another channel's
100 stay.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bot.app import check_data
from tests.torture import Figure, Plan, Say, at_most, every, none
from tests.torture.kill import world_of
from tests.torture.papers import make_pdf
from tests.torture.world import World

TIMES = 50  # kills
CANARIES = 100  # in each channel
IN_TEXT = 90  # of them; the others are in names and questions
PATIENCE = 60.0  # seconds


@dataclass
class Planted:
    channel: str
    words: list[str]
    names: list[str]  # of the documents
    orders: list[int] = field(default_factory=list)  # to erase it


async def run(plan: Plan, say: Say) -> list[Figure]:
    folder, chance, times = plan.folder / "data", random.Random(plan.seed), plan.times or TIMES
    left = {"forget": 0, "reset": 0}
    ordered, took, ids = [], [], iter(range(1, 10**9))  # seconds until it was said to be done, and until it was
    async with world_of(plan, folder) as world:
        await world.ready()
        kept = await plant(plan, world, "kept", chance, ids)
        for how in left:
            gone = await plant(plan, world, "gone", chance, ids, refused=how == "reset")
            before = remains(folder, gone.words)
            began = time.monotonic()
            await erase(world, gone, how, ids)
            ordered.append(time.monotonic() - began)
            while (found := remains(folder, gone.words)) and time.monotonic() - began < PATIENCE:
                await asyncio.sleep(0.1)
            took.append(time.monotonic() - began)
            left[how] = found
            say(f"{how}: {before} canaries before, {found} after {took[-1]:.1f} s; {remains(folder, kept.words)} kept")
        answers = await ask_all(world, kept, ids)
    killed, unfinished, problems, slowest = 0, 0, 0, 0.0
    for number in range(times):
        how = chance.choice([*left])
        async with world_of(plan, folder) as world:
            await world.ready()
            gone = await plant(plan, world, f"gone{number}", chance, ids, refused=how == "reset")
            erasing = asyncio.create_task(erase(world, gone, how, ids))
            await asyncio.sleep(chance.uniform(0, min(ordered)))
            world.kill()
            await asyncio.gather(erasing, return_exceptions=True)
            received = sum(e["event"] == "received" and e["number"] in gone.orders for e in world.events)
        killed += bool(remains(folder, gone.words))
        async with world_of(plan, folder) as world:
            await world.ready()
            if received < len(gone.orders):  # the kill came before it was taken
                await erase(world, gone, how, ids)
            began = time.monotonic()
            while remains(folder, gone.words) and time.monotonic() - began < PATIENCE:
                await asyncio.sleep(0.1)
            slowest = max(slowest, time.monotonic() - began)
        unfinished += bool(remains(folder, gone.words))
        problems += len((await asyncio.to_thread(check_data, folder)).problems)
        if (number + 1) % 10 == 0:
            say(f"{number + 1}/{times}: {killed} killed in the middle, {unfinished} not finished")
    async with world_of(plan, folder) as world:
        await world.ready()
        same = await ask_all(world, kept, ids) == answers
    return [
        none("canaries left after /forget", left["forget"]),
        none("canaries left after /reset", left["reset"]),
        at_most("the slower of the two", max(took), PATIENCE),
        every("another channel's canaries kept", remains(folder, kept.words), CANARIES),
        Figure("its answers are the same to the letter", same, "True", same),
        Figure("kills that came before the end of an erase", f"{killed}/{times}"),
        every("finished after the next start", times - unfinished, times),
        at_most("the slowest of these", slowest, PATIENCE),
        none("problems in index or weights", problems),
    ]


async def plant(
    plan: Plan, world: World, channel: str, chance: random.Random, ids: Iterator[int], *, refused: bool = True
) -> Planted:
    """Two documents, a refused one, and answers, with canaries in all of them."""
    words = [f"{chance.randrange(16**14):014x}" for _ in range(CANARIES)]
    texts, others = words[:IN_TEXT], words[IN_TEXT:]
    halves = [texts[: IN_TEXT // 2], texts[IN_TEXT // 2 :]]
    names = [f"{others[0]}.pdf", f"{others[1]}.pdf"]
    for name, half in zip(names, halves, strict=True):
        lines = [f"The word of number {at} is {word}. Nobody knows why it was chosen." for at, word in enumerate(half)]
        pages = ["\n".join(lines[at : at + 15]) for at in range(0, len(lines), 15)]
        await hand_in(plan, world, channel, name, make_pdf(*pages, "The harbour opens at six. " * 20), ids)
    if refused:
        await hand_in(plan, world, channel, f"{others[2]}.pdf", make_pdf("Too short."), ids)
    for word in others[3 if refused else 2 :]:
        await order(world, ids, "ask", channel, question=f"What is {word}?", document=names[0])
    return Planted(channel, words, names)


async def erase(world: World, planted: Planted, how: str, ids: Iterator[int]) -> None:
    names = [""] if how == "reset" else planted.names
    planted.orders = [next(ids) for _ in names]
    for number, name in zip(planted.orders, names, strict=True):
        do = "press" if how == "reset" else "forget"
        world.send(number, do, channel=planted.channel, action="reset", arguments={"document": name})
    for number in planted.orders:
        await world.answer(number, PATIENCE)


async def ask_all(world: World, planted: Planted, ids: Iterator[int]) -> list[str]:
    """What the channel answers to questions about its documents."""
    return [
        await order(world, ids, "ask", planted.channel, question=f"What is the word of number {at}?", document=name)
        for name in planted.names
        for at in range(5)
    ]


async def hand_in(plan: Plan, world: World, channel: str, name: str, data: bytes, ids: Iterator[int]) -> None:
    number, file = next(ids), plan.folder / name
    file.write_bytes(data)
    world.send(number, "hear", channel=channel, files=[{"name": name, "path": str(file)}])
    await world.answer(number, PATIENCE)
    file.unlink()


async def order(world: World, ids: Iterator[int], do: str, channel: str, **arguments: str) -> str:
    number = next(ids)
    world.send(number, do, channel=channel, arguments=arguments)
    return (await world.answer(number, PATIENCE))["text"]


def remains(folder: Path, words: list[str]) -> int:
    """Words of which anything is left: their last ten letters in UTF-8 or UTF-16, or as numbers in half precision, the
    way in which the engine that learns by heart stores them. (The search index leaves out what two words share.)"""
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return sum(any(form in data for form in forms(word[-10:])) for word in words)


def forms(word: str) -> tuple[bytes, ...]:
    return word.encode(), word.encode("utf-16-le"), struct.pack(f"<{len(word)}e", *word.encode())
