"""What goes over the wire to and from Slack: forged and repeated requests, hostile file hosts, rate limits, lost
connections. slack_bolt and slack_sdk are real, Slack is `FakeSlack` on loopback."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import random
import re
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiolimiter import AsyncLimiter

from bot.chat import Message
from bot.commands import Bot
from bot.platforms import supervise
from bot.platforms.common import is_from
from bot.platforms.recent import Recent
from bot.platforms.slack import app, files, oauth
from bot.platforms.slack import http as slack_http
from bot.platforms.slack.app import EDITS
from bot.platforms.slack.replies import Posted
from bot.platforms.slack.workspace import EVENTS_FOR
from bot.settings import Settings
from core.errors import SetupError, StorageFailed
from tests.bot.slack_fake import (
    APP_TOKEN,
    BOT,
    BOT_TOKEN,
    CHANNEL,
    MENTION,
    SECRET,
    TEAM,
    FakeSlack,
    File,
    shown,
    signed,
)
from tests.bot.test_slack import BAKERY, HANDBOOK, KEY, LEARN, WARDEN, World, engine, read, settings, slack, world
from tests.conftest import SMALL, Open
from tests.fakes import FakeEngine, HeldEngine, make_pdf, plain_pdf
from tests.timeouts import WAIT

ROOT = Path(__file__).parents[2]
real_time = time.time


@pytest.fixture
async def http(slack: FakeSlack, open_service: Open, unused_tcp_port: int) -> AsyncIterator[World]:
    """Our bot in HTTP mode."""
    async with open_service() as service:
        world = World(slack, service, HeldEngine())
        chosen = settings(slack, slack_app_token=None, slack_http_port=unused_tcp_port, slack_signing_secret=SECRET)
        slack.http_url = f"http://127.0.0.1:{unused_tcp_port}{app.PATH}"
        async with serving(world, chosen):
            yield world


def listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Requests


def mention(text: str = f"{MENTION} {WARDEN}", **more: Any) -> dict[str, Any]:
    event = {"type": "app_mention", "user": "UADA", "text": text, "ts": "1.000001", "channel": CHANNEL, **more}
    return {"type": "event_callback", "team_id": TEAM, "event_id": "Ev0", "event": event, "authorizations": []}


def forged(kind: str, number: int) -> tuple[bytes, dict[str, str]]:
    """A request that Slack did not make."""
    body, headers = signed("events_api", mention(ts=f"1.{number:06}") | {"event_id": f"Ev{number}"})
    stamp, sign = "X-Slack-Request-Timestamp", "X-Slack-Signature"
    if kind in ("old", "future"):
        return signed("events_api", mention(), at=-301 if kind == "old" else 400)
    if kind == "other secret":
        return signed("events_api", mention(), secret="another")
    changed = {
        "bad": (body, {sign: "v0=" + "0" * 64}),
        "empty": (body, {sign: ""}),
        "cut": (body[:-1], {}),
        "cut signature": (body, {sign: headers[sign][:-1]}),
        "re-encoded": (json.dumps(json.loads(body), separators=(",", ":")).encode(), {}),
        "timestamp abc": (body, {stamp: "abc"}),
        "no timestamp": (body, {stamp: ""}),
        "timestamp moved": (body, {stamp: str(int(headers[stamp]) + 1)}),
        "not utf-8": (body + b"\xff", {}),
        "not ascii": (body, {sign: "v0=\u00e9"}),
    }
    data, more = changed[kind]
    return data, headers | more


KINDS = (
    "bad", "empty", "cut", "cut signature", "re-encoded", "timestamp abc", "no timestamp", "timestamp moved",
    "not utf-8", "not ascii", "old", "future", "other secret",
)  # fmt: skip


async def test_a_thousand_forged_requests_are_refused_and_none_is_handled(http, slack, caplog):
    genuine = signed("events_api", mention())
    assert await slack.post(*genuine) == 200
    await http.said("know any documents")
    before = len(slack.calls)
    requests = [forged(random.choice(KINDS), number) for number in range(950)] + [genuine] * 50  # replayed
    random.shuffle(requests)
    statuses = []
    for at in range(0, len(requests), 50):
        statuses += await asyncio.gather(*(slack.post(*request) for request in requests[at : at + 50]))
    await http.quiet(0.2)
    assert len(statuses) == 1000 and set(statuses) == {401}
    assert len(slack.calls) == before and not [record for record in caplog.records if record.exc_info]


async def test_half_requests_are_given_up_and_never_too_many(http, slack, monkeypatch):
    monkeypatch.setattr(slack_http, "CONNECTION_TIMEOUT", 0.5)
    monkeypatch.setattr(slack_http, "MAX_CONNECTIONS", 20)
    port = int(slack.http_url.split(":")[2].split("/")[0])
    half = b"POST /slack/events HTTP/1.1\r\nHost: x\r\nContent-Le"
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
    for _, writer in held:
        writer.write(half)
    with suppress(ConnectionError):
        assert [await asyncio.wait_for(reader.read(), WAIT) for reader, _ in held[:20]] == [b""] * 20  # at once
    assert await slack.post(*signed("events_api", mention())) == 200
    for reader, writer in held:
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), WAIT) == b""
        writer.close()


async def test_a_text_that_does_not_come_is_not_waited_for(http, slack, monkeypatch, caplog):
    monkeypatch.setattr(slack_http, "BODY_TIMEOUT", 0.2)
    port = int(slack.http_url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /slack/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert b"408" in await asyncio.wait_for(reader.readline(), WAIT)
    writer.close()


@pytest.mark.parametrize("kind", ["old", "other secret", "packed"])
async def test_why_requests_are_refused_is_logged_once_a_minute(http, slack, caplog, kind):
    words = {"old": "clock", "other secret": "ENGRAM_SLACK_SIGNING_SECRET", "packed": "packed"}[kind]
    for number in range(5):
        body, headers = signed("events_api", mention()) if kind == "packed" else forged(kind, number)
        more = {"Content-Encoding": "gzip"} if kind == "packed" else {}
        assert await slack.post(body, headers | more) == (415 if more else 401)
    lines = [record for record in caplog.records if "are refused" in record.message]
    assert len(lines) == 1 and words in lines[0].message and not lines[0].exc_info


async def test_over_http_events_commands_and_buttons_work(http, slack):
    await slack.say(LEARN, HANDBOOK)
    await http.said("I know handbook.pdf now")
    await slack.slash("ask", WARDEN, by="UBOB")
    answer = await http.said("Ada Quill")
    await slack.click(answer, "👍")
    await http.whispered("Thank you")


async def test_slack_can_verify_the_address(http, slack):
    body, headers = signed("events_api", {"type": "url_verification", "challenge": "c42", "token": "t"})
    async with slack.session.post(slack.http_url, data=body, headers=headers) as answer:
        assert (answer.status, json.loads(await answer.text())) == (200, {"challenge": "c42"})


async def test_an_event_that_is_told_four_times_is_handled_once(http, slack):
    for retry in range(4):
        body, headers = signed("events_api", mention(), at=-10 * retry)
        assert await slack.post(body, headers, retry=retry) == 200
    await slack.post(*signed("events_api", mention(ts="2.000001")))  # the id alone tells
    await http.said("know any documents")
    await http.quiet()
    assert len(slack.said("know any documents")) == 1


async def test_a_retry_whose_first_delivery_never_came_is_handled(http, slack):
    assert await slack.post(*signed("events_api", mention()), retry=1) == 200
    await http.said("know any documents")


async def test_a_command_whose_request_is_copied_is_handled_once(http, slack):
    payload = {"command": "/docs", "text": "", "channel_id": CHANNEL, "user_id": "UADA", "team_id": TEAM}
    payload |= {"trigger_id": "Tr", "response_url": slack.response_url()}
    for age in range(3):
        await slack.post(*signed("slash_commands", payload, at=-10 * age))
    await http.whispered("know any documents")
    await http.quiet()
    assert len(slack.responses) == 1


def test_marks_last_as_long_as_slack_retries_and_are_bounded():
    now = [0.0]
    marks = Recent(EVENTS_FOR, keep=100, clock=lambda: now[0])
    seen = []
    for now[0] in (0, 1, 61, 361):
        seen.append(marks.first("Ev1"))
    assert seen == [True, False, False, False]
    for number in range(1000):
        marks.put(number)
    assert len(marks._marks) == 100


async def test_over_the_socket_retries_are_handled_once_and_a_new_connection_is_taken(world, slack):
    event = mention()["event"]
    for retry in range(3):
        await slack.event(event, event_id="Ev1", retry=retry)
    await world.said("know any documents")
    await slack.disconnect()
    await slack.event(event, event_id="Ev1", retry=3)
    await world.ask("And after that?")
    await world.quiet()
    assert slack.connections == 2 and len(slack.said("know any documents")) == 2


async def test_eleven_events_for_one_upload_are_one_job(world, slack):
    message = await slack.say(LEARN, HANDBOOK)
    for number in range(10):
        await slack.event({**message, "channel_type": "channel", "ts": f"9.{number:06}"})
    await world.said("I know handbook.pdf now")
    await world.quiet()
    said = [m for m in slack.messages[CHANNEL] if m["user"] == BOT and not m.get("files")]
    assert len(said) == 1 and len(await world.service.documents(KEY)) == 1


async def test_acknowledgements_are_quick_while_learning(slack, open_service, monkeypatch):
    engine = FakeEngine(step_seconds=0.02, steps_per_chunk=400)
    async with open_service(engine) as service:
        world = World(slack, service, engine)
        await world.start()
        await slack.say(LEARN, HANDBOOK)
        await world.learning()
        for number in range(60):
            await slack.event({"type": "reaction_added", "user": "UADA", "number": number})
            await slack.slash("docs", by=f"U{number}")
        assert not slack.said("I know")  # it was still learning
        await world.stop()
    slowest = statistics.quantiles(slack.acks.values(), n=100)[98]
    print(f"acknowledged within {slowest * 1000:.0f} ms (p99 of {len(slack.acks)})")
    assert slowest < 1


# Crashes


async def test_an_upload_that_was_acknowledged_survives_a_crash(world, slack):
    message = await slack.say(LEARN, ("handbook.pdf", File(HANDBOOK[1], slow=True)))
    await world.said("Fetching it")
    await world.stop()
    assert not await world.service.jobs(KEY)  # nothing but the acknowledged event is left
    slack.files[message["files"][0]["id"]].slow = False
    await world.start()
    await world.said("I know handbook.pdf now")
    await world.until(lambda: len(world.handled(message)) == 1)  # the one that said "Fetching it" is gone


async def test_what_a_reset_erased_is_not_fetched_by_the_next_start(world, slack):
    message = await slack.say(LEARN, ("handbook.pdf", File(HANDBOOK[1], slow=True)))
    await world.said("Fetching it")
    await slack.say(LEARN, ("bakery.pdf", File(BAKERY[1], slow=True)), channel="D1", by="UBOB")
    await world.said("Fetching it", "D1")
    await world.stop()
    await world.service.reset(KEY)
    for file in slack.files.values():
        file.slow = False
    await world.start()
    await world.said("I know bakery.pdf now", "D1")
    await world.quiet()
    assert not await world.service.documents(KEY) and len(world.handled(message)) == 1


SERVE = """
import sys
import bot.app, bot.cli
from tests.fakes import FakeEngine
bot.app.load_engine = lambda settings: FakeEngine()
sys.argv = ["engram", "serve"]
bot.cli.main()
"""


@asynccontextmanager
async def process(slack: FakeSlack, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`serve` in a process of its own, connected."""
    tokens = {"ENGRAM_SLACK_BOT_TOKEN": BOT_TOKEN, "ENGRAM_SLACK_APP_TOKEN": APP_TOKEN, "ENGRAM_MIN_TOKENS": "5"}
    variables = {**os.environ, **tokens, "ENGRAM_SLACK_BASE_URL": f"{slack.url}/api/", **more}
    slack.connected.clear()
    running = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVE, cwd=ROOT, env=variables)
    try:
        await asyncio.wait_for(slack.connected.wait(), WAIT)
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.wait()


async def test_killing_the_process_after_its_acknowledgement_loses_no_upload(slack, tmp_path):
    world, folder = World(slack, None, None), str(tmp_path / "data")
    async with process(slack, ENGRAM_DATA_DIR=folder) as first:
        pdf = make_pdf("The warden is Ada Quill. The lamp burns whale oil.")
        message = await slack.say(LEARN, ("handbook.pdf", File(pdf, slow=True)))
        first.kill()
    slack.files[message["files"][0]["id"]].slow = False
    async with process(slack, ENGRAM_DATA_DIR=folder) as second:
        await world.until(lambda: slack.said("I know handbook.pdf now"), 30)
        second.terminate()
        assert await second.wait() == 0
    assert len(slack.said("handbook.pdf")) == 1


async def test_what_the_menu_was_asked_survives_a_crash(world, slack):
    posted = await slack.say("our handbook", ("handbook.pdf", File(HANDBOOK[1], slow=True)), by="UBOB")
    await slack.choose(posted)
    await world.stop()
    slack.files[posted["files"][0]["id"]].slow = False
    await world.start()
    await world.said("I know handbook.pdf now")


@asynccontextmanager
async def slow_disk(world) -> AsyncIterator[None]:
    """Another program writes to the index: whoever wants to write waits."""
    with closing(sqlite3.connect(world.service._index._path, isolation_level=None, timeout=0)) as other:
        async with asyncio.timeout(WAIT):
            while not other.in_transaction:  # the bot may be in the middle of a transaction of its own
                with suppress(sqlite3.OperationalError):
                    other.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(0.01)
        yield


async def test_nothing_is_acknowledged_before_it_is_kept(world, slack):
    async with slow_disk(world):
        told = asyncio.create_task(slack.event(mention()["event"]))
        await world.quiet()
        assert not told.done()
    await told
    await world.said("know any documents")


async def test_a_slow_disk_costs_a_command_two_seconds_and_not_its_answer(world, slack, monkeypatch):
    monkeypatch.setattr(app, "DISK_TIMEOUT", 0.1)
    async with slow_disk(world):
        await slack.slash("docs")
    await world.whispered("know any documents")


async def test_on_a_full_disk_people_are_still_answered(world, slack):
    await world.teach()
    await world.service._index._writer.execute("PRAGMA query_only = ON")  # nothing can be written
    for _ in range(2):
        await slack.event(mention()["event"], event_id="Ev1")
    await world.whispered("I could not read or write my data")
    await world.quiet()
    assert len(slack.whispers) == 1


async def test_what_was_handled_before_a_restart_is_not_handled_again(world, slack):
    event = mention()["event"]
    await slack.event(event, event_id="Ev1")
    await world.said("know any documents")
    message = await world.teach()
    await world.restart()
    await slack.event(event, event_id="Ev1", retry=1)
    await slack.event({**event, "type": "message", "channel_type": "channel"}, event_id="Ev2")
    await slack.event({**message, "channel_type": "channel", "ts": "9.000001"}, event_id="Ev3")
    await world.quiet()
    assert len(slack.said("know any documents")) == 1 and len(slack.said("handbook.pdf")) == 1


async def test_what_people_say_to_each_other_is_not_kept(world, slack):
    answer = await world.ask()
    await slack.say("<@UBOB> the safe's number is 4711", thread_ts=answer["thread_ts"])
    await slack.say("4711, I said")
    await world.quiet()
    await world.stop()
    assert b"4711" not in Path(world.service.inbox._path).read_bytes()
    assert not await world.service.inbox.unhandled("slack:")
    await world.start()


# OAuth


@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")  # slack_sdk uses it
async def test_a_workspace_that_installs_the_app_is_served_also_after_a_restart(
    slack, open_service, unused_tcp_port, tmp_path
):
    ids = {"slack_client_id": "1", "slack_client_secret": "oauth-very-secret", "data_dir": tmp_path / "data"}
    tokens = {"slack_bot_token": None, "slack_app_token": None, "slack_signing_secret": SECRET}
    chosen = settings(slack, slack_http_port=unused_tcp_port, **ids, **tokens)
    site = f"http://127.0.0.1:{unused_tcp_port}/slack"
    slack.http_url = f"{site}/events"
    async with open_service() as service:
        world = World(slack, service, HeldEngine())
        async with serving(world, chosen):
            await slack.post(*signed("events_api", mention(ts="1.000009")))  # not installed yet
            state = await install(slack, site)
            async with slack.session.get(f"{site}/oauth_redirect", params={"code": "c", "state": state}) as again:
                assert again.status == 400  # another browser
        async with serving(world, chosen):
            await slack.say(LEARN, HANDBOOK)
            await world.said("I know handbook.pdf now")
            assert "Ada Quill" in shown(await world.ask())
        slack.fault("auth.test", "token_revoked", times=9)
        async with serving(world, chosen):
            assert await world.client.reopen(f"slack:{TEAM}:{CHANNEL}::1.1") is None  # one workspace less, not all
    assert (tmp_path / "data/slack.db").stat().st_mode & 0o777 == 0o600
    assert len(slack.said("Ada Quill")) == 1


@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")
@pytest.mark.parametrize("event", [{"type": "app_uninstalled"}, {"type": "tokens_revoked", "tokens": {"bot": [BOT]}}])
async def test_a_workspace_that_takes_the_app_away_takes_its_token_along(
    slack, open_service, unused_tcp_port, tmp_path, event, monkeypatch
):
    ids = {"slack_client_id": "1", "slack_client_secret": "oauth-very-secret", "data_dir": tmp_path / "data"}
    tokens = {"slack_bot_token": None, "slack_app_token": None, "slack_signing_secret": SECRET}
    chosen = settings(slack, slack_http_port=unused_tcp_port, **ids, **tokens)
    site, file = f"http://127.0.0.1:{unused_tcp_port}/slack", tmp_path / "data/slack.db"
    slack.http_url = f"{site}/events"
    async with open_service() as service, serving(World(slack, service, HeldEngine()), chosen):
        await install(slack, site)
        assert BOT_TOKEN.encode() in file.read_bytes()
        await slack.event(event)
        assert BOT_TOKEN.encode() not in file.read_bytes()
        monkeypatch.setattr(oauth.time, "time", lambda: real_time() + 700)
        async with slack.session.get(f"{site}/install"):
            pass
    with closing(sqlite3.connect(file)) as states:
        assert states.execute("SELECT count(*) FROM oauth_states").fetchone() == (1,)


def test_a_store_closes_its_file_after_each_use(tmp_path):
    for store in (
        oauth.Installations(database=str(tmp_path / "slack.db"), client_id="1"),
        oauth.States(database=str(tmp_path / "slack.db"), expiration_seconds=9),
    ):
        with store.connect() as file:
            assert file.execute(f"SELECT count(*) FROM {store.table}").fetchone() == (0,)
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            file.execute("SELECT 1")


async def install(slack: FakeSlack, site: str) -> str:
    """What a browser does: the page's link, then the way back from Slack; returns the state."""
    async with slack.session.get(f"{site}/install") as page:
        state = re.search(r"state=([\w-]+)", await page.text())[1]
        cookie = page.headers["Set-Cookie"].split(";")[0]
    back = {"params": {"code": "c", "state": state}, "headers": {"Cookie": cookie}}
    async with slack.session.get(f"{site}/oauth_redirect", **back) as done:
        assert done.status == 200
    return state


@asynccontextmanager
async def serving(world: World, chosen: Settings) -> AsyncIterator[None]:
    """Our bot in HTTP mode."""
    bot = Bot(world.service, limits=SMALL)
    world.client = client = app.Client(bot, chosen)

    async def serve() -> None:
        async with client, bot:
            await client.run()

    task = asyncio.create_task(serve())
    try:
        await world.until(lambda: listens(chosen.slack_http_port))
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# Files


@pytest.fixture
async def trap(unused_tcp_port: int) -> AsyncIterator[Any]:
    """A server that must never be asked; counts requests, and those that carry a token."""
    asked: list[str] = []

    async def count(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization", ""))
        return web.Response(body=plain_pdf("trap " * 50), content_type="application/pdf")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", count)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    yield SimpleNamespace(port=unused_tcp_port, asked=asked)
    await runner.cleanup()


async def test_the_token_never_follows_a_redirect(world, slack, trap):
    """Five kinds of redirect to three kinds of place."""
    home = slack._attach("there.pdf", HANDBOOK[1])["url_private"]
    targets = (home, f"http://localhost:{trap.port}/x", f"http://127.0.0.1:{trap.port}/x")
    cases = [(status, target) for status in (301, 302, 303, 307, 308) for target in targets]
    await slack.say(LEARN, *((f"{at}.pdf", File(b"", redirect=case)) for at, case in enumerate(cases)))
    for at in range(15):
        assert "files:read" in shown(await world.said(f"I can't learn {at}.pdf"))
    assert len(slack.file_headers) == 15 and trap.asked == []


FOREIGN = (
    "http://127.0.0.1:{port}/x", "http://localhost:{port}/x", "https://files.slack.com.evil.example/x",
    "http://files.slack.com/x", "https://files.slack.com@127.0.0.1:{port}/x", "//127.0.0.1:{port}/x", "file:///etc/hosts",
    "https://files.slack.com:8443/x", "https://169.254.169.254/latest", "http://[::1]:{port}/", "x", "http://",
)  # fmt: skip


async def test_foreign_addresses_are_never_asked(world, slack, trap):
    urls = [url.format(port=trap.port) for url in FOREIGN]
    await slack.say(LEARN, *((f"{at}.pdf", File(b"x", url=url)) for at, url in enumerate(urls)))
    for at in range(len(urls)):
        assert "somewhere else" in shown(await world.said(f"I can't learn {at}.pdf"))
    assert trap.asked == [] and slack.file_headers == []


async def test_slacks_own_file_host_is_asked():
    assert is_from("https://files.slack.com/files-pri/T1-F1/download/a.pdf", {files.FILE_HOST})


async def test_a_login_page_instead_of_the_file_is_explained(world, slack):
    await slack.say(LEARN, ("handbook.pdf", File(b"<!DOCTYPE html><html>", "text/html")))
    assert "files:read" in shown(await world.said("I can't learn handbook.pdf"))


async def test_files_of_shared_channels_are_looked_up(world, slack):
    await slack.say(LEARN, ("handbook.pdf", File(HANDBOOK[1], info_only=True)))
    await world.said("I know handbook.pdf now")


async def test_a_file_that_slack_does_not_show_is_refused(world, slack):
    slack.fault("files.info", "file_not_found")
    await slack.say(LEARN, ("handbook.pdf", File(b"x", info_only=True)))
    await world.said("Slack does not give me this file")


async def test_an_endless_file_is_cut_off_at_the_limit(world, slack):
    began = time.monotonic()
    await slack.say(LEARN, ("handbook.pdf", File(b"x", endless=True)))
    await world.said("the limit")
    assert time.monotonic() - began < 50 and slack.sent_bytes < 16 * 2**20  # what the sockets' buffers hold


async def test_a_packed_file_is_not_unpacked(world, slack):
    bomb = gzip.compress(b"%PDF-" + bytes(5_000_000))
    assert len(bomb) < SMALL.max_bytes
    await slack.say(LEARN, ("handbook.pdf", File(bomb, encoding="gzip")))
    assert "can't read this file" in shown(await world.said("I can't learn handbook.pdf"))


async def test_a_file_that_trickles_is_given_up(world, slack, monkeypatch):
    monkeypatch.setattr(files, "FILE_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    await slack.say(LEARN, ("handbook.pdf", File(b"x", slow=True)))
    await world.said("could not download it")


# Troubles


async def test_a_rate_limit_is_waited_for(world, slack):
    slack.fault("chat.postMessage", "ratelimited", status=429, retry_after=1)
    began = time.monotonic()
    await world.ask()
    assert time.monotonic() - began >= 1 and len(slack.said("know any documents")) == 1


@pytest.mark.parametrize("channel", [CHANNEL, "D1"])
async def test_a_message_that_arrived_all_the_same_is_not_sent_twice(world, slack, monkeypatch, channel):
    world.bot.retry_after = (0, 0)
    slack.fault("chat.postMessage", "internal_error", status=503, after_the_fact=True)
    slack.fault("chat.postMessage", "internal_error", status=503)
    monkeypatch.setattr(app, "async_default_handlers", lambda: [])
    await slack.say(f"{MENTION} {WARDEN}", channel=channel)
    await world.said("know any documents", channel)
    await world.quiet()
    assert len(slack.said("know any documents", channel)) == 1


async def test_edits_of_all_channels_together_keep_to_slacks_limit(world, slack):
    messages = [await world.ask(f"Question {number}?") for number in range(5)]
    workspace = (await world.client.listener(TEAM)).workspace
    workspace.edits = AsyncLimiter(*EDITS)
    posted = [Posted(workspace, CHANNEL, "", message["ts"]) for message in messages]
    for live in posted * 10:
        await live.edit(Message("news"))
    assert len(slack.sent("chat.update")) == EDITS[0]


async def test_a_used_up_response_url_is_replaced_by_an_ephemeral_message(world, slack):
    slack.response_uses = 0
    await slack.slash("docs")
    await world.whispered("know any documents")
    assert slack.whispers[0]["user"] == "UADA"


async def test_a_broken_client_is_replaced(slack, open_service):
    slack.fault("auth.test", "internal_error", times=2)
    async with open_service() as service:
        client = partial(app.connect, SimpleNamespace(service=service, name="", usage=None), settings(slack))
        task = asyncio.create_task(supervise("Slack", client, (0,)))
        await asyncio.wait_for(slack.connected.wait(), WAIT)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert len(slack.sent("auth.test")) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"slack_bot_token": "xoxb-wrong"}, "does not accept ENGRAM_SLACK_BOT_TOKEN"),
        ({"slack_app_token": "xapp-wrong"}, "does not accept ENGRAM_SLACK_APP_TOKEN"),
        ({"slack_app_token": None}, "ENGRAM_SLACK_APP_TOKEN is not set"),
        ({"slack_http_port": 9}, "ENGRAM_SLACK_SIGNING_SECRET is not set"),
        ({"slack_http_port": 9, "slack_http_host": "192.0.2.1", "slack_signing_secret": "s"}, "can't be listened on"),
        ({"slack_base_url": "http://slack.com/api/"}, "has to begin with https://"),
    ],
)
async def test_a_wrong_setting_is_one_clear_sentence(slack, open_service, given, words):
    async with open_service() as service:
        with pytest.raises(SetupError, match=words):
            await app.serve(
                SimpleNamespace(service=service, name="", usage=None), settings(slack).model_copy(update=chosen(given))
            )


def chosen(given: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(Settings(_env_file=None, **given), name) for name in given}


async def test_no_secret_is_ever_logged_or_said(slack, open_service, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    async with open_service() as service:
        world = World(slack, service, HeldEngine())
        await world.start()
        slack.fault("chat.postMessage", "msg_blocks_too_long")
        slack.fault("users.info", "fatal_error")
        await slack.say(LEARN, ("a.pdf", File(b"", redirect=(302, "http://x/"))), by="UMOD")
        await slack.say(LEARN, ("b.pdf", File(b"<html>", "text/html")))
        await world.whispered("Something went wrong on my side")
        await slack.say(LEARN, ("c.pdf", File(b"<html>", "text/html")))
        await world.said("files:read")
        await world.stop()
    said = caplog.text + json.dumps([slack.messages, slack.whispers, slack.responses])
    assert caplog.text and not [secret for secret in (BOT_TOKEN, APP_TOKEN, SECRET) if secret in said]
