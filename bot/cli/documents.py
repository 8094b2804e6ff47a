"""Commands on documents: read, learn, list, erase."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from bot.cli.base import Call, command
from bot.cli.jobs import follow, learn_file, load_document, load_file, page_range
from core.program import this_program

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A PDF, an Office file, EPUB, HTML, Markdown or text.")
]
FilesArgument = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="PDFs, Office files, EPUB, HTML, Markdown or text.")
]
PagesOption = Annotated[str, typer.Option(metavar="A-B", help="Only these pages, for example 1-100.")]


@command(hidden=("channel", "data_dir"))
async def read(call: Call, file: FileArgument, pages: PagesOption = "") -> None:
    """Show the text that would be learned, or why it is refused. No model is loaded."""
    from bot.terminal import page_rule, plain
    from bot.wording import count
    from core.document.chunks import check_length, encoder, join_pages
    from core.document.formats import read_document
    from core.model import load_tokenizer
    from core.service import harmless_name, sha256

    data = load_file(file)
    encode = encoder(load_tokenizer(call.settings.model, call.settings.cache_dir))
    text = await read_document(
        data, call.settings.limits, page_range(pages), ocr=call.settings.ocr, progress=call.screen.recognised
    )
    tokens = len(encode(join_pages(text.pages))[0])
    check_length(tokens, call.settings.limits, text.pages, text.place)
    recognised = {}
    for page in text.pages:
        call.screen.say(page_rule(page, text.place))
        call.screen.say(plain(page.text), soft_wrap=True)
        if page.confidence is not None:
            recognised[page.number] = page.confidence
    call.screen.say(f"\n[bold]{count(len(text.pages), text.place)}, {tokens:,} tokens[/]")
    for note in text.notes:
        call.screen.say(plain(note))
    call.screen.result(
        {
            "name": harmless_name(file.name),
            "bytes": len(data),
            "sha256": sha256(data),
            "pages": len(text.pages),
            "tokens": tokens,
            "text": "\f".join(page.text for page in text.pages),
            "notes": list(text.notes),
            "recognised": recognised,
        }
    )


@command()
async def learn(call: Call, files: FilesArgument, pages: PagesOption = "") -> None:
    """Learn documents into the channel's weights."""
    from bot.app import open_app
    from bot.terminal import learned_json, learned_text

    data = [await load_document(file, pages, call.settings) for file in files]
    learned = []
    async with open_app(call.settings) as app:
        for file, content in zip(files, data, strict=True):
            document = await learn_file(call.screen, app, call.channel, file.name, content, pages)
            call.screen.say("\n" + learned_text(document))
            learned.append(learned_json(document, call.settings.data_dir))
    call.screen.say(f'Ask about it:  [bold]{this_program()} ask "YOUR QUESTION"{options(call)}[/]')
    call.screen.result(learned[0] if len(learned) == 1 else {"learned": learned})


@command()
async def relearn(
    call: Call, everywhere: Annotated[bool, typer.Option("--all", help="In every channel.")] = False
) -> None:
    """Learn again what can't be asked any more. From the kept text: what is damaged, or learned for another model."""
    from bot.app import open_app
    from bot.terminal import learned_json, learned_text
    from core.errors import Refused

    learned, refused = [], []
    async with open_app(call.settings) as app:
        with call.screen.waiting("Loading the model"):
            await app.runner.ready()
        for name in await app.service.channels("") if everywhere else [call.channel]:
            try:
                jobs = await app.service.relearn(name)
            except Refused as problem:
                call.screen.note(f"{name}: {problem}")
                refused.append({"channel": name, "message": str(problem)})
                continue
            for job in jobs:
                document = await follow(call.screen, app, name, job)
                call.screen.say(learned_text(document))
                learned.append(learned_json(document, call.settings.data_dir))
    call.screen.say("Everything can be asked." if not learned + refused else f"Learned again: {len(learned)}.")
    call.screen.result({"learned": learned, "refused": refused})
    if refused:
        raise typer.Exit(1)


@command()
async def docs(call: Call) -> None:
    """List the documents that the channel knows."""
    from bot.app import open_for_reading
    from bot.terminal import documents_table, listed_json

    async with open_for_reading(call.settings, call.screen.note) as app:
        documents = await app.service.documents(call.channel)
    call.screen.say(documents_table(documents) if documents else "No documents are learned in this channel yet.")
    call.screen.result({"channel": call.channel, "documents": [listed_json(document) for document in documents]})


@command()
async def forget(
    call: Call, document: Annotated[str, typer.Argument(metavar="DOC", help="Id, name or beginning of one.")]
) -> None:
    """Erase one document: its weights, its text and its answers."""
    from bot.app import open_app
    from bot.terminal import document_json, plain

    async with open_app(call.settings, learning=False) as app:
        forgotten = await app.service.forget(call.channel, document)
    call.screen.say(f"Forgot {plain(forgotten.name)} ({forgotten.id}).")
    call.screen.result({"channel": call.channel, "document": document_json(forgotten)})


@command(confirm="Erase all documents and questions of the channel {channel}?")
async def reset(call: Call) -> None:
    """Erase all that a channel was taught and was asked."""
    from bot.app import open_app
    from bot.terminal import plain
    from bot.wording import count

    async with open_app(call.settings, learning=False) as app:
        erased = await app.service.reset(call.channel)
    call.screen.say(
        f"Erased {count(erased, 'document')} of the channel {plain(call.channel)}, and all that was asked there."
    )
    call.screen.result({"channel": call.channel, "documents": erased})


@command(confirm="The documents become one: they can only be forgotten together. Go on?")
async def consolidate(
    call: Call, share: Annotated[int, typer.Option(min=2, help="How many sections become one.")] = 2
) -> None:
    """Make one document of all in a channel, to save disk. It answers worse than they did."""
    from bot.app import open_app
    from bot.terminal import learned_json, learned_text

    async with open_app(call.settings) as app:
        job, before = await app.service.consolidate(call.channel, by="local", share=share)
        document = await follow(call.screen, app, call.channel, job)
        for old in before:
            await app.service.forget(call.channel, old.id)
    saved = sum(old.weights.bytes for old in before) - document.weights.bytes
    call.screen.say(learned_text(document))
    call.screen.say(f"Forgot the {len(before)} documents by themselves, {saved / 2**20:,.1f} MB less.")
    call.screen.result(learned_json(document, call.settings.data_dir) | {"forgotten": [old.id for old in before]})


def options(call: Call) -> str:
    """What the next command needs to find what this one learned."""
    from bot.terminal import plain

    channel = f" --channel {quote(call.channel)}" if call.channel != "local" else ""
    data_dir = f" --data-dir {quote(str(call.data_dir))}" if call.data_dir else ""
    return plain(channel + data_dir)
