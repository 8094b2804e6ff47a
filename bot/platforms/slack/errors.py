"""Slack's error codes, and what they mean for a message or a login."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError

from core.program import this_program

FOREIGN = {"channel_not_found", "not_in_channel"}  # channels that the bot is no member of
UNKNOWN_THREAD = {"thread_not_found", "cannot_reply_to_message"}
CLOSED = FOREIGN | UNKNOWN_THREAD | {"is_archived", "user_not_in_channel", "restricted_action"}
THREAD_CLOSED = UNKNOWN_THREAD | {"restricted_action_thread_locked"}
FIXED = CLOSED | {"message_not_found", "cant_update_message", "edit_window_closed"}  # messages that can't be edited
REFUSED_BLOCKS = {"invalid_blocks", "invalid_blocks_format"}
PASSING = {"ratelimited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
DEAD_TOKEN = {
    "invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "not_allowed_token_type",
}  # fmt: skip
TROUBLE = (SlackClientError, aiohttp.ClientError, OSError, asyncio.TimeoutError)


def code(problem: BaseException) -> str:
    """Slack's word for what went wrong, or the kind of trouble."""
    data = getattr(getattr(problem, "response", None), "data", None)
    return str(data.get("error")) if isinstance(data, Mapping) else type(problem).__name__


def is_final(problem: BaseException) -> bool:
    """Whether editing a message will never work again."""
    return code(problem) in FIXED


def login_error(name: str, problem: Exception) -> str:
    """What trying again can't heal, in a sentence; "" for what it may. `name`: of the setting that holds the token."""
    if code(problem) in DEAD_TOKEN:
        start = "xapp-" if name == "ENGRAM_SLACK_APP_TOKEN" else "xoxb-"
        return f"Slack does not accept {name} ({code(problem)}); copy it again: it begins with {start}."
    if code(problem) == "missing_scope":
        return f"{name} lacks a scope; install the app again from `{this_program()} slack-manifest`."
    return ""


def will_pass(problem: Exception) -> bool | None:
    """See `bot.platforms.common.sending`."""
    if isinstance(problem, SlackApiError):
        status = getattr(problem.response, "status_code", 0)
        if code(problem) in CLOSED:
            return False
        return True if code(problem) in PASSING or status == 429 or status >= 500 else None
    return True if isinstance(problem, TROUBLE) else None
