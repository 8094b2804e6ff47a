"""A front end on Discord in a process of its own, which can be killed.

python -m tests.bot.front_end PORT_OF_FAKE_DISCORD
"""

from __future__ import annotations

import asyncio
import sys

import discord
import yarl

from bot.app import open_app
from bot.platforms.discord.app import serve
from bot.settings import load_settings


async def main(port: str) -> None:
    discord.http.Route.BASE = f"http://127.0.0.1:{port}/api/v10"
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(f"ws://127.0.0.1:{port}/gateway")
    settings = load_settings()
    async with open_app(settings, elsewhere=True) as app:
        print("ready", flush=True)
        await serve(app, settings)


asyncio.run(main(*sys.argv[1:]))
