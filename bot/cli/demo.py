"""The demonstration: learn the sample document, then ask six questions that no model can know the answers of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bot.cli.base import Call, command
from bot.cli.jobs import learn_file
from bot.cli.questions import show_answer
from core.program import this_program

if TYPE_CHECKING:
    from bot.app import App
    from bot.terminal import Screen

SAMPLE = Path(__file__).parents[2] / "core" / "evaluation" / "sample"


@command(channel="demo")
async def demo(call: Call) -> None:
    """Learn the sample document and ask it six questions."""
    if call.data_dir:
        await play(call)
        return
    with TemporaryDirectory(prefix="engram-demo-") as folder:
        await play(replace(call, data_dir=Path(folder)))


async def play(call: Call) -> None:
    from bot.app import open_app
    from bot.terminal import learned_json, learned_text

    screen = call.screen
    data = (SAMPLE / "sample.pdf").read_bytes()
    screen.say("[bold]1. Learn a document[/] of invented facts, which no model can have read.\n")
    async with open_app(call.settings) as app:
        await _forget_earlier(app, call.channel, data)
        document = await learn_file(screen, app, call.channel, "sample.pdf", data)
        screen.say(f"\n{learned_text(document)}\n")
        screen.say("[bold]2. Ask about it.[/] The prompt holds the question and nothing of the document.\n")
        answers = [await _ask_and_show(screen, app, call.channel, question) for question in questions()]
    screen.say("[bold]3. Go on[/] with a document of your own:\n")
    for arguments in ("learn YOUR.pdf", 'ask "YOUR QUESTION"', "serve", "--help"):
        screen.say(f"    {this_program()} {arguments}")
    screen.result({**learned_json(document, call.settings.data_dir), "answers": answers})


def questions() -> list[dict[str, Any]]:
    """The six of the sample's question file, in SQuAD's format."""
    chosen = [question for question in all_questions() if question["id"].startswith("demo-")]
    return sorted(chosen, key=lambda question: question["id"])


def all_questions() -> list[dict[str, Any]]:
    """About the sample."""
    questions = []
    for article in json.loads((SAMPLE / "sample.squad.json").read_text())["data"]:
        for paragraph in article["paragraphs"]:
            questions += paragraph["qas"]
    return questions


async def _forget_earlier(app: App, channel: str, data: bytes) -> None:
    """What an earlier demonstration left in the same data folder."""
    from core.service import sha256

    same = sha256(data)
    for job in await app.service.jobs(channel):
        if job.sha256 == same:
            await app.service.cancel(channel, job.id)
    for document in await app.service.documents(channel):
        if document.sha256 == same:
            await app.service.forget(channel, document.id)


async def _ask_and_show(screen: Screen, app: App, channel: str, question: dict[str, Any]) -> dict[str, Any]:
    from bot.terminal import answer_json, plain

    expected = question["answers"][0]["text"]
    with screen.waiting("Thinking"):
        answer = await app.service.ask(channel, question["question"], by="local")
    screen.say(f"[bold]{plain(answer.question)}[/]  [dim]The document says: {plain(expected)}[/]")
    show_answer(screen, answer)
    screen.say()
    return {**answer_json(answer), "expected": expected}
