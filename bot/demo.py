"""The demonstration: learn the sample document, then ask six questions that no model can know the answers of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings
    from bot.terminal import Screen

SAMPLE = Path(__file__).parents[1] / "core" / "evaluation" / "sample"


async def play(channel: str, screen: Screen, settings: Settings) -> None:
    from bot.app import open_app
    from bot.cli import learn_file, me
    from bot.terminal import learned_json, learned_text

    data = (SAMPLE / "sample.pdf").read_bytes()
    screen.say("[bold]1. Learn a document[/] of invented facts, which no model can have read.\n")
    async with open_app(settings) as app:
        await _forget_earlier(app, channel, data)
        document = await learn_file(screen, app, channel, "sample.pdf", data)
        screen.say(f"\n{learned_text(document)}\n")
        screen.say("[bold]2. Ask about it.[/] The prompt holds the question and nothing of the document.\n")
        answers = [await _ask(screen, app, channel, question) for question in questions()]
    screen.say("[bold]3. Go on[/] with a document of your own:\n")
    for command in ("learn YOUR.pdf", 'ask "YOUR QUESTION"', "serve", "--help"):
        screen.say(f"    {me()} {command}")
    screen.result({**learned_json(document, settings.data_dir), "answers": answers})


def questions() -> list[dict[str, Any]]:
    """The six of the sample's question file, in SQuAD's format."""
    return sorted((q for q in all_questions() if q["id"].startswith("demo-")), key=lambda q: q["id"])


def all_questions() -> list[dict[str, Any]]:
    """About the sample."""
    articles = json.loads((SAMPLE / "sample.squad.json").read_text())["data"]
    return [question for article in articles for part in article["paragraphs"] for question in part["qas"]]


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


async def _ask(screen: Screen, app: App, channel: str, question: dict[str, Any]) -> dict[str, Any]:
    from bot.cli import show_answer
    from bot.terminal import answer_json, plain

    expected = question["answers"][0]["text"]
    with screen.waiting("Thinking"):
        answer = await app.service.ask(channel, question["question"], by="local")
    screen.say(f"[bold]{plain(answer.question)}[/]  [dim]The document says: {plain(expected)}[/]")
    show_answer(screen, answer)
    screen.say()
    return {**answer_json(answer), "expected": expected}
