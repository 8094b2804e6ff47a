"""What strangers can send: signatures, names, questions, words for the database. Nothing of it may break anything."""

from __future__ import annotations

import hashlib
import hmac
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bot.commands import COMMANDS, Bot
from bot.escape import escape_discord, escape_slack
from bot.platforms.slack.http import only_from_slack
from bot.platforms.slack.payloads import parse
from core.service import harmless_name
from storage.channel_files import path_in
from storage.folder import DataFolder
from tests.bot.fake_chat import FakeReply, attachment, request
from tests.bot.test_commands import PDF, TEXT, settled
from tests.conftest import SMALL, Open
from tests.fakes import plain_pdf

NAMES = [
    "../../x.pdf", "/etc/x.pdf", "C:\\x.pdf", "..\\..\\x.pdf", "a\x00b.pdf", "a\nb.pdf", "a\r\nb.pdf", "a\tb.pdf",
    "\u202efdp.x.pdf", "\u200b.pdf", "x" * 300 + ".pdf", "é" * 300 + ".pdf", "; rm -rf ~.pdf", "$(id).pdf", "`id`.pdf",
    "%00.pdf", "%2e%2e%2fx.pdf", "CON.pdf", "NUL", "🙂🙃.pdf", "' OR 1=1--.pdf", '"); DROP TABLE jobs.pdf',
    "'; DROP TABLE documents; --.pdf", "@everyone.pdf", "<!channel>.pdf", "<@U1|x>.pdf", "[a](http://b.pdf)", "....pdf",
    ".pdf", " .pdf", "\ud800.pdf", "", "**bold**.pdf", "```.pdf", "-rf.pdf", "~.pdf",
]  # fmt: skip
BIDI = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
TABLES = ("channels", "documents", "jobs", "weights")


@pytest.fixture
async def bot(open_service: Open):
    async with open_service() as service, Bot(service, limits=SMALL) as opened:
        yield opened


def counts(folder: DataFolder) -> dict[str, int]:
    with closing(sqlite3.connect(folder.index)) as index:
        rows = {table: index.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
    rows["answers"] = 0
    for path in folder.channels.glob("*.db"):
        with closing(sqlite3.connect(path)) as file:
            rows["answers"] += file.execute("SELECT count(*) FROM answers").fetchone()[0]
    return rows


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# Names


async def test_no_name_makes_a_file_a_table_or_a_mention(bot: Bot, folder: DataFolder) -> None:
    around = files(folder.path.parent)
    for number, name in enumerate(NAMES):
        job = await bot.service.submit("here", name, plain_pdf(f"Number {number}. {TEXT}"), by="ada")
        assert [progress async for progress in bot.service.watch(job.id)][-1].document
    new = files(folder.path.parent) - around
    new.remove(path_in(folder.channels, "here").relative_to(folder.path.parent).as_posix())
    assert len(new) == len(NAMES) == counts(folder)["documents"]
    assert all(re.fullmatch(rf"{folder.path.name}/weights/[a-z2-7]{{8}}\.safetensors", file) for file in new)


@given(st.text(max_size=400) | st.sampled_from(NAMES))
def test_a_name_is_one_short_line_without_folders_or_orders(name: str) -> None:
    shown = harmless_name(name)
    assert 0 < len(shown) <= 120 and "/" not in shown and "\\" not in shown
    assert not set(shown) & BIDI and not any(character < " " or character == "\x7f" for character in shown)
    shown.encode()  # no half of a surrogate pair
    assert harmless_name(shown) == shown


# Text for the database, in every field of every command


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "learn"])
async def test_no_text_in_any_field_is_an_order_to_the_database(bot: Bot, folder: DataFolder, name: str) -> None:
    await bot.hear(request("", attachment(PDF)), FakeReply())
    await settled(bot)
    before = counts(folder)
    for text in NAMES:
        fields = {option.name: text for option in COMMANDS[name].options}
        reply = FakeReply()
        await bot.run(name, request(text, arguments=fields, user=f"fake:{text!r}", is_manager=True), reply)
        assert reply.said and "Something went wrong" not in reply.text
    after = counts(folder)
    after["answers"] = before["answers"]  # questions are kept
    assert after == before


async def test_what_buttons_carry_is_not_trusted(bot: Bot, folder: DataFolder) -> None:
    from bot.commands import ACTIONS

    await bot.hear(request("", attachment(PDF)), FakeReply())
    await settled(bot)
    before = counts(folder)
    for action in [*ACTIONS, "nonsense", ""]:
        if action != "reset":
            for value in NAMES:
                reply = FakeReply()
                await bot.press(action, value, request("", user=f"fake:{value!r}"), reply)
                assert "Something went wrong" not in reply.text
    assert counts(folder) | {"answers": 0} == before | {"answers": 0}


# Commands


@given(st.text(max_size=200))
@example("--document")
@example('--document "')
@example("— — --private --private --document x --document")
def test_any_text_after_a_slash_command_is_understood(text: str) -> None:
    for command in COMMANDS.values():
        arguments = parse(command, text)
        assert set(arguments) <= {option.name for option in command.options}


# Rendering


@given(st.text(max_size=500))
@example("<@")  # no mention; with a number after it, it would be one
@example("<@1> <@!2> <@&3> @everyone @here")
def test_no_text_survives_as_a_mention_or_a_link(text: str) -> None:
    slack, discord = escape_slack(text), escape_discord(text)
    assert not any(mark in slack for mark in ("<!", "<@", "<#", "<http"))
    assert not re.search("@(?!\u200b)", discord)  # nothing stands right after an at sign


# Slack's signature


SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80)


async def handled(_: web.Request) -> web.Response:
    return web.Response(text="handled")


async def status_of(check: Any, body: bytes, timestamp: str, signature: str) -> int:
    headers = {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": signature}
    asked = make_mocked_request("POST", "/slack/events", headers=headers)
    asked._read_bytes = body
    return (await check(asked, handled)).status


def sign(body: bytes, timestamp: str, secret: str = SECRET) -> str:
    return "v0=" + hmac.new(secret.encode(), f"v0:{timestamp}:".encode() + body, hashlib.sha256).hexdigest()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), timestamp=HEADER | st.integers().map(str), signature=HEADER)
@example(b"{}", "9" * 400, "v0=x")
@example(b"{}", "1e9", "v0=x")
@example(b"{}", "-1", "v0=" + "0" * 64)
@example(b"\xff", str(int(time.time())), "v0=\xe9")
async def test_nothing_unsigned_is_handled_and_nothing_breaks(body: bytes, timestamp: str, signature: str) -> None:
    assert await status_of(only_from_slack(SECRET), body, timestamp, signature) == 401


@given(body=st.binary(max_size=200), age=st.integers(-(10**6), 10**6), other=st.booleans())
async def test_only_what_is_signed_with_our_secret_and_young_is_handled_and_once(
    body: bytes, age: int, other: bool
) -> None:
    check, timestamp = only_from_slack(SECRET), str(int(time.time()) - age)
    signature = sign(body, timestamp, "another" if other else SECRET)
    try:
        body.decode()
    except UnicodeDecodeError:
        age = 10**6  # Slack's bodies are UTF-8
    if abs(abs(age) - 300) <= 2:
        return  # the clock goes on
    wanted = 200 if not other and abs(age) < 300 else 401
    assert await status_of(check, body, timestamp, signature) == wanted
    assert await status_of(check, body, timestamp, signature) == 401  # a copy


# Discord's gateway


SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
KEYS = st.sampled_from(["id", "guild_id", "channel_id", "author", "content", "type", "data", "user", "attachments"])
PAYLOAD = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=6)
)


@settings(max_examples=8, deadline=None)
@given(payload=PAYLOAD | st.fixed_dictionaries({"id": SCALAR, "channel_id": SCALAR, "author": PAYLOAD}))
async def test_no_gateway_payload_breaks_the_connection(payload: object) -> None:
    """Whatever is wrong in an event, it is skipped. (READY comes first and once, and is discord.py's own matter.)"""
    from bot.platforms.discord.client import Client

    client = Client(None)
    client._connection.dispatch = lambda *_: None
    for name, parser in client._connection.parsers.items():
        if name not in ("READY", "RESUMED"):
            parser(payload)
