"""The whole story on each platform, with the real core and the embedded model: a PDF comes in, the process stops while
it is learned, goes on with it after the restart, somebody else asks in a thread, and in the end all is forgotten.

`pytest -s tests/bot/test_story.py` prints what people saw.
"""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import discord
import pytest
import simcord
import yarl

from core.document.formats import read_document
from core.engine import Engine, EngineConfig
from core.service import Service
from core.types import Stage
from storage.index import Index
from storage.weights import Weights
from tests.bot import test_discord, test_slack
from tests.bot.slack_fake import CHANNEL, MENTION, FakeSlack
from tests.bot.story import FOLLOW_UP, LIMITS, PDF, QUESTION
from tests.bot.test_slack import slack
from tests.conftest import Open
from tests.timeouts import WAIT


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Engine.load(EngineConfig(device="cpu", max_answer_tokens=12), light=True)
    torch.set_num_threads(threads)


class Process:
    """What a restart replaces: the runner and the service; the index, the weights and the model stay."""

    def __init__(self, open_service: Open, engine: Engine) -> None:
        self._open, self._engine = open_service, engine

    async def __aenter__(self) -> Process:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        self.service: Service = await self._stack.enter_async_context(
            self._open(self._engine, read=read_document, limits=LIMITS)
        )

    async def stop(self) -> None:
        await self._stack.aclose()

    async def learning(self, channel: str) -> None:
        """Until the first step of a job is done."""
        async with asyncio.timeout(WAIT):
            while not (jobs := await self.service.jobs(channel)):
                await asyncio.sleep(0.01)
            async for news in self.service.watch(jobs[0].id):
                if news.step:
                    return

    async def told(self) -> None:
        """Until all jobs have ended and their channels know it."""
        async with asyncio.timeout(WAIT):
            while await self.service.pending_deliveries():
                await asyncio.sleep(0.05)


@pytest.fixture
async def process(open_service: Open, engine: Engine) -> AsyncIterator[Process]:
    async with Process(open_service, engine) as running:
        yield running


def check_answer(text: str) -> None:
    """The answer comes first, and the base model's differs; what they say is the model's affair."""
    first, *small = [line for line in text.splitlines() if line and " asked: " not in line]
    is_given = any(line.removeprefix("-# ").startswith(("likely", "unsure")) for line in small)
    assert is_given or first.startswith("I can't find that in"), text
    base = [line.partition("Without the document: ")[2] for line in small if "Without the document" in line]
    assert first.strip("*# ") not in base, "learning changed nothing"


async def test_the_story_on_discord(process: Process) -> None:
    client = test_discord.make_client(process.service)
    env = client.bot.env = simcord.Env(client, shard_count=1, settle_timeout=60)
    await env.start()
    await client.tree.sync()
    world = test_discord.World(env, process.service, None)
    try:
        await tell_on_discord(world, process)
    finally:
        print(world.transcript())
        await env.bot.bot.__aexit__()
        await env.shutdown()
    env.raise_errors()


async def tell_on_discord(world: test_discord.World, process: Process) -> None:
    await world.ada.send(world.channel, f"{world.me} learn this please", attachments=[PDF])
    progress = world.channel.last_message
    await process.learning(world.key)
    await world.env.bot.bot.__aexit__()
    await process.stop()
    (job,) = await Index.jobs(process.service._index)
    assert job.stage is Stage.QUEUED, "the restart came in the middle of learning"
    await process.start()
    world.service = process.service
    await world.restart()
    await process.told()
    await world.env.settle()
    assert progress.id and "I know harbour.pdf now" in world.said()

    result = await world.bob.slash(world.channel, "ask", question=QUESTION)
    check_answer(test_discord.shown(result.response.message))
    thread = await test_discord.thread_on(world, world.channel.last_message)
    await world.ada.send(thread, FOLLOW_UP)
    check_answer(world.said(thread))
    await world.ada.click(thread.last_message, label="Details")
    listed = await world.bob.slash(world.channel, "docs")
    assert "harbour.pdf" in test_discord.shown(listed.response.message)

    done = await world.ada.slash(world.channel, "forget", document="harbour.pdf")
    assert "harbour.pdf is forgotten" in test_discord.shown(done.response.message)
    assert "know any documents" in await world.ask(QUESTION)
    question = await world.mod.slash(world.channel, "reset")
    await world.mod.click(question.response.message, label="Forget everything")
    assert "nothing to forget" in test_discord.shown(question.response.message)


async def test_the_story_on_slack(process: Process, slack: FakeSlack) -> None:
    world = test_slack.World(slack, process.service, None)
    await world.start()
    try:
        await tell_on_slack(world, slack, process)
    finally:
        await world.stop()
        print(slack.transcript())
        print("\nOnly one person sees:\n", *(test_slack.shown(message) for message in slack.responses), sep="\n--\n")


async def tell_on_slack(world: test_slack.World, slack: FakeSlack, process: Process) -> None:
    begun = await slack.say(f"{MENTION} learn this please", PDF)
    await process.learning(test_slack.KEY)
    await world.stop()
    await process.stop()
    (job,) = await Index.jobs(process.service._index)
    assert job.stage is Stage.QUEUED, "the restart came in the middle of learning"
    await process.start()
    world.service = process.service
    await world.start()
    await process.told()
    assert slack.said("I know harbour.pdf now")
    assert len([message for message in world.handled(begun) if not message.get("files")]) == 1

    await slack.slash("ask", QUESTION, by="UBOB")
    answer = await world.until(lambda: slack.said("Bob asked"), 30)
    check_answer(test_slack.shown(answer[0]))
    await slack.say(FOLLOW_UP, thread_ts=answer[0]["ts"])
    second = (await world.until(lambda: slack.said("harbour.pdf")[2:], 30))[0]
    check_answer(test_slack.shown(second))
    await slack.click(second, "Details")
    await world.whispered("None came from a document")
    await slack.slash("docs", by="UBOB")
    await world.whispered("harbour.pdf")

    await slack.slash("forget", "harbour.pdf")
    await world.said("harbour.pdf is forgotten")
    await slack.say(f"{MENTION} {QUESTION}", by="UBOB")
    await world.until(lambda: slack.said("know any documents"), 30)
    await slack.say(f"{MENTION} reset", by="UMOD")
    await slack.click(await world.whispered("Forget everything?"), "Forget everything", by="UMOD")
    await world.whispered("nothing to forget")
