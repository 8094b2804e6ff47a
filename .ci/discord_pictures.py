"""Draws the pictures of docs/chat.md that show Discord: a conversation with the embedded model about two pages,
on simcord's model of Discord. Needs a Chromium and `pip install simcord[preview]`.

    PYTHONPATH=. .venv/bin/python .ci/discord_pictures.py
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import simcord
from playwright.async_api import async_playwright

from bot.app import open_app
from bot.platforms.discord.client import Client
from bot.settings import load_settings
from tests.bot.story import PDF
from tests.bot.test_discord import FILE_HOST, DeclaredBot, World, labels, shown

FOLDER = Path(__file__).parents[1] / "docs" / "chat"
NAME = "Harbour Guide.pdf"
QUESTIONS = (
    "Who is the harbour master?",
    "why was the lighthouse built?",
    "How deep is the harbour?",
    "Who is the president of France?",
)
Shoot = Callable[..., Awaitable[None]]


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_app(load_settings(data_dir=Path(folder), min_tokens=100)) as app:
            bot = DeclaredBot(app.service)
            client = Client(bot, message_content=True, file_hosts=[FILE_HOST])
            env = bot.env = simcord.Env(client, shard_count=1, settle_timeout=3600)
            env.backend.bot_user.name = "Engram"
            await env.start()
            await client.tree.sync()
            world = World(env, app.service, None)
            async with looking_at(world, world.channel) as shoot:
                await talk(world, shoot)
            (thread,) = world.channel.threads
            async with looking_at(world, thread) as shoot:
                await shoot("follow-up", height=420)
            print(world.transcript())
            await env.bot.bot.__aexit__()
            await env.shutdown()


@asynccontextmanager
async def looking_at(world: World, channel: Any) -> AsyncIterator[Shoot]:
    """Pictures of what Bob sees, or somebody else."""
    people = [world.bob, world.ada, world.mod]
    async with (
        async_playwright() as playwright,
        world.env.preview(channel, viewers=people, layout="channel") as preview,
    ):
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        preview._capture_manager._browser = browser

        async def shoot(name: str, height: int = 700, **what: Any) -> None:
            path = str(FOLDER / f"discord-{name}.png")
            await preview.screenshot(path, mode="viewport", allow_incomplete=True, viewport=(760, height), **what)
            print(path, flush=True)

        yield shoot


async def talk(world: World, shoot: Shoot) -> None:
    await say(world, "hello")
    await say(world, "when does the ferry leave?")
    await shoot("new", height=420)
    await world.ada.send(world.channel, f"{world.me} learn this please", attachments=[(NAME, PDF[1])])
    seen = False
    while await world.service.pending_deliveries():
        await asyncio.sleep(1)
        await world.env.advance_time(1)
        if "Learning it" in world.said() and not seen:
            seen = True
            await shoot("learning", height=330)
    await world.env.settle()
    learned = world.channel.last_message
    await shoot("learned", height=400)
    if len(labels(learned)) > 1:
        await world.bob.click(learned, label=labels(learned)[0])
    for question in QUESTIONS:
        await say(world, question)
    await shoot("answers", height=1150)
    await say(world, "thanks!")
    given = [message for message in world.channel.history() if "👎" in labels(message)]
    answer = next(message for message in reversed(given) if "I can't find that" not in shown(message))
    details = await world.bob.click(answer, label="Details")
    await shoot("details", height=480, target=details.followups[0])
    await world.bob.send(world.channel, f"{world.me} who opened the harbour?", reply_to=answer)
    (thread,) = world.channel.threads
    await world.bob.send(thread, "and when was it opened?")
    await world.bob.send(thread, "great, thanks")
    form = await world.bob.click(answer, label="👎")
    await shoot("wrong", height=480, target=form)
    await world.bob.submit_modal(form, {"given": "Nobody knows, says the inn."})
    await shoot("correction", height=420, viewer=world.ada)
    listed = await world.ada.slash(world.channel, "docs")
    await shoot("docs", height=330, viewer=world.ada, target=listed)


async def say(world: World, text: str) -> None:
    await world.bob.send(world.channel, f"{world.me} {text}")


if __name__ == "__main__":
    asyncio.run(main())
