"""The platforms. Adding one is a module with `serve(app, settings)` and `examine(settings)`, and a row in PLATFORMS."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from core.errors import SetupError

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings

log = logging.getLogger(__name__)

RESTART_AFTER = (1, 5, 15, 60, 300)  # seconds before a client that broke is replaced; Discord allows 1,000 logins a day
SOUND_AFTER = 600  # seconds after which a client has proved itself


def _slack_needs(settings: Settings) -> tuple[str, ...]:
    """By OAuth, by HTTP, or by Socket Mode."""
    if settings.slack_client_id:
        return ("slack_client_id", "slack_client_secret", "slack_http_port", "slack_signing_secret")
    if settings.slack_http_port:
        return ("slack_bot_token", "slack_http_port", "slack_signing_secret")
    return ("slack_bot_token", "slack_app_token")


PLATFORMS: dict[str, tuple[str, Callable[[Settings], tuple[str, ...]]]] = {  # name -> module, settings that it needs
    "discord": ("bot.platforms.discord.app", lambda settings: ("discord_token",)),
    "slack": ("bot.platforms.slack.app", _slack_needs),
}


def wanted(settings: Settings) -> list[str]:
    """The platforms of which at least one setting is there."""
    names = []
    for name, (_, needs) in PLATFORMS.items():
        if any(getattr(settings, need) is not None for need in needs(settings)):
            names.append(name)
    return names


def missing(name: str, settings: Settings) -> list[str]:
    """The variables that a platform still needs."""
    return [f"ENGRAM_{need.upper()}" for need in PLATFORMS[name][1](settings) if getattr(settings, need) is None]


def how_to_configure(settings: Settings) -> str:
    needs = "; ".join(f"for {name.capitalize()} set {' and '.join(missing(name, settings))}" for name in PLATFORMS)
    return f"There is no token yet: {needs}, in the environment or in a file .env."


async def serve_all(app: App, settings: Settings) -> None:
    """Serve the platforms until cancelled, or until one of them, or the engine, fails for good.

    Raises: SetupError, at once for a platform that lacks a setting.
    """
    for name in wanted(settings):
        if needs := missing(name, settings):
            raise SetupError(f"{name.capitalize()} is configured by half: set {' and '.join(needs)}, too.")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(app.runner.ready())
            for name in wanted(settings):
                group.create_task(import_module(PLATFORMS[name][0]).serve(app, settings), name=name)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def supervise(
    name: str, run: Callable[[], Awaitable[Any]], restart_after: Sequence[float] = RESTART_AFTER
) -> None:
    """Keep a client running: `run` makes one and runs it to its end; one that broke is replaced by a new one.

    Args:
        restart_after: seconds before the first new one, the second, and so on; the last holds for all others.

    Raises: SetupError, which trying again cannot heal.
    """
    failures = 0  # in a row
    while True:
        began = time.monotonic()
        try:
            await run()
            return
        except SetupError:
            raise
        except Exception:
            failures = 0 if time.monotonic() - began > SOUND_AFTER else failures
            wait = restart_after[min(failures, len(restart_after) - 1)]
            failures += 1
            log.exception("the %s client broke; a new one starts in %d s", name, wait)
            await asyncio.sleep(wait)
