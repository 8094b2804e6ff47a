"""Discord's error codes, and what they mean for a message, a thread or a login."""

from __future__ import annotations

import asyncio

import aiohttp
import discord

TROUBLE = (discord.DiscordException, aiohttp.ClientError, OSError, asyncio.TimeoutError)
THREAD_EXISTS = 160004
THREAD_CLOSED = (50083, 160005)  # archived, locked
DEAD_TOKEN = (10015, 10062, 50027)  # unknown webhook, unknown interaction, invalid webhook token
TOO_MANY_EDITS = 30046  # a message older than an hour takes no more
FINAL = (10003, 10008, 50001, 50013, TOO_MANY_EDITS)  # channel or message gone, no access, no permission
FINAL_CLOSE_CODES = (4004, 4010, 4011, 4012, 4013, 4014)  # of the gateway: connecting again fails, too


def will_pass(problem: Exception) -> bool | None:
    """See `bot.platforms.common.sending`."""
    if isinstance(problem, discord.Forbidden | discord.NotFound):
        return False
    if isinstance(problem, discord.DiscordServerError | discord.RateLimited | aiohttp.ClientError | OSError):
        return True
    return problem.status == 429 if isinstance(problem, discord.HTTPException) else None


def is_final(problem: BaseException) -> bool:
    """Whether editing a message will never work again."""
    return isinstance(problem, discord.HTTPException) and problem.code in FINAL


def is_closed(problem: discord.HTTPException) -> bool:
    """Does a thread take no more messages?"""
    return problem.code in THREAD_CLOSED or problem.status in (403, 404)


def login_error(problem: Exception) -> str:
    """What trying again can't heal, in a sentence; "" for what it may."""
    if isinstance(problem, discord.LoginFailure):
        return "Discord does not accept ENGRAM_DISCORD_TOKEN; copy it again from the developer portal."
    if isinstance(problem, discord.PrivilegedIntentsRequired):
        return (
            "Discord refuses the message content intent: switch it on in the developer portal under Bot, "
            "or unset ENGRAM_DISCORD_MESSAGE_CONTENT."
        )
    if isinstance(problem, discord.ConnectionClosed) and problem.code in FINAL_CLOSE_CODES:
        text = "the token is no longer valid" if problem.code == 4004 else f"close code {problem.code}"
        return f"Discord ended the connection for good: {text}."
    return ""
