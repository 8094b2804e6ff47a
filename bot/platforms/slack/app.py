"""The connection to Slack: Socket Mode, HTTP, or OAuth for several workspaces.

Every event is kept on disk, acknowledged and handled, in that order: a crash loses none, and none is handled twice.
A progress message is known by channel, thread and time stamp, so the next process can go on with it. Buttons carry all
they need, so they outlive a restart without any state. The app serves the workspace that its bot token belongs to; with
OAuth switched on, every workspace that installs it.

Answers are not streamed: up to three candidates are written side by side, and the surest one is known at the end, a
second or two later; chat.startStream allows about 20 calls a minute for a whole workspace. The status line tells that
an answer is coming.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import yarl
from aiolimiter import AsyncLimiter
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncAck, AsyncApp
from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler, async_default_handlers
from slack_sdk.web.async_client import AsyncWebClient

from bot.chat import Live, Unfinished
from bot.commands import Bot
from bot.platforms import supervise
from bot.platforms.common import BUTTON, bot_options, erase_all, login_errors
from bot.platforms.recent import Recent
from bot.platforms.slack.blocks import FORM
from bot.platforms.slack.errors import login_error
from bot.platforms.slack.files import FILE_HOST, Files
from bot.platforms.slack.http import INSTALL, listening
from bot.platforms.slack.listener import Listener
from bot.platforms.slack.manifest import COMMAND, SCOPES, SHORTCUT, commands, short_names
from bot.platforms.slack.oauth import installations, oauth
from bot.platforms.slack.payloads import Me, channel_key, place_of, removes_the_app, team_of
from bot.platforms.slack.replies import Posted, may_repeat
from bot.platforms.slack.workspace import EVENTS_FOR, LOOK_UP_TIMEOUT, Workspace
from core.errors import SetupError, StorageFailed
from core.program import this_program

if TYPE_CHECKING:
    from pydantic import SecretStr

    from bot.app import App
    from bot.settings import Settings

log = logging.getLogger(__name__)

PATH = "/slack/events"
DISK_TIMEOUT = 2.0  # seconds that Slack can wait for the disk
EDITS = (4, 6.0)  # chat.update allows about 50 a minute
LOOK_BACK = 3600.0  # seconds before a start in which somebody may have asked in vain
LOST_AFTER = 300  # seconds without a connection; slack_sdk reconnects in a few


async def serve(app: App, settings: Settings) -> None:
    """Be on Slack until cancelled. Raises: SetupError."""
    await supervise("Slack", partial(connect, app, settings))


async def connect(app: App, settings: Settings) -> None:
    """Be on Slack until the connection breaks for good. Raises: SetupError, and whatever breaks it."""
    bot = Bot(app.service, name=app.name, commands=commands(), **bot_options(app, settings))
    async with Client(bot, settings) as client, bot:
        await client.run()


async def examine(settings: Settings) -> AsyncIterator[tuple[str, str, str, str]]:
    """What Slack says about the tokens, as (name, state, detail, fix). Raises: SetupError, OSError, TimeoutError."""
    nobody = Bot(None)  # type: ignore[arg-type]  # it hears nothing: only the tokens are looked at
    async with Client(nobody, settings) as client, asyncio.timeout(LOOK_UP_TIMEOUT * 3):
        if settings.slack_client_id:
            yield "Slack OAuth", "ok", f"workspaces install the app at {INSTALL[0]}", ""
            return
        web = client.bolt.client
        with login_errors(partial(login_error, "ENGRAM_SLACK_BOT_TOKEN")):
            answer = await web.auth_test()
        yield "Slack bot token", "ok", f"{answer.get('user')}, in the workspace {answer.get('team')}", ""
        if apart := _seconds_apart(answer.headers.get("Date") or answer.headers.get("date")):
            detail = f"this machine's is {apart:.0f} seconds off Slack's"
            yield "Slack clock", "error", detail, "Set the clock (NTP): Slack's requests are refused by their time."
        granted = {scope.strip() for scope in answer.headers.get("x-oauth-scopes", "").split(",")}
        absent = [scope for scope in SCOPES if scope not in granted]
        fix = f"Update the app from `{this_program()} slack-manifest`, and install it again."
        detail = f"missing: {', '.join(absent)}" if absent else f"all {len(SCOPES)}"
        yield "Slack scopes", "error" if absent else "ok", detail, fix if absent else ""
        if settings.slack_http_port:
            yield "Slack requests", "ok", f"by HTTP, port {settings.slack_http_port}, path {PATH}", ""
            return
        with login_errors(partial(login_error, "ENGRAM_SLACK_APP_TOKEN")):
            await web.apps_connections_open(app_token=_optional(settings.slack_app_token) or "")
        yield "Slack app token", "ok", "Socket Mode can be opened", ""


class Client:
    """The app: one connection to Slack, and the workspaces that it serves. Use as `async with`."""

    def __init__(self, bot: Bot, settings: Settings, *, edits: tuple[int, float] = EDITS) -> None:
        """edits: progress edits of a workspace, in so many seconds."""
        self.bot = bot
        self._edits = edits
        self._settings = settings
        self._base = _base(settings)
        self._installations = installations(settings)
        self._listeners: dict[str, Listener] = {}
        self._seen = Recent(EVENTS_FOR)  # for when the disk is full

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._file_session = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        self.bolt = AsyncApp(
            client=self._web(_optional(self._settings.slack_bot_token) if not self._installations else None),
            signing_secret=_optional(self._settings.slack_signing_secret) or "",
            oauth_settings=self._oauth() if self._installations else None,
            process_before_response=True,  # our handlers are quick: an event is not acknowledged before it is kept
        )
        self.bolt.event(re.compile(""))(self._on_event)
        self.bolt.action(re.compile(f"^{BUTTON}:"))(self._on("action"))
        self.bolt.message_shortcut(SHORTCUT)(self._on("shortcut"))
        self.bolt.view(FORM)(self._on("form"))
        for name in (COMMAND, *short_names().values()):
            self.bolt.command(f"/{name}")(self._on("command"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._file_session.close()

    async def run(self) -> None:
        """Raises: SetupError; others when the connection is lost for good."""
        if not self._installations:
            token = _secret(self._settings.slack_bot_token, "ENGRAM_SLACK_BOT_TOKEN", "OAuth & Permissions")
            me = (await self._enter(token)).workspace.me
            log.info("on Slack as %s in the workspace %s", me.name, me.team)
        left = await self.bot.service.inbox.unhandled("slack:")  # by an earlier process: before anything new comes in
        async with self._listening() if self._settings.slack_http_port else self._connected() as until_lost:
            await self.bot.resume(self.reopen)
            before = may_repeat.set(True)  # for the tasks that begin here
            for key, body in left:
                self._start_handling(key, json.loads(body))
            may_repeat.reset(before)
            self.bot.spawn(self._look_back())
            await until_lost()

    async def _look_back(self) -> None:
        """Mentions that came while no process was there, and that Slack tells again for a few minutes only, in channels
        that have taught something. Whatever was heard is claimed in the inbox, and is not heard again."""
        for key in await self.bot.service.channels("slack:"):
            _, team, channel, *_ = key.split(":")
            if channel == "dm" or not (listener := await self.listener(team)):
                continue
            for event in await listener.workspace.latest(channel, LOOK_BACK):
                if listener.durability(event) > 1:
                    name = f"missed:{channel}:{event['ts']}"
                    await self._take(f"slack:event:{name}", {"team_id": team, "event_id": name, "event": event})

    def _web(self, token: str | None) -> AsyncWebClient:
        retries = [*async_default_handlers(), AsyncRateLimitErrorRetryHandler(max_retry_count=2)]
        return AsyncWebClient(token, base_url=str(self._base), session=self._session, retry_handlers=retries)

    async def _enter(self, token: str) -> Listener:
        """Raises: SetupError."""
        web = self._web(token)
        with login_errors(partial(login_error, "ENGRAM_SLACK_BOT_TOKEN")):
            answer = await web.auth_test()
        me = Me(
            user=answer["user_id"],
            team=answer["team_id"],
            enterprise=answer.get("enterprise_id") or "",
            name=answer.get("user") or "",
        )
        hosts = {FILE_HOST, self._base.origin()}
        files = Files(web, self._file_session, hosts, self.bot.limits.max_bytes)
        listener = Listener(self.bot, Workspace(me, web, AsyncLimiter(*self._edits)), files)
        self._listeners[me.team] = listener
        return listener

    async def listener(self, team: str) -> Listener | None:
        """The one that the bot token belongs to; with OAuth, that of an installation that is still good."""
        if not self._installations:
            return next(iter(self._listeners.values()))
        installed = await self._installations.async_find_bot(team_id=team)
        if installed is None or not installed.bot_token:
            return None
        known = self._listeners.get(team)
        if known and known.workspace.web.token == installed.bot_token:
            return known
        try:
            return await self._enter(installed.bot_token)
        except SetupError:
            log.warning("the workspace %s no longer accepts its token", team)
            return None

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Socket Mode."""
        token = _secret(self._settings.slack_app_token, "ENGRAM_SLACK_APP_TOKEN", "Basic Information, App-Level Tokens")
        with login_errors(partial(login_error, "ENGRAM_SLACK_APP_TOKEN")):
            opened = await self.bolt.client.apps_connections_open(app_token=token)
        handler = AsyncSocketModeHandler(self.bolt, token)
        handler.client.wss_uri = opened["url"]
        try:
            await handler.connect_async()
            yield partial(_lost, handler)
        finally:
            await handler.close_async()

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """HTTP mode."""
        secret = _secret(self._settings.slack_signing_secret, "ENGRAM_SLACK_SIGNING_SECRET", "Basic Information")
        host, port = self._settings.slack_http_host, self._settings.slack_http_port
        assert port is not None  # or it were Socket Mode
        server = self.bolt.server(port=port, path=PATH, host=host)
        async with listening(server.web_app, host, port, secret):
            yield asyncio.Event().wait

    def _oauth(self) -> AsyncOAuthSettings:
        assert self._installations is not None
        given = self._settings.slack_client_secret
        secret = _secret(given, "ENGRAM_SLACK_CLIENT_SECRET", "Basic Information")
        return oauth(self._settings, self._installations, secret)

    async def reopen(self, address: str) -> Live | None:
        platform, team, *rest = address.split(":")
        listener = await self.listener(team) if platform == "slack" else None
        return Posted(listener.workspace, *rest, again=True) if listener else None

    # What Slack hands over: kept, then acknowledged, then handled, once

    async def _on_event(self, body: dict[str, Any], event: dict[str, Any]) -> None:
        """Slack tells again what was not acknowledged. Talk that is none of our business is not kept."""
        if removes_the_app(event):
            await self._erase(team_of(body))
            return
        listener = await self.listener(team_of(body))
        if listener and (durability := listener.durability(event)):
            kept = {"team_id": listener.workspace.me.team, "event_id": body["event_id"], "event": event}
            await self._take(f"slack:event:{body['event_id']}", kept, durability > 1)

    async def _erase(self, team: str) -> None:
        """Thrown out of a workspace: what it taught goes, and its token. Slack tells it again when this fails."""
        await erase_all(self.bot.service, f"slack:{team}:")
        if self._installations:
            self._installations.forget(team)
            self._listeners.pop(team, None)

    def _on(self, kind: str) -> Callable[[AsyncAck, dict[str, Any]], Awaitable[None]]:
        """Slack does not tell these again, and shows a failure after 3 seconds: a slow disk is not waited for."""

        async def handle(ack: AsyncAck, body: dict[str, Any]) -> None:
            taking = self.bot.spawn(self._take(f"slack:{kind}:{body['trigger_id']}", body))
            await asyncio.wait({taking}, timeout=DISK_TIMEOUT)
            await ack()

        return handle

    async def _take(self, key: str, body: dict[str, Any], keep: bool = True) -> None:
        try:
            channel = channel_key(team_of(body), place_of(body))
            new = await self.bot.service.inbox.receive(key, json.dumps(body) if keep else "", channel)
        except StorageFailed:  # the handler will say so
            log.exception("an event could not be kept")
            new = self._seen.first(key)
        if new:
            self._start_handling(key, body)

    def _start_handling(self, key: str, body: dict[str, Any]) -> None:
        async def work() -> None:
            try:
                if listener := await self.listener(team_of(body)):
                    await listener.handle(key.split(":")[1], body)
            except Unfinished:
                return
            except Exception:
                log.exception("an event could not be handled")
            with contextlib.suppress(StorageFailed):
                await self.bot.service.inbox.handled(key)  # not when this task is cancelled: the next start goes on

        self.bot.spawn(work())


def _secret(value: Any, name: str, where: str) -> str:
    """Raises: SetupError."""
    if value is None:
        raise SetupError(f"{name} is not set; the app's settings on api.slack.com show it under {where}.")
    return value.get_secret_value()


def _optional(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None


def _base(settings: Settings) -> yarl.URL:
    """Raises: SetupError."""
    base = yarl.URL(settings.slack_base_url)
    if base.scheme != "https" and not (base.scheme == "http" and base.host in ("127.0.0.1", "::1", "localhost")):
        raise SetupError("ENGRAM_SLACK_BASE_URL has to begin with https://.")
    return base


def _seconds_apart(date: str | None) -> float:
    """How far our clock is off, when that is more than a minute; 0 when it is right, or not known."""
    try:
        apart = abs(time.time() - parsedate_to_datetime(date or "").timestamp())
    except ValueError:
        return 0.0
    return apart if apart > 60 else 0.0


async def _lost(handler: AsyncSocketModeHandler) -> None:
    """Returns never; raises once the connection has been away for minutes."""
    away = 0.0
    while away < LOST_AFTER:
        await asyncio.sleep(10)
        away = 0.0 if await handler.client.is_connected() else away + 10
    raise ConnectionError("no connection to Slack")
