"""Commands on questions: ask, what was called wrong, and what a person asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bot.cli.base import Call, command

if TYPE_CHECKING:
    from bot.terminal import Screen
    from core.types import Answer


@command()
async def ask(
    call: Call,
    question: Annotated[list[str], typer.Argument(metavar="QUESTION", help="With or without quotes around it.")],
    document: Annotated[
        str | None, typer.Option(metavar="DOC", help="Ask this document: id, name or beginning.")
    ] = None,
) -> None:
    """Ask about what was learned. Beside the answer stands what the base model says without the document."""
    from bot.app import open_for_reading
    from bot.terminal import answer_json
    from core.service import check_question

    asked = check_question(" ".join(question))
    async with open_for_reading(call.settings, call.screen.note) as app:
        with call.screen.waiting("Thinking"):
            answer = await app.service.ask(call.channel, asked, document=document, by="local")
    show_answer(call.screen, answer)
    call.screen.result(answer_json(answer))


@command()
async def corrections(
    call: Call,
    everywhere: Annotated[bool, typer.Option("--all", help="In every channel.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write them to this file, too: JSON, one a line.")
    ] = None,
) -> None:
    """List the answers that people called wrong. With what is right, where they said it; the bot may go on running."""
    from dataclasses import asdict
    from json import dumps

    from bot.app import open_for_reading
    from bot.terminal import plain
    from bot.wording import count

    given = []
    async with open_for_reading(call.settings, call.screen.note) as app:
        for name in await app.service.channels("") if everywhere else [call.channel]:
            given += [{"channel": name, **asdict(one)} for one in await app.service.corrections(name)]
    for one in given:
        right = f"right: {plain(one['correction'])}" if one["correction"] else "what is right was not said"
        right += " (learned)" if one["learned"] else ""
        call.screen.say(f"{plain(one['question'])}\n  {plain(one['document'])}: {plain(one['answer'])}\n  {right}")
    if not given:
        call.screen.say("No answer was called wrong.")
    if export:
        export.write_text("".join(f"{dumps(one, ensure_ascii=False)}\n" for one in given), "utf-8")
        call.screen.say(f"Wrote {count(len(given), 'correction')} to {plain(str(export))}.")
    call.screen.result({"channel": call.channel, "corrections": given})


@command(hidden=("channel",), confirm="Erase everything that this person asked and said about answers?")
async def forget_person(
    call: Call, person: Annotated[str, typer.Argument(metavar="USER", help="discord:USER or slack:TEAM:USER.")]
) -> None:
    """Erase what one person asked and said, in every channel. Documents stay."""
    from bot.app import open_app

    async with open_app(call.settings, learning=False) as app:
        gone = await app.service.forget_person(person)
    call.screen.say(f"Erased; questions and remarks together: {gone}.")
    call.screen.result({"person": person, "erased": gone})


def show_answer(screen: Screen, answer: Answer) -> None:
    from bot.terminal import answers_table, source_line

    screen.say(answers_table(answer))
    screen.say(source_line(answer))
