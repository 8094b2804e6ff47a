"""The playground's command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from bot.cli.base import Call, command


@command(hidden=("channel", "json"))
async def playground(
    call: Call,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="And on which port.")] = 7860,
) -> None:
    """Learn and ask in a browser. All of it is erased at the end."""
    from core.errors import SetupError
    from core.program import pip_install

    try:
        import bot.platforms.playground  # noqa: F401
    except ModuleNotFoundError as error:
        raise SetupError(f"The playground needs Gradio: {pip_install('playground')}.") from error
    if call.data_dir:
        await serve(call, host, port)
        return
    with TemporaryDirectory(prefix="engram-playground-") as folder:
        await serve(replace(call, data_dir=Path(folder)), host, port)


async def serve(call: Call, host: str, port: int) -> None:
    import asyncio
    from contextlib import suppress

    from bot.app import open_app
    from bot.logs import configure_logging
    from bot.platforms import playground as page

    configure_logging(call.settings.log_level, call.settings.log_format)
    with suppress(asyncio.CancelledError):  # to be told to stop is its good end
        async with open_app(call.settings) as app:
            ready = f"The playground is at http://{host}:{port}"
            await page.serve(app, call.settings, host=host, port=port, ready=lambda: call.screen.say(ready))
