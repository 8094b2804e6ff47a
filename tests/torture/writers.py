"""Eight writers at once on one index, questions and a backup beside them: nobody ever sees that it is locked."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import TYPE_CHECKING

from tests.torture import Figure, Plan, Say, none
from tests.torture.by_heart import install
from tests.torture.papers import paper
from tests.torture.stored import strays

if TYPE_CHECKING:
    from core.service import Service

WRITERS = 8


async def run(plan: Plan, say: Say) -> list[Figure]:
    from bot.app import check_data, open_app
    from bot.settings import load_settings
    from storage.backup import back_up

    install(step_seconds=0.0)
    folder, done, backups = plan.folder / "data", [0] * WRITERS, 0
    errors: list[str] = []
    async with open_app(load_settings(data_dir=folder)) as app:
        until = time.monotonic() + plan.seconds
        tasks = [asyncio.create_task(write(app.service, n, plan.seed, until, done, errors)) for n in range(WRITERS)]
        while time.monotonic() < until:
            await asyncio.to_thread(back_up, folder, plan.folder / "backup")
            backups += 1
            await asyncio.sleep(2)
        await asyncio.gather(*tasks)
    found = await asyncio.to_thread(check_data, folder)
    for error in errors[:10]:
        say(error)
    return [
        Figure("rounds of upload, question, list and reset", sum(done)),
        Figure("backups meanwhile", backups),
        none("errors that a person would have seen", len(errors)),
        none("problems in index or weights", len(found.problems) + len(strays(folder))),
    ]


async def write(service: Service, number: int, seed: int, until: float, done: list[int], errors: list[str]) -> None:
    """One channel's life, again and again."""
    chance, channel = random.Random(f"{seed}-{number}"), f"channel{number}"
    for turn in itertools.count():
        if time.monotonic() > until:
            return
        try:
            known = paper(f"paper-{turn}.pdf", chance, lines=28)
            job = await service.submit(channel, known.name, known.data, by="ada")
            answer = await service.ask(channel, known.question)
            await service.feedback(channel, answer.id, by="ada", helpful=True)
            await service.inbox.receive(f"test:{number}-{turn}", "hello")
            if turn % 5 == 4:
                await service.reset(channel)
            else:
                async for _ in service.watch(job.id):
                    pass
                await service.delivered(job.id)
            await service.inbox.handled(f"test:{number}-{turn}")
            done[number] += 1
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
