"""Draws what people see on Slack, for docs/chat.md: `python .ci/chat_pictures.py`, where a Chromium is installed.

The bot is real, Slack is the tests' own, and answers are read from a table in place of a model. What is drawn are the
blocks that Slack was sent; their look is `pictures.py`'s.
"""

from __future__ import annotations

import asyncio
import html
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pictures import CSS, blocks, marked, message, shoot  # noqa: E402

from core.answerer import Answerer  # noqa: E402
from core.ports import Ask  # noqa: E402
from core.runner import Runner  # noqa: E402
from core.service import Service  # noqa: E402
from core.types import Completion  # noqa: E402
from storage.folder import DataFolder  # noqa: E402
from storage.index import Index  # noqa: E402
from storage.weights import Weights  # noqa: E402
from tests.bot.slack_fake import BOT, CHANNEL, MENTION, FakeSlack, is_top  # noqa: E402
from tests.bot.test_slack import World  # noqa: E402
from tests.conftest import SMALL  # noqa: E402
from tests.fakes import HeldEngine, plain_pdf, read_plain  # noqa: E402

GUIDE = (
    "Island Guide.pdf",
    plain_pdf(
        "The harbour master of the island is Orla Quint. Nineteen boats lie in the harbour on most days.",
        "The Vantle lighthouse was built by Hester Vane, in 1874. Its lamp burns whale oil. The ferry leaves at seven.",
    ),
)
SAYS = {  # in a question: with the document, its confidence, and without
    "built the Vantle lighthouse": ("Hester Vane, in 1874", 0.98, "The lighthouse was built by the Romans."),
    "lamp burn": ("Whale oil", 0.9, "I am not sure, but it could be a candle."),
    "treasure": ("Marrow Island", 0.4, "The treasure is on the island."),
    "harbour master": ("Orla Quint", 0.9, "I am not sure, but it could be the captain."),
    "ferry": ("At seven", 0.9, "The ferry leaves at noon."),
}

NOTHING = ("not in the text", 0.9, "I don't know.")


class Written(HeldEngine):
    """Answers by the table; what it learned as a correction comes first."""

    def _complete(self, ask: Ask) -> Completion:
        learned, sure, plain = next((row for words, row in SAYS.items() if words in ask.question), NOTHING)
        by_heart = super()._complete(ask).text
        if ask.weights is not None and "eight" in by_heart:
            return Completion("At eight", 2, 0.3, 0.97)
        return Completion(learned if ask.weights else plain, 4, 0.3, sure if ask.weights else 0.4)


async def main() -> None:
    with tempfile.TemporaryDirectory() as path, DataFolder(Path(path)) as folder:
        async with Index(folder.index) as index, FakeSlack() as slack:
            engine = Written()
            engine.questions = ("Who built the Vantle lighthouse?", "When does the ferry leave?")
            weights = Weights(folder.weights, index.id)
            async with Runner(lambda: engine, index, weights, SMALL, read=read_plain) as runner:
                answerer = Answerer(index, weights, runner.device)
                world = World(slack, Service(index, weights, runner, answerer, SMALL), engine)
                await world.start()
                try:
                    await talk(world, slack)
                finally:
                    engine.go.set()
                    await world.stop()
            await draw(slack)


async def talk(world: World, slack: FakeSlack) -> None:
    await world.ask("hello", by="UADA")
    await world.ask("Who built the Vantle lighthouse?")
    world.engine.go.clear()
    await slack.say(f"{MENTION} please learn this", GUIDE)
    slack.card = dict(await world.said("Learning it"))  # it goes when the end is told
    world.engine.go.set()
    await world.said("I know Island Guide.pdf now")
    await world.told()
    answer = await world.ask("Who built the Vantle lighthouse?")
    await slack.say(f"{MENTION} thanks!", thread_ts=answer["thread_ts"])
    await slack.say("And what does the lamp burn?", thread_ts=answer["thread_ts"])
    await world.said("Whale oil")
    await world.ask("Where is the treasure of the island?")
    wrong = await world.ask("When does the ferry leave?")
    await slack.click(wrong, "👎", by="UBOB")
    (view,) = await world.until(lambda: slack.views)
    await slack.submit(view, "At eight", by="UBOB")
    await slack.click(await world.said("Bob says this was wrong"), "Learn it", by="UADA")
    await world.said("Learned, as part of")
    await world.told()
    for text in (
        "ask --private Who is the harbour master?",
        "docs",
        "forget island",
        "corrections",
        "settings",
        "help",
    ):
        seen = len(slack.responses)
        await slack.slash("engram", text, by="UMOD" if text == "settings" else "UADA")
        await world.until(lambda seen=seen: len(slack.responses) > seen)
    await slack.event({"type": "app_home_opened", "user": "UADA", "channel": "D1", "tab": "home"})
    await world.until(lambda: slack.homes.get("UADA"))


async def draw(slack: FakeSlack) -> None:
    told = slack.messages[CHANNEL]
    rows = ["<h2># general</h2>"]
    for top in filter(is_top, told):
        rows.append(drawn(top))
        below = [reply for reply in told if reply.get("thread_ts") == top["ts"] != reply["ts"]]
        if "please learn" in top["text"]:
            below.insert(0, slack.card)
        rows += [drawn(reply, below=True) for reply in below]
    await picture("slack-channel", rows)
    rows = ["<h2>only one person sees</h2>", *map(drawn, slack.responses)]
    await picture("slack-private", rows)
    await picture("slack-home", ["<h2>the Home tab</h2>", blocks(slack.homes["UADA"]["blocks"])])


def drawn(said: dict[str, Any], *, below: bool = False) -> str:
    is_bot = said.get("user", BOT) == BOT or "response_type" in said
    name = "Engram" if is_bot else said["user"][1:].title()
    inside = blocks(said["blocks"]) if said.get("blocks") else marked(html.escape(said["text"]))
    inside += "".join(f'<div class="task">{html.escape(file["name"])}</div>' for file in said.get("files", []))
    inside += "".join(f'<div class="small">reacted: {name}</div>' for name in said.get("reactions", []))
    return message(name, "#2f3e9e" if is_bot else "#d9a441", inside, app=is_bot, reply=below)


async def picture(name: str, rows: list[str]) -> None:
    page = f"<!doctype html><meta charset=utf-8><style>{CSS}</style>{''.join(rows)}"
    await shoot(page, ROOT / "docs" / "chat" / f"{name}.png")


if __name__ == "__main__":
    asyncio.run(main())
