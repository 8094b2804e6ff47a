"""Commands on questions: ask, and what was called wrong."""

from __future__ import annotations

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
    """Ask; the answer from the learned weights stands beside the base model's."""
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
async def corrections(call: Call) -> None:
    """List the answers that people called wrong, with what is right where they said it."""
    from dataclasses import asdict

    from bot.app import open_app
    from bot.terminal import plain

    async with open_app(call.settings, learning=False) as app:
        given = await app.service.corrections(call.channel)
    for one in given:
        right = f"right: {plain(one.correction)}" if one.correction else "what is right was not said"
        call.screen.say(f"{plain(one.question)}\n  {plain(one.document)}: {plain(one.answer)}\n  {right}")
    if not given:
        call.screen.say("No answer was called wrong in this channel.")
    call.screen.result({"channel": call.channel, "corrections": [asdict(one) for one in given]})


def show_answer(screen: Screen, answer: Answer) -> None:
    from bot.terminal import answers_table, source_line

    screen.say(answers_table(answer))
    screen.say(source_line(answer))
