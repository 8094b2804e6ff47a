"""Files of weights that were changed behind the bot's back: each is noticed before it is used, and said."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.torture import Figure, Plan, Say, every
from tests.torture.by_heart import install
from tests.torture.papers import Paper, paper

if TYPE_CHECKING:
    from bot.app import App
    from core.service import Service

FLIPS, CUTS, SWAPS, OLD = 1_000, 300, 100, 100


async def run(plan: Plan, say: Say) -> list[Figure]:
    from bot.app import open_app
    from bot.settings import load_settings

    install(step_seconds=0.0)
    chance, figures = random.Random(plan.seed), []
    async with open_app(load_settings(data_dir=plan.folder / "data")) as app:
        papers = {channel: await teach(app.service, channel, chance) for channel in ("here", "there")}
        files = {channel: await file_of(app, plan.folder / "data", channel) for channel in papers}
        whole = {channel: file.read_bytes() for channel, file in files.items()}

        async def noticed(data: dict[str, bytes]) -> bool:
            """Whether nothing is answered out of these files, which look as old as before."""
            for channel, changed in data.items():
                put(files[channel], changed)
            return all([await refused(app.service, channel, papers[channel]) for channel in data])

        def flipped() -> dict[str, bytes]:
            data = bytearray(whole["here"])
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            return {"here": bytes(data)}

        def cut() -> dict[str, bytes]:
            return {"here": whole["here"][: chance.randrange(len(whole["here"]))]}

        def swapped() -> dict[str, bytes]:
            return {"here": whole["there"], "there": whole["here"]}

        earlier = await an_earlier_version(app, plan.folder / "data", chance)

        def earlier_version() -> dict[str, bytes]:
            return {"here": earlier}

        kinds: list[tuple[str, int, Callable[[], dict[str, bytes]]]] = [
            ("flips of one bit", FLIPS, flipped),
            ("truncations", CUTS, cut),
            ("swaps of two channels' files", SWAPS, swapped),
            ("a forgotten document's file put in its place", OLD, earlier_version),
        ]
        for name, promised, change in kinds:
            times = plan.times or promised
            good = sum([await noticed(change()) for _ in range(times)])
            figures.append(every(f"{name}, noticed and nothing served", good, times))
            say(f"{name}: {good}/{times}")
            for channel, data in whole.items():
                put(files[channel], data)
        healed = sum([not await refused(app.service, channel, known) for channel, known in papers.items()])
        figures.append(every("whole files answer again", healed, len(papers)))
    return figures


async def teach(service: Service, channel: str, chance: random.Random) -> Paper:
    known = paper("paper.pdf", chance)
    job = await service.submit(channel, known.name, known.data, by="ada")
    async for _ in service.watch(job.id):
        pass
    return known


async def file_of(app: App, folder: Path, channel: str) -> Path:
    [document] = await app.service.documents(channel)
    return folder / document.weights.path


async def an_earlier_version(app: App, folder: Path, chance: random.Random) -> bytes:
    """A file that this bot once wrote, of a document that is forgotten since."""
    await teach(app.service, "old", chance)
    data = (await file_of(app, folder, "old")).read_bytes()
    await app.service.reset("old")
    return data


async def refused(service: Service, channel: str, known: Paper) -> bool:
    """Raises whatever is not the sentence for it."""
    from core.errors import WeightsDamaged

    try:
        answer = await service.ask(channel, known.question)
    except WeightsDamaged:
        return True
    if answer.learned is None or known.secret not in answer.learned.text:
        raise RuntimeError("a wrong answer was served")
    return False


def put(path: Path, data: bytes) -> None:
    """Change a file's bytes and nothing else, its times neither."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
