"""The platforms. Adding one is a module with `serve(app, settings)` and a row in PLATFORMS."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings

PLATFORMS: dict[str, tuple[str, tuple[str, ...]]] = {  # name -> module, settings that it can't do without
    "discord": ("bot.platforms.discord", ("discord_token",)),
    "slack": ("bot.platforms.slack", ("slack_bot_token",)),
}


def configured(settings: Settings) -> list[str]:
    """The platforms that have all they need."""
    return [name for name in PLATFORMS if not missing(name, settings)]


def missing(name: str, settings: Settings) -> list[str]:
    """The variables that a platform still needs."""
    return [f"ENGRAM_{need.upper()}" for need in PLATFORMS[name][1] if getattr(settings, need) is None]


def how_to_configure(settings: Settings) -> str:
    needs = "; ".join(f"for {name} set {' and '.join(missing(name, settings))}" for name in PLATFORMS)
    return f"No platform is configured: {needs}, in the environment or in a file .env."


async def serve_all(app: App, settings: Settings) -> None:
    """Serve the configured platforms until cancelled, or until one of them, or the engine, fails for good.

    Raises: SetupError.
    """
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(app.runner.device.ready())
            for name in configured(settings):
                group.create_task(import_module(PLATFORMS[name][0]).serve(app, settings), name=name)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
