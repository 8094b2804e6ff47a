"""discord.py and our client over real sockets, against `FakeDiscord`: what simcord replaces is what is tested here."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest

from bot.commands import COMMANDS, Bot
from bot.platforms import supervise
from bot.platforms.common import is_from
from bot.platforms.discord.app import connect, sync
from bot.platforms.discord.client import Client
from bot.platforms.discord.connection import FILE_HOSTS
from bot.quotas import QuotaConfig
from bot.settings import Settings
from core.errors import SetupError
from core.ports import Engine
from tests.bot.fake_discord import ADA, CHANNEL, DIRECT, FakeDiscord
from tests.conftest import SMALL, Open
from tests.fakes import FakeEngine, HeldEngine, plain_pdf
from tests.timeouts import WAIT

TOKEN = "MTAw.secret.token"
PDF = plain_pdf("The ferry to Marrow Island leaves at seven. The warden is Ada Quill. " * 3)
POST, EDIT = f"channels/{CHANNEL}/messages", f"channels/{CHANNEL}/messages/\\d+"
EPHEMERAL, COMPONENTS = 1 << 6, 1 << 15  # flags of a message
THREAD_POST = "channels/\\d+/messages"


@pytest.fixture
async def discord() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord() as server:
        yield server


@pytest.fixture
async def online(discord: FakeDiscord, open_service: Open) -> AsyncIterator[None]:
    """Our bot, connected to the fake."""
    async with running(discord, open_service):
        yield


@asynccontextmanager
async def running(
    discord: FakeDiscord,
    open_service: Open,
    engine: Engine | None = None,
    **options: Any,
) -> AsyncIterator[asyncio.Task]:
    async with open_service(engine) as service:
        make = partial(make_client, service, file_hosts=[discord.host], **options)
        task = asyncio.create_task(supervise("Discord", partial(connect, make, TOKEN), (0,)))
        await asyncio.wait({task, asyncio.create_task(discord.connected.wait())}, return_when="FIRST_COMPLETED")
        yield task
        task.cancel()
        with suppress(asyncio.CancelledError, SetupError):
            await task


def make_client(service: object, **options: Any) -> Client:
    quotas = QuotaConfig(user_questions_per_minute=0, channel_questions_per_minute=0)
    bot = Bot(service, limits=SMALL, quotas=quotas)
    bot.retry_after = (0.01,)
    return Client(bot, guild_ready_timeout=0.05, **options)


async def until(found: Callable[[], object], seconds: float = WAIT) -> object:
    async with asyncio.timeout(seconds):
        while not (value := found()):
            await asyncio.sleep(0.01)
    return value


def texts(body: Any) -> list[str]:
    """Of a message's components."""
    if isinstance(body, list):
        return [text for part in body for text in texts(part)]
    return [body["content"]] if body.get("type") == 10 else texts(body.get("components") or [])


def said(discord: FakeDiscord, words: str) -> list[str]:
    return [number for number, message in discord.messages.items() if words in json.dumps(message)]


async def test_a_pdf_is_fetched_and_learned_and_its_end_calls_ada_alone(discord, online):
    await discord.say("learn this", PDF)
    await until(lambda: said(discord, "I know handbook.pdf now"))
    first, *_, last = discord.sent("POST", POST)
    assert first.body["allowed_mentions"]["parse"] == [] and first.body["nonce"]
    assert last.body["allowed_mentions"] == {"parse": [], "users": [int(ADA)]}
    assert texts(last.body)[0].startswith(f"### <@{ADA}> I know handbook.pdf now")
    await until(lambda: discord.sent("DELETE", EDIT))  # the progress


async def test_two_files_of_one_name_are_two_messages(discord, online):
    other = plain_pdf("The bakery opens at six. The baker is Tom Reed. Bread costs two crowns. " * 3)
    files = [discord._attachment("document.pdf", data) for data in (PDF, other)]
    await discord.say("learn these", attachments=files)
    await until(lambda: len(said(discord, "I know document.pdf now")) == 2)


async def test_a_file_is_called_what_its_sender_called_it(discord, online):
    await discord.say("learn this", attachments=[discord._attachment("my_book.pdf", PDF) | {"title": "my book (2)"}])
    await until(lambda: said(discord, "I know my book (2).pdf now"))


FOREIGN = (
    "http://localhost:{port}/files/1", "http://cdn.discordapp.com/x", "https://cdn.discordapp.com.evil.example/x",
    "https://cdn.discordapp.com@127.0.0.1:{port}/files/1", "//127.0.0.1:{port}/files/1", "file:///etc/hosts",
    "https://cdn.discordapp.com:8443/x", "https://169.254.169.254/latest", "x", "http://",
)  # fmt: skip


async def test_foreign_addresses_are_never_asked(discord, online):
    for url in FOREIGN:
        file = discord._attachment("handbook.pdf", PDF) | {"url": url.format(port=discord.port)}
        await discord.say("learn this", attachments=[file])
    await until(lambda: len(said(discord, "keeps this file somewhere else")) == len(FOREIGN))
    assert discord.fetched == 0


def test_discords_own_file_hosts_are_asked():
    assert is_from("https://cdn.discordapp.com/attachments/1/2/handbook.pdf?ex=1&is=2&hm=3", FILE_HOSTS)
    assert is_from("https://media.discordapp.net/attachments/1/2/handbook.pdf", FILE_HOSTS)


NOTHING_YET = "know any documents"


async def test_a_question_is_answered_by_a_reply(discord, online):
    number = await discord.say("Who is the warden?")
    await until(lambda: said(discord, NOTHING_YET))
    (call,) = discord.sent("POST", POST)
    assert call.body["message_reference"]["message_id"] == int(number)


async def test_a_command_is_answered_at_once_and_privately_where_it_should_be(discord, online):
    token = await discord.slash("docs")
    (call,) = await until(lambda: discord.sent("POST", f"interactions/\\d+/{token}/callback"))
    assert call.body["type"] == 4 and call.body["data"]["flags"] == EPHEMERAL | COMPONENTS
    assert NOTHING_YET in texts(call.body["data"])[0]


async def test_a_command_that_takes_longer_is_deferred_first(discord, open_service):
    async with running(discord, open_service, FakeEngine(answer_seconds=0.5), patience=0.1):
        await discord.say("learn this", PDF)
        await until(lambda: said(discord, "I know handbook.pdf now"))
        token = await discord.slash("ask", question="Who is the warden?")
        await until(lambda: said(discord, "Ada Quill"))
    (deferral,) = discord.sent("POST", f"interactions/\\d+/{token}/callback")
    assert deferral.body["type"] == 5
    (reply,) = discord.sent("POST", f"webhooks/100/{token}")
    assert "Ada Quill" in texts(reply.body)[0]


async def test_a_refusal_that_takes_longer_is_private_all_the_same(discord, open_service):
    async with running(discord, open_service, FakeEngine(answer_seconds=0.5), patience=0.1):
        await discord.say("learn this", PDF)
        await until(lambda: said(discord, "I know handbook.pdf now"))
        token = await discord.slash("ask", question="Who is the warden, explode?")
        await until(lambda: said(discord, "Something went wrong"))
    assert discord.sent("DELETE", f"webhooks/100/{token}/messages/@original")  # what announced it to all
    (refusal,) = discord.sent("POST", f"webhooks/100/{token}")
    assert refusal.body["flags"] == EPHEMERAL | COMPONENTS


async def test_a_person_who_installed_the_bot_has_documents_of_their_own_everywhere(discord, online):
    token = await discord.slash("learn", pdf=PDF, away=True)
    await until(lambda: said(discord, "I know handbook.pdf now"))
    (told,) = discord.sent("POST", f"interactions/\\d+/{token}/callback")
    assert told.body["data"]["flags"] == EPHEMERAL | COMPONENTS and "direct messages" in texts(told.body["data"])[0]
    assert {call.path for call in discord.sent("POST", THREAD_POST)} == {f"channels/{DIRECT}/messages"}
    token = await discord.slash("ask", question="Who is the warden?", away=True)
    (answer,) = await until(lambda: discord.sent("POST", f"interactions/\\d+/{token}/callback"))
    assert answer.body["data"]["flags"] == EPHEMERAL | COMPONENTS and "Ada Quill" in texts(answer.body["data"])[0]
    await discord.slash("ask", question="Who is the warden?")  # in a server that has it: nothing is known there
    await until(lambda: said(discord, NOTHING_YET))


async def test_who_takes_no_direct_messages_is_told(discord, online):
    discord.fault("POST", f"channels/{DIRECT}/messages", 403, code=50007)
    await discord.slash("learn", pdf=PDF, away=True)
    await until(lambda: said(discord, "allow direct messages from me"))


async def test_an_answer_whose_token_died_goes_to_the_channel(discord, online):
    await discord.say("learn this", PDF)
    await until(lambda: said(discord, "I know handbook.pdf now"))
    discord.fault("POST", "interactions/.*/callback", 404, code=10062, times=99)
    await discord.slash("ask", question="Who is the warden?")
    await until(lambda: said(discord, "Ada Quill"))


DROPS = {
    "reset": FakeDiscord.reset,
    "close 4000": lambda discord: discord.close(4000),
    "op 7": lambda discord: discord.op(7),
    "op 9": lambda discord: discord.op(9, True),
}


@pytest.mark.parametrize("drop", DROPS)
async def test_what_was_said_during_a_drop_is_answered_once_after_resume(discord, online, drop):
    await DROPS[drop](discord)
    await discord.say("Who is the warden?")
    await until(lambda: said(discord, NOTHING_YET))
    await asyncio.sleep(0.2)
    assert len(said(discord, NOTHING_YET)) == 1
    assert (discord.identified, discord.resumed) == (1, 1)


async def test_drop_after_drop_during_learning_loses_nothing_and_says_nothing_twice(
    discord, open_service, pytestconfig
):
    """`pytest tests/bot/test_discord_wire.py -k drop_after_drop --drops 50` does it as often as was promised."""
    engine, drops = HeldEngine(), pytestconfig.getoption("drops")
    engine.go.clear()
    async with running(discord, open_service, engine):
        await discord.say("learn this", PDF)
        await until(lambda: said(discord, "Cancel"))  # it is in the queue
        for number, drop in zip(range(drops), itertools.cycle(DROPS.values()), strict=False):
            await (new_session if number % 10 == 9 else drop)(discord)
            await discord.say(f"Question {number}?")
            await until(discord.connected.is_set, 60)
        await until(lambda: len(said(discord, "still learning")) == drops, 60)
        engine.go.set()
        await until(lambda: len(said(discord, "Without the document")) == drops, 60)
        await asyncio.sleep(0.2)
    assert len(said(discord, "still learning")) == len(said(discord, "Without the document")) == drops
    assert len(said(discord, "I know handbook.pdf now")) == 1
    assert (discord.identified, discord.resumed) == (1 + drops // 10, drops - drops // 10)


async def new_session(discord: FakeDiscord) -> None:
    """Nobody tells the bot again what was said before it began. discord.py waits for 5 s."""
    await discord.op(9, False)
    await until(discord.connected.is_set, 60)


async def test_a_silence_is_noticed_and_what_was_said_in_it_is_answered_once(discord, open_service):
    discord.heartbeat = 0.2
    async with running(discord, open_service, heartbeat_timeout=1.0):
        await discord.silence()
        await discord.say("Who is the warden?")
        await until(lambda: said(discord, NOTHING_YET))
        await asyncio.sleep(0.2)
    assert len(said(discord, NOTHING_YET)) == 1 and discord.identified == 1 <= discord.resumed


async def test_an_upload_that_was_heard_survives_a_crash(discord, open_service):
    discord.gone = True
    async with running(discord, open_service):
        await discord.say("learn this", PDF)
        await until(lambda: said(discord, "Fetching it"))
    discord.gone, discord.connected = False, asyncio.Event()
    async with running(discord, open_service):
        await until(lambda: said(discord, "I know handbook.pdf now"))
    async with running(discord, open_service):
        await asyncio.sleep(0.3)
    assert len(discord.messages) == 1  # the one that said "Fetching it" is gone


async def test_an_invalid_session_begins_a_new_one(discord, online):
    await discord.op(9, False)
    await until(discord.connected.is_set)
    await discord.say("Who is the warden?")
    await until(lambda: said(discord, NOTHING_YET))
    assert (discord.identified, discord.resumed) == (2, 0)


async def test_rate_limits_delay_an_answer_but_do_not_lose_it(discord, online):
    discord.fault("POST", THREAD_POST, 429, times=3)
    await discord.say("Who is the warden?")
    await until(lambda: said(discord, NOTHING_YET))
    assert len(said(discord, NOTHING_YET)) == 1


async def test_a_server_error_after_the_fact_makes_no_second_answer(discord, online):
    discord.fault("POST", THREAD_POST, 500, after_the_fact=True)
    await discord.say("Who is the warden?")
    await until(lambda: len(discord.sent("POST", THREAD_POST)) == 2)
    await asyncio.sleep(0.2)
    assert len(said(discord, NOTHING_YET)) == 1


async def test_a_failed_answer_is_tried_again(discord, online):
    discord.fault("POST", THREAD_POST, 503)  # discord.py itself gives up on this one
    await discord.say("Who is the warden?")
    await until(lambda: said(discord, NOTHING_YET))


async def test_when_a_message_takes_no_more_edits_the_end_is_a_new_one(discord, online):
    discord.fault("PATCH", EDIT, 429, code=30046, times=99, retry_after=0.01)
    await discord.say("learn this", PDF)
    await until(lambda: len(said(discord, "I know handbook.pdf now")) == 1)


async def test_a_malformed_event_is_skipped(discord, online):
    await discord.dispatch("MESSAGE_CREATE", {"id": "nonsense"})
    await discord.dispatch("INTERACTION_CREATE", {"type": 3})
    await discord.dispatch("GUILD_CREATE", None)
    await discord.say("Who is the warden?")
    await until(lambda: said(discord, NOTHING_YET))
    assert discord.identified == 1


async def test_a_client_that_breaks_is_replaced(discord, online):
    discord.connected.clear()
    await discord.send_raw("{this is no JSON")
    await until(discord.connected.is_set)
    await discord.say("Who is the warden?")
    await until(lambda: said(discord, NOTHING_YET))
    assert discord.identified == 2


@pytest.mark.parametrize(("code", "words"), [(4004, "token"), (4014, "message content intent"), (4013, "4013")])
async def test_a_refused_login_ends_with_one_clear_line(discord, open_service, code, words):
    discord.close_on_identify = code
    async with running(discord, open_service) as task:
        with pytest.raises(SetupError, match=words):
            await asyncio.wait_for(asyncio.shield(task), WAIT)
    assert discord.identified == 1


async def test_a_wrong_token_ends_with_one_clear_line(discord, open_service):
    discord.fault("GET", "users/@me", 401, times=99)
    async with running(discord, open_service) as task:
        with pytest.raises(SetupError, match="ENGRAM_DISCORD_TOKEN"):
            await asyncio.wait_for(asyncio.shield(task), WAIT)


async def test_the_commands_are_told_to_discord_when_asked(discord, online):
    assert not discord.sent("PUT", ".*/commands")  # never by itself
    number = await sync(Settings(discord_token=TOKEN))
    (call,) = discord.sent("PUT", "applications/100/commands")
    assert number == len(call.body) == len(COMMANDS) + 1  # and the menu
    assert all(row["integration_types"] == [0, 1] and row["contexts"] == [0, 1, 2] for row in call.body)


async def test_the_token_is_in_no_log(discord, open_service, caplog):
    caplog.set_level("DEBUG")
    async with running(discord, open_service):
        await discord.say("learn this", PDF)
        await until(lambda: said(discord, "I know handbook.pdf now"))
        await discord.send_raw("{this is no JSON")
        await until(lambda: discord.identified == 2)
    assert len(caplog.records) > 20 and TOKEN not in caplog.text
