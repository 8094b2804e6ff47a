"""The connection to Discord: serving, telling it the commands, and looking at the token.

Everything that lasts longer than an interaction token (15 minutes) goes through the bot's own token: a progress message
is known by channel and message id, so the next process can go on with it. Buttons carry all they need in their
custom_id, so they outlive a restart without any state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from random import randrange
from typing import TYPE_CHECKING, Any

import discord

from bot.commands import Bot
from bot.platforms import supervise
from bot.platforms.common import bot_options, login_errors
from bot.platforms.discord.client import Client
from bot.platforms.discord.errors import login_error
from bot.wording import count
from core.errors import SetupError
from core.program import this_program

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings

LOOK_UP_TIMEOUT = 15  # seconds for what `examine` asks
LOGIN_EVERY = 5.0  # seconds between two logins of an app's shards, as Discord wants them
RIGHTS = discord.Permissions(
    view_channel=True,
    send_messages=True,
    send_messages_in_threads=True,
    create_public_threads=True,
    embed_links=True,
    attach_files=True,
    read_message_history=True,
    add_reactions=True,
)


async def serve(app: App, settings: Settings) -> None:
    """Be on Discord until cancelled. Raises: SetupError."""
    if not settings.discord_shards:
        await _serve(app, settings, "discord")
        return
    shards, first = settings.discord_shards, randrange(settings.discord_shards)
    try:
        async with asyncio.TaskGroup() as group:
            for wait in range(shards):
                shard = (first + wait) % shards
                options = {"shard_ids": [shard], "shard_count": shards}
                group.create_task(_serve(app, settings, f"discord {shard} of {shards}", LOGIN_EVERY * wait, **options))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _serve(app: App, settings: Settings, name: str, wait: float = 0.0, **shards: Any) -> None:
    """One connection.

    Args:
        name: of what one front end at a time is.
        wait: seconds until it is tried, so that front ends that start together share the shards.
    """

    def make() -> Client:
        owner = f"{app.name} {name}" if shards else app.name
        options = bot_options(app, settings)
        bot = Bot(app.service, name=owner, hears_follow_ups=settings.discord_message_content, **options)
        return Client(bot, message_content=settings.discord_message_content, proxy=settings.proxy, **shards)

    await asyncio.sleep(wait)
    await supervise("Discord", partial(connect, make, _token(settings), app.alone, name))


async def connect(
    make: Callable[[], Client],
    token: str,
    alone: Callable[[str], AbstractAsyncContextManager[Any]] = nullcontext,
    name: str = "discord",
) -> None:
    """Run a new client to its end. Raises: SetupError when it can't log in.

    Args:
        alone: as in `App`. Discord tells all connections of a shard everything, so one process at a time is there.
    """
    async with alone(name):
        client = make()
        async with client, client.bot:
            with login_errors(login_error):
                await client.start(token)


async def sync(settings: Settings) -> int:
    """Tell Discord which commands there are; needed once for each version. Returns their number. Raises: SetupError."""
    client = Client(None, proxy=settings.proxy)
    async with client:
        with login_errors(login_error):
            await client.login(_token(settings))
            return len(await client.tree.sync())


async def examine(settings: Settings) -> AsyncIterator[tuple[str, str, str, str]]:
    """What Discord says about the token, as (name, state, detail, fix). Raises: SetupError, OSError, TimeoutError."""
    client = Client(None, proxy=settings.proxy)
    async with client, asyncio.timeout(LOOK_UP_TIMEOUT):
        with login_errors(login_error):
            await client.login(_token(settings))
        app = await client.application_info()
        link = discord.utils.oauth_url(app.id, permissions=RIGHTS, scopes=("bot", "applications.commands"))
        servers = app.approximate_guild_count or 0
        yield "Discord token", "ok", f"{client.user}, in {count(servers, 'server')}", ""
        if servers:
            yield "Discord invitation", "ok", f"for another server: {link}", ""
        else:
            yield "Discord invitation", "warning", "the bot is in no server", f"Invite it: {link}"
        yield _intent(settings, app.flags)
        known = {command.name for command in await client.tree.fetch_commands()}
        absent = sorted({command.name for command in client.tree.get_commands()} - known)
        detail = f"unknown to Discord: {', '.join(absent)}" if absent else f"{len(known)} registered"
        yield (
            "Discord commands",
            "warning" if absent else "ok",
            detail,
            f"Run `{this_program()} sync`." if absent else "",
        )


def _intent(settings: Settings, flags: discord.ApplicationFlags) -> tuple[str, str, str, str]:
    """The privileged one; a client that asks for it without having it is turned away."""
    title, granted = "Discord intent", flags.gateway_message_content or flags.gateway_message_content_limited
    if settings.discord_message_content and not granted:
        fix = "Switch on Message Content Intent in the developer portal under Bot, or unset it."
        return title, "error", "ENGRAM_DISCORD_MESSAGE_CONTENT is set, but the app does not have the intent", fix
    if settings.discord_message_content:
        return title, "ok", "message content: follow-ups in the bot's threads need no mention", ""
    return title, "ok", "no message content: mentions, direct messages and commands work", ""


def _token(settings: Settings) -> str:
    if settings.discord_token is None:
        raise SetupError("ENGRAM_DISCORD_TOKEN is not set; the Discord developer portal shows the token under Bot.")
    return settings.discord_token.get_secret_value()
