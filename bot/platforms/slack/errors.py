"""Slack's error codes, and what they mean for a message or a login."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError

from bot.chat import Undelivered, Unreachable
from core.errors import SetupError

log = logging.getLogger(__name__)

FOREIGN = {"channel_not_found", "not_in_channel"}  # channels that the bot is no member of
CLOSED = FOREIGN | {
    "is_archived",
    "user_not_in_channel",
    "restricted_action",
    "thread_not_found",
    "cannot_reply_to_message",
}
THREAD_CLOSED = {"thread_not_found", "cannot_reply_to_message", "restricted_action_thread_locked"}
FIXED = CLOSED | {"message_not_found", "cant_update_message", "edit_window_closed"}  # messages that can't be edited
PASSING = {"ratelimited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
DEAD_TOKEN = {
    "invalid_auth",
    "not_authed",
    "account_inactive",
    "token_revoked",
    "token_expired",
    "not_allowed_token_type",
}
TROUBLE = (SlackClientError, aiohttp.ClientError, OSError, asyncio.TimeoutError)


def code(problem: BaseException) -> str:
    """Slack's word for what went wrong, or the kind of trouble."""
    data = getattr(getattr(problem, "response", None), "data", None)
    return str(data.get("error")) if isinstance(data, Mapping) else type(problem).__name__


@contextlib.contextmanager
def login_errors(name: str) -> Iterator[None]:
    """What trying again cannot heal, as one clear line."""
    try:
        yield
    except SlackApiError as problem:
        if code(problem) in DEAD_TOKEN:
            raise SetupError(f"Slack does not accept {name} ({code(problem)}); copy it again.") from None
        if code(problem) == "missing_scope":
            raise SetupError(f"{name} lacks a scope; install the app again from `bot slack-manifest`.") from None
        raise


@contextlib.contextmanager
def sending() -> Iterator[None]:
    """Trouble becomes Undelivered, or Unreachable where it will not pass."""
    try:
        yield
    except SlackApiError as problem:
        status = getattr(problem.response, "status_code", 0)
        if code(problem) in CLOSED:
            log.warning("a message could not be sent: %s", code(problem))
            raise Unreachable from problem
        if code(problem) in PASSING or status == 429 or status >= 500:
            raise Undelivered from problem
        raise
    except (SlackClientError, aiohttp.ClientError, OSError, TimeoutError) as problem:
        raise Undelivered from problem
