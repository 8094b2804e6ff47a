"""Commands for whoever runs the bot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bot.cli.base import Call, command


@command()
async def status(call: Call) -> None:
    """Show the model, the device and the queue."""
    from contextlib import suppress
    from dataclasses import asdict

    from bot.app import open_for_reading
    from bot.terminal import status_table
    from core.errors import SetupError

    async with open_for_reading(call.settings, call.screen.note) as app:
        with call.screen.waiting("Loading the model"), suppress(SetupError):  # the status says it
            await app.runner.ready()
        now = await app.service.status(call.channel)
    call.screen.say(status_table(now, call.channel))
    call.screen.result({"channel": call.channel, **asdict(now)})


@command(hidden=("channel",))
async def doctor(call: Call) -> None:
    """Check the installation, and say what to do."""
    from bot.doctor import examine
    from bot.terminal import checks_table

    checks = await examine(call.settings)
    healthy = all(check["state"] != "error" for check in checks)
    call.screen.say(checks_table(checks))
    call.screen.result({"ok": healthy, "checks": checks})
    if not healthy:
        raise typer.Exit(1)


@command(hidden=("channel",))
async def backup(
    call: Call,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written at the end, at once; replaces an older one.")],
) -> None:
    """Save all that was learned into one file. The bot may go on running."""
    from bot.app import back_up
    from bot.terminal import megabytes, plain
    from bot.wording import count

    manifest = await back_up(call.settings, file)
    size = file.stat().st_size
    call.screen.say(f"Saved {count(manifest.documents, 'document')} to {plain(str(file))}, {megabytes(size)}.")
    call.screen.result({"file": str(file), "bytes": size, "documents": manifest.documents})


@command(hidden=("channel",), confirm="Replace everything in the data folder?")
async def restore(
    call: Call, file: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` wrote.")]
) -> None:
    """Put back what `backup` saved. It replaces everything in the data folder; stop the bot first."""
    from bot.app import restore as restore_all
    from bot.wording import count

    manifest = await restore_all(call.settings, file)
    call.screen.say(f"Restored {count(manifest.documents, 'document')}; what was there before is gone.")
    call.screen.result({"file": str(file), "documents": manifest.documents})


@command(hidden=("channel",))
async def migrate(
    call: Call,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="postgresql://..., or ENGRAM_DATABASE_URL.")] = "",
    objects: Annotated[str, typer.Option("--objects", metavar="URL", help="s3://..., or ENGRAM_OBJECTS.")] = "",
) -> None:
    """Copy what the data folder holds to PostgreSQL and an object store, and compare it there. Stop the bot first."""
    from bot.app import migrate as migrate_all
    from bot.settings import load_settings
    from bot.wording import count

    settings = load_settings(data_dir=call.data_dir, database_url=to or None, objects=objects or None)
    copied = await migrate_all(settings, call.screen.note)
    call.screen.say(
        f"Copied and compared {count(copied.documents, 'document')} and {count(copied.answers, 'answer')} of "
        f"{count(copied.channels, 'channel')}. Nothing was removed here."
    )
    call.screen.result(vars(copied))


@command(hidden=("channel",))
async def serve(
    call: Call,
    with_worker: Annotated[
        bool, typer.Option("--with-worker", help="On PostgreSQL, where workers learn and answer: do that here, too.")
    ] = False,
) -> None:
    """Run the bot on each platform that has its tokens. Ctrl-C or SIGTERM stops it."""
    import asyncio
    from contextlib import suppress
    from importlib import import_module

    from bot.platforms import how_to_configure, serve_all, wanted

    if not wanted(call.settings):
        call.screen.error("SetupError", how_to_configure(call.settings))
        raise typer.Exit(2)
    from bot.app import open_app
    from bot.logs import configure_logging
    from bot.metrics import serving

    elsewhere = bool(call.settings.database_url) and not with_worker
    if not elsewhere:
        import_module("torch")  # holds the interpreter for 0.3 s: now, and not while the platforms wait for answers
    configure_logging(call.settings.log_level, call.settings.log_format)
    with suppress(asyncio.CancelledError):  # to be told to stop is a service's good end
        async with open_app(call.settings, elsewhere=elsewhere) as app, serving(app.service, call.settings):
            await serve_all(app, call.settings)


@command(hidden=("channel",))
async def worker(call: Call) -> None:
    """Learn and answer for all that `serve` the same database. Ctrl-C or SIGTERM stops it."""
    import asyncio
    from contextlib import suppress

    from bot.app import open_worker
    from bot.logs import configure_logging

    configure_logging(call.settings.log_level, call.settings.log_format)
    with suppress(asyncio.CancelledError):
        async with open_worker(call.settings) as worker:
            call.screen.note("Ready to learn and answer.")
            await worker.run()


@command(hidden=("channel", "data_dir"))
async def sync(call: Call) -> None:
    """Tell Discord which commands there are. Once for each new version."""
    from bot.platforms.discord import app

    number = await app.sync(call.settings)
    call.screen.say(f"Discord knows {number} commands now; they may take some minutes to appear.")
    call.screen.result({"commands": number})


@command(hidden=("channel", "data_dir", "json"))
async def slack_manifest(
    call: Call,
    url: Annotated[
        str,
        typer.Option(
            "--url", metavar="URL", help="Where Slack reaches the bot, for HTTP mode: https://HOST/slack/events"
        ),
    ] = "",
    short_commands: Annotated[
        bool, typer.Option("--short-commands", help="/ask, /docs, ... beside /engram; other apps may have the same")
    ] = False,
) -> None:
    """Print what to create the Slack app from. Its manifest, for api.slack.com/apps."""
    from json import dumps

    from bot.platforms.slack.manifest import manifest

    typer.echo(dumps(manifest(url, short_commands=short_commands), indent=2))
