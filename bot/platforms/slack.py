"""Slack: events into requests, messages into blocks. The one home of slack_bolt and slack_sdk.

Every event is kept on disk, acknowledged and worked off, in that order: a crash loses none, and none is handled twice.
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
import hashlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import yarl
from aiolimiter import AsyncLimiter
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncAck, AsyncApp
from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler, async_default_handlers
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from bot import render
from bot.chat import Attachment, Live, Message, Reply, Request, Undelivered, Unfinished, Unreachable
from bot.commands import ACTIONS, COMMANDS, Bot, Command, Kind, upload_deleted
from bot.intents import understand
from bot.platforms import supervise
from bot.platforms.slack_format import (
    BUTTON,
    COMMAND,
    EMOJI,
    FORM,
    GIVEN,
    PROMPTS,
    SCOPES,
    SHORTCUT,
    command_of,
    commands,
    dress,
    short_names,
    view_of,
)
from bot.platforms.slack_http import INSTALL, Recent, listening
from bot.platforms.slack_oauth import installations, oauth
from core.errors import PdfTooBig, Refused, SetupError, StorageFailed
from core.service import PDF_MAGIC

if TYPE_CHECKING:
    from pydantic import SecretStr

    from bot.app import App
    from bot.settings import Settings

log = logging.getLogger(__name__)

PICTURE = "loss.png"
PATH = "/slack/events"
DISK = 2.0  # seconds that Slack can wait for the disk
FILE_HOST = yarl.URL("https://files.slack.com")
HOOK_HOST = yarl.URL("https://hooks.slack.com")  # of response URLs
FILE_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_read=15)  # seconds
CHUNK = 64 * 1024  # bytes of a file taken at once

EDITS = (4, 6.0)  # progress edits of all channels, in so many seconds: chat.update allows about 50 a minute; more are
# dropped, not queued
STALE_AFTER = 15 * 60  # seconds; nobody is told of an edit, so the end of a long job is posted anew
PEOPLE_FOR, UNKNOWN_FOR, EVENTS_FOR = 300, 30, 600  # seconds that something is remembered
FILES_FOR, THREADS_FOR = 60, 86_400
NAMED = 10  # people that one message mentions and who are looked up
READ = 4_000  # characters of a message; a question may have 1,000
STATUS_FOR = 90  # seconds
LOOK_UP = 5  # seconds for a question to Slack that we can do without
LOST_AFTER = 300  # seconds without a connection; slack_sdk reconnects in a few

MOST_PROMPTS = 4  # that Slack shows
SPOKEN = (None, "file_share", "thread_broadcast", "me_message")  # subtypes of messages that people write
# Error codes
FOREIGN = {"channel_not_found", "not_in_channel"}  # channels that the bot is no member of
CLOSED = FOREIGN | {
    "is_archived",
    "user_not_in_channel",
    "restricted_action",
    "thread_not_found",
    "cannot_reply_to_message",
}
THREAD_CLOSED = {"thread_not_found", "cannot_reply_to_message", "restricted_action_thread_locked"}
FIXED = CLOSED | {"message_not_found", "cant_update_message", "edit_window_closed"}  # messages that can't be edited
PASSING = {"ratelimited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
DEAD_TOKEN = {
    "invalid_auth",
    "not_authed",
    "account_inactive",
    "token_revoked",
    "token_expired",
    "not_allowed_token_type",
}
TROUBLE = (SlackClientError, aiohttp.ClientError, OSError, asyncio.TimeoutError)

NO_FILES_READ = (
    "Slack shows me a login page instead of the file. Whoever runs me has to give the app the scope files:read and "
    "install it again."
)
HOW_TO_LEARN = (
    "Slack gives slash commands no files. Attach the document to a message that mentions me, in this channel or in a "
    "direct message to me, and I will learn it."
)
INVITE_ME = "I am not in this channel. Invite me with /invite, then try again."


_again: ContextVar[bool] = ContextVar("again", default=False)  # an earlier process may have answered already


# Starting ------------------------------------------------------------------------------------------------------------


async def serve(app: App, settings: Settings) -> None:
    """Be on Slack until cancelled. Raises: SetupError."""
    given = {"limits": settings.limits, "quotas": settings.quotas, "source": settings.source_url}
    given["opens_links"] = settings.links

    async def connect() -> None:
        bot = Bot(app.service, commands=commands(), **given)
        async with Client(bot, settings) as client, bot:
            await client.run()

    await supervise("Slack", connect)


async def examine(settings: Settings) -> AsyncIterator[tuple[str, str, str, str]]:
    """What Slack says about the tokens, as (name, state, detail, fix). Raises: SetupError, OSError, TimeoutError."""
    async with Client(Bot(None), settings) as client, asyncio.timeout(LOOK_UP * 3):
        if settings.slack_client_id:
            yield "Slack OAuth", "ok", f"workspaces install the app at {INSTALL[0]}", ""
            return
        web = client.bolt.client
        with _login_errors("ENGRAM_SLACK_BOT_TOKEN"):
            found = await web.auth_test()
        yield "Slack bot token", "ok", f"{found.get('user')}, in the workspace {found.get('team')}", ""
        if apart := _seconds_apart(found.headers.get("Date") or found.headers.get("date")):
            detail = f"this machine's is {apart:.0f} seconds off Slack's"
            yield "Slack clock", "error", detail, "Set the clock (NTP): Slack's requests are refused by their time."
        granted = {scope.strip() for scope in found.headers.get("x-oauth-scopes", "").split(",")}
        absent = [scope for scope in SCOPES if scope not in granted]
        fix = "Update the app from `python -m bot slack-manifest`, and install it again."
        detail = f"missing: {', '.join(absent)}" if absent else f"all {len(SCOPES)}"
        yield "Slack scopes", "error" if absent else "ok", detail, fix if absent else ""
        if settings.slack_http_port:
            yield "Slack requests", "ok", f"by HTTP, port {settings.slack_http_port}, path {PATH}", ""
            return
        with _login_errors("ENGRAM_SLACK_APP_TOKEN"):
            await web.apps_connections_open(app_token=_optional(settings.slack_app_token) or "")
        yield "Slack app token", "ok", "Socket Mode can be opened", ""


@dataclass(frozen=True)
class Me:
    """Who the bot is in a workspace."""

    user: str
    team: str
    enterprise: str = ""
    name: str = ""


@dataclass(frozen=True)
class Person:
    name: str = ""
    is_admin: bool = False  # of the workspace
    is_guest: bool = False  # restricted, or of another workspace
    is_known: bool = True  # Slack has told


@dataclass(frozen=True)
class Place:
    """Where somebody said or pressed something."""

    channel: str
    user: str
    ts: str = ""  # of the message; "": of none, or of one that nobody else sees
    thread: str = ""  # that it is in

    @property
    def is_dm(self) -> bool:
        return self.channel.startswith("D")

    @property
    def root(self) -> str:
        """The thread below what was said; "": nothing was said that others see."""
        return self.thread or self.ts


class Client:
    """The app: one connection to Slack, and the workspaces that it serves. Use as `async with`."""

    def __init__(self, bot: Bot, settings: Settings) -> None:
        self.bot = bot
        self._settings = settings
        self._base = _base(settings)
        self._installations = installations(settings)
        self._workspaces: dict[str, Workspace] = {}
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
        self.bolt.action(re.compile(f"^{BUTTON}:"))(self._on_action)
        self.bolt.message_shortcut(SHORTCUT)(self._on_shortcut)
        self.bolt.view(FORM)(self._on_form)
        for name in (COMMAND, *short_names().values()):
            self.bolt.command(f"/{name}")(self._on_command)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._file_session.close()

    async def run(self) -> None:
        """Raises: SetupError; others when the connection is lost for good."""
        if not self._installations:
            token = _secret(self._settings.slack_bot_token, "ENGRAM_SLACK_BOT_TOKEN", "OAuth & Permissions")
            home = await self._enter(token)
            log.info("on Slack as %s in the workspace %s", home.me.name, home.me.team)
        left = await self.bot.service.inbox.unhandled("slack:")  # by an earlier process: before anything new comes in
        async with self._listening() if self._settings.slack_http_port else self._connected() as until_lost:
            await self.bot.resume(self.reopen)
            before = _again.set(True)  # for the tasks that begin here
            for key, body in left:
                self._work_off(key, json.loads(body))
            _again.reset(before)
            await until_lost()

    def _web(self, token: str | None) -> AsyncWebClient:
        retries = [*async_default_handlers(), AsyncRateLimitErrorRetryHandler(max_retry_count=2)]
        return AsyncWebClient(token, base_url=str(self._base), session=self._session, retry_handlers=retries)

    async def _enter(self, token: str) -> Workspace:
        """Raises: SetupError."""
        web = self._web(token)
        with _login_errors("ENGRAM_SLACK_BOT_TOKEN"):
            found = await web.auth_test()
        me = Me(found["user_id"], found["team_id"], found.get("enterprise_id") or "", found.get("user") or "")
        workspace = Workspace(self.bot, me, web, self._file_session, {FILE_HOST, self._base.origin()})
        self._workspaces[me.team] = workspace
        return workspace

    async def workspace(self, team: str) -> Workspace | None:
        """The one that the bot token belongs to; with OAuth, that of an installation that is still good."""
        if not self._installations:
            return next(iter(self._workspaces.values()))
        installed = await self._installations.async_find_bot(team_id=team)
        if installed is None or not installed.bot_token:
            return None
        known = self._workspaces.get(team)
        if known and known.web.token == installed.bot_token:
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
        with _login_errors("ENGRAM_SLACK_APP_TOKEN"):
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
        server = self.bolt.server(port=port, path=PATH, host=host)
        async with listening(server.web_app, host, port, secret):
            yield asyncio.Event().wait

    def _oauth(self) -> AsyncOAuthSettings:
        secret = self._settings.slack_client_secret
        return oauth(
            self._settings, self._installations, _secret(secret, "ENGRAM_SLACK_CLIENT_SECRET", "Basic Information")
        )

    async def reopen(self, address: str) -> Live | None:
        platform, team, *rest = address.split(":")
        workspace = await self.workspace(team) if platform == "slack" else None
        return Posted(workspace, *rest, again=True) if workspace else None

    # What Slack hands over: kept, then acknowledged, then worked off, once

    async def _on_event(self, body: dict[str, Any], event: dict[str, Any]) -> None:
        """Slack tells again what was not acknowledged. Talk that is none of our business is not kept."""
        if _removes_the_app(event):
            await self._erase(_team(body))
            return
        workspace = await self.workspace(_team(body))
        if workspace and (weight := workspace.weight(event)):
            kept = {"team_id": workspace.me.team, "event_id": body["event_id"], "event": event}
            await self._take(f"slack:event:{body['event_id']}", kept, weight > 1)

    async def _erase(self, team: str) -> None:
        """Thrown out of a workspace: what it taught goes, and its token. Slack tells it again when this fails."""
        for channel in await self.bot.service.channels(f"slack:{team}:"):
            await self.bot.service.reset(channel)
        if self._installations:
            self._installations.forget(team)
            self._workspaces.pop(team, None)

    async def _on_command(self, ack: AsyncAck, body: dict[str, Any]) -> None:
        await self._on_interaction("command", ack, body)

    async def _on_action(self, ack: AsyncAck, body: dict[str, Any]) -> None:
        await self._on_interaction("action", ack, body)

    async def _on_form(self, ack: AsyncAck, body: dict[str, Any]) -> None:
        await self._on_interaction("form", ack, body)

    async def _on_shortcut(self, ack: AsyncAck, body: dict[str, Any]) -> None:
        await self._on_interaction("shortcut", ack, body)

    async def _on_interaction(self, kind: str, ack: AsyncAck, body: dict[str, Any]) -> None:
        """Slack does not tell these again, and shows a failure after 3 seconds: a slow disk is not waited for."""
        taking = self.bot.spawn(self._take(f"slack:{kind}:{body['trigger_id']}", body))
        await asyncio.wait({taking}, timeout=DISK)
        await ack()

    async def _take(self, key: str, body: dict[str, Any], keep: bool = True) -> None:
        try:
            channel = channel_key(_team(body), _place_of(body))
            new = await self.bot.service.inbox.receive(key, json.dumps(body) if keep else "", channel)
        except StorageFailed:  # the handler will say so
            log.exception("an event could not be kept")
            new = self._seen.first(key)
        if new:
            self._work_off(key, body)

    def _work_off(self, key: str, body: dict[str, Any]) -> None:
        async def work() -> None:
            try:
                if workspace := await self.workspace(_team(body)):
                    await workspace.handle(key.split(":")[1], body)
            except Unfinished:
                return
            except Exception:
                log.exception("an event could not be handled")
            with contextlib.suppress(StorageFailed):
                await self.bot.service.inbox.handled(key)  # not when this task is cancelled: the next start goes on

        self.bot.spawn(work())


class Workspace:
    """One workspace: events into requests, and all that goes back."""

    def __init__(
        self, bot: Bot, me: Me, web: AsyncWebClient, file_session: aiohttp.ClientSession, file_hosts: set[yarl.URL]
    ) -> None:
        self.bot, self.me, self.web = bot, me, web
        self._file_session, self._file_hosts = file_session, file_hosts
        self.edits = AsyncLimiter(*EDITS)
        self._seen = Recent(EVENTS_FOR)  # for when the disk is full
        self._people = Recent(PEOPLE_FOR)
        self._unknown = Recent(UNKNOWN_FOR)
        self._creators = Recent(PEOPLE_FOR)
        self._threads = Recent(THREADS_FOR)  # (channel, thread) -> "ours" or "theirs"
        self._talking = Recent(THREADS_FOR)  # (channel, thread) -> people who are talking to each other
        self._unsure = Recent(EVENTS_FOR)  # tags of messages that may have arrived

    def weight(self, event: dict[str, Any]) -> int:
        """0: none of our business. 1: may be; its text is not kept. 2: must not be lost."""
        kind, change = event["type"], event.get("subtype")
        if kind in ("app_mention", "channel_deleted", "group_deleted"):
            return 2
        if kind == "app_home_opened":
            return 1 if event.get("tab") == "messages" else 0
        if kind == "member_left_channel":
            return 2 if event.get("user") == self.me.user else 0
        if kind == "message" and _is_gone(event):
            return 2 if (event.get("previous_message") or {}).get("files") else 0
        if kind == "message" and change == "message_changed":
            return 2 if self._mentioned_by_edit(event) else 0
        if kind != "message" or not _is_spoken(event):
            return 0
        if event["channel"].startswith("D") or self._mentioned(event.get("text") or ""):
            return 2
        return (2 if files_in(event) else 1) if event.get("thread_ts") else 0

    def _mentioned_by_edit(self, event: dict[str, Any]) -> bool:
        now, before = event.get("message") or {}, event.get("previous_message") or {}
        return self._mentioned(now.get("text") or "") and not self._mentioned(before.get("text") or "")

    async def handle(self, kind: str, body: dict[str, Any]) -> None:
        handlers = {
            "event": self._happened,
            "command": self._commanded,
            "action": self._pressed,
            "form": self._filled_in,
        }
        await handlers.get(kind, self._chosen)(body)

    async def _first(self, key: str, owner: str, seconds: float = 86_400.0) -> bool:
        """Is it the first time in that while, or the same event once more, after a restart?"""
        try:
            return await self.bot.service.inbox.claim(f"slack:{key}", owner, seconds)
        except StorageFailed:
            return self._seen.first(key)

    async def _happened(self, body: dict[str, Any]) -> None:
        event = body["event"]
        kind, change = event["type"], event.get("subtype")
        if kind == "message" and _is_gone(event):
            await self._deleted(event)
        elif kind in ("message", "app_mention"):
            edited = {**event, **event["message"], "type": "message"} if change == "message_changed" else event
            edited = edited if edited.get("subtype") != "message_changed" else {**edited, "subtype": None}
            await self._said(edited, body["event_id"])
        elif kind in ("channel_deleted", "group_deleted", "member_left_channel"):  # nobody can ask or erase there
            await self.bot.service.reset(self.key(Place(event["channel"], "")))
        elif kind == "app_home_opened":
            await self._suggest(Place(event["channel"], event["user"]))

    async def _suggest(self, place: Place) -> None:
        """What one can ask, shown where somebody opens the bot's messages. Never fails."""
        known = await self.bot.service.documents(self.key(place))
        asked = [question for document in known for question in document.questions if render.reads_well(question)]
        prompts = [{"title": question, "message": question} for question in asked[:MOST_PROMPTS]] or PROMPTS
        with contextlib.suppress(*TROUBLE):
            await self.web.assistant_threads_setSuggestedPrompts(
                channel_id=place.channel, title="Send me a document, or ask me", prompts=prompts
            )

    async def _deleted(self, event: dict[str, Any]) -> None:
        """A message with a document: see `upload_deleted`."""
        gone = event["previous_message"]
        place = Place(event["channel"], gone.get("user", ""), gone["ts"], gone.get("thread_ts") or "")
        reply = SlackReply(self, Place(place.channel, place.user, "", place.thread))
        end = f":{place.ts}"
        await upload_deleted(self.bot, self.key(place), lambda address: address.endswith(end), reply)

    async def _said(self, event: dict[str, Any], event_id: str) -> None:
        """A message. One that mentions the bot comes twice, as `message` and as `app_mention`, in any order."""
        if not _is_spoken(event):
            return
        thread = event.get("thread_ts", "")
        place = Place(event["channel"], event["user"], event["ts"], "" if thread == event["ts"] else thread)
        if await self._is_meant(event, place) and await self._is_news(event, place, event_id):
            await self._hear(event, place, event_id)

    async def _is_news(self, event: dict[str, Any], place: Place, event_id: str) -> bool:
        """The first event of a message is; so is a later one that alone carries its files."""
        said = f"said:{place.channel}:{place.ts}"
        with_files = not files_in(event) or await self._first(f"{said}:files", event_id)
        first = await self._first(said, event_id)
        return with_files if files_in(event) else first

    async def _is_meant(self, event: dict[str, Any], place: Place) -> bool:
        """Is this said to the bot, or in a conversation with it? In the bot's own threads people need no mention,
        unless they talk to each other."""
        if self._is_addressed(event, place):
            self._talking.drop((place.channel, place.thread))
            return True
        if not place.thread or self._is_to_others(event.get("text") or "", place):
            return False
        return await self._is_own(place, event.get("parent_user_id"))

    def _is_addressed(self, event: dict[str, Any], place: Place) -> bool:
        return place.is_dm or event["type"] == "app_mention" or self._mentioned(event.get("text") or "")

    def _is_to_others(self, text: str, place: Place) -> bool:
        """By a mention; the person who was spoken to then speaks to others, too."""
        key, people = (place.channel, place.thread), set(re.findall(r"<@(\w+)", text))
        talking = self._talking.get(key) or set()
        if not (people or "<!" in text or place.user in talking):
            return False
        self._talking.put(key, talking | people | {place.user})
        return True

    def _mentioned(self, text: str) -> bool:
        return f"<@{self.me.user}>" in text or f"<@{self.me.user}|" in text

    async def _is_own(self, place: Place, parent_user: str | None) -> bool:
        """Did the thread begin with the bot, or with its mention?"""
        key = (place.channel, place.thread)
        if parent_user == self.me.user:
            return True
        if self._threads.get(key) is None and (parent := await self._message(place.channel, place.thread)):
            ours = parent.get("user") == self.me.user or self._mentioned(parent.get("text") or "")
            self._threads.put(key, "ours" if ours else "theirs")
        return self._threads.get(key) == "ours"

    async def _hear(self, event: dict[str, Any], place: Place, event_id: str) -> None:
        if not place.thread:
            self._threads.put((place.channel, place.ts), "ours")
        text = await self._plain(event.get("text") or "")
        new = files = files_in(event)
        if files:
            new = [f for f in files if await self._first(f"file:{place.channel}:{f['id']}", event_id, FILES_FOR)]
            if not new:
                return  # the same upload, told again
        new = new or await self._files_of(event, place, text)
        attachments = [await self._attachment(file) for file in new]
        addressed = self._is_addressed(event, place)
        request = await self.request(place, text=text, attachments=attachments, is_addressed=addressed)
        await self.bot.hear(request, SlackReply(self, place))

    async def _files_of(self, event: dict[str, Any], place: Place, text: str) -> Sequence[dict[str, Any]]:
        """Files that the event does not carry: a mention's own, or those of the message that began the thread."""
        if event["type"] == "app_mention" and (
            own := files_in(await self._message(place.channel, place.ts, place.thread))
        ):
            return own
        if place.thread and understand(text).name in ("learn", "greeting"):
            return files_in(await self._message(place.channel, place.thread))
        return ()

    async def _commanded(self, body: dict[str, Any]) -> None:
        place = Place(body["channel_id"], body["user_id"])
        name, text = command_of(body["command"].removeprefix("/"), await self._plain(body.get("text") or ""))
        arguments = parse(COMMANDS[name], text)
        request = await self.request(place, arguments=arguments)
        reply = SlackReply(self, place, body["response_url"], body["trigger_id"])
        if name == "learn":
            await reply.say(render.note(HOW_TO_LEARN), private=True)
            return
        await self.bot.run(name, request, reply)

    async def _pressed(self, body: dict[str, Any]) -> None:
        action, container = body["actions"][0], body.get("container") or {}
        seen = "" if container.get("is_ephemeral") else container.get("message_ts", "")
        thread = container.get("thread_ts") or (body.get("message") or {}).get("thread_ts") or ""
        place = Place(body["channel"]["id"], body["user"]["id"], seen, thread)
        name, value = action["action_id"].split(":")[1], _unescape(action.get("value") or "")
        if name in ACTIONS and ACTIONS[name].form and await self._ask_by_form(name, value, place, body["trigger_id"]):
            return
        request = await self.request(place)
        reply = SlackReply(self, place, body["response_url"], body["trigger_id"])
        await self.bot.press(name, value, request, reply)

    async def _ask_by_form(self, name: str, value: str, place: Place, trigger: str) -> bool:
        """False when Slack did not open it, which it does for 3 seconds only."""
        context = json.dumps([name, value, place.channel, place.ts, place.thread])
        try:
            await self.web.views_open(trigger_id=trigger, view=view_of(ACTIONS[name].form, context))
        except TROUBLE as problem:
            log.warning("a form could not be opened: %s", _code(problem))
            return False
        return True

    async def _filled_in(self, body: dict[str, Any]) -> None:
        """A form was sent."""
        view = body["view"]
        name, value, channel, ts, thread = json.loads(view["private_metadata"])
        given = view["state"]["values"][GIVEN][GIVEN]
        place = Place(channel, body["user"]["id"], ts, thread)
        files = [await self._attachment(file) for file in given.get("files") or ()]
        request = await self.request(place, attachments=files, text=given.get("value") or "")
        await self.bot.press(name, value, request, SlackReply(self, place, "", body["trigger_id"]))

    async def _chosen(self, body: dict[str, Any]) -> None:
        """The message menu."""
        message = body["message"]
        place = Place(body["channel"]["id"], body["user"]["id"], message["ts"], message.get("thread_ts", ""))
        files = [await self._attachment(file) for file in files_in(message)]
        request = await self.request(place, attachments=files)
        reply = SlackReply(self, place, body["response_url"], body["trigger_id"])
        await self.bot.run("learn", request, reply)

    # Requests

    def key(self, place: Place) -> str:
        return channel_key(self.me.team, place)

    async def request(self, place: Place, *, attachments: Sequence[Attachment] = (), **given: Any) -> Request:
        person = await self.person(place.user)
        return Request(
            channel=self.key(place),
            user=f"slack:{self.me.team}:{place.user}",
            user_name=person.name,
            thread=place.thread,
            attachments=tuple(attachments),
            is_manager=place.is_dm or await self._manages(person, place),
            is_dm=place.is_dm,
            is_guest=person.is_guest and not place.is_dm,
            is_unknown=not person.is_known and not place.is_dm,
            **given,
        )

    async def _manages(self, person: Person, place: Place) -> bool:
        """Rights are those of the home workspace: in a shared channel the other side's admins have none here."""
        at_home = person.is_known and not person.is_guest
        return at_home and (person.is_admin or await self._creator(place.channel) == place.user)

    async def person(self, user: str) -> Person:
        """Somebody whom Slack does not tell us about is unknown, for a while: that is asked for once. Never fails."""
        if (known := self._people.get(user) or self._unknown.get(user)) is None:
            try:
                known = _person((await self.web.users_info(user=user))["user"], self.me)
            except TROUBLE as problem:
                log.warning("Slack does not say who %s is: %s", user, _code(problem))
                known = Person(is_known=False)
                self._unknown.put(user, known)
            else:
                self._people.put(user, known)
        return known

    async def _creator(self, channel: str) -> str:
        """Who made a channel, and so may manage it. Never fails."""
        if (known := self._creators.get(channel)) is None:
            try:
                known = (await self.web.conversations_info(channel=channel))["channel"].get("creator") or ""
            except TROUBLE as problem:
                log.debug("Slack does not say who made %s: %s", channel, _code(problem))
                return ""
            self._creators.put(channel, known)
        return known

    async def _message(self, channel: str, ts: str, thread: str = "") -> dict[str, Any]:
        """One message as it stands in its channel or thread; {} when Slack does not show it soon."""
        try:
            async with asyncio.timeout(LOOK_UP):
                found = await self.web.conversations_replies(
                    channel=channel, ts=thread or ts, oldest=ts, latest=ts, inclusive=True, limit=1
                )
        except TROUBLE as problem:
            log.warning("a message could not be looked up: %s", _code(problem))
            return {}
        return next((message for message in found["messages"] if message["ts"] == ts), {})

    async def _plain(self, text: str) -> str:
        """Slack's markup as plain text: without the mention of the bot, other people by name."""
        text = re.sub(rf"<@{self.me.user}(\|[^>]*)?>", " ", text[:READ])
        mentioned = dict.fromkeys(re.findall(r"<@(\w+)", text))
        names = {user: (await self.person(user)).name for user in [*mentioned][:NAMED]}

        def shown(match: re.Match[str]) -> str:
            sign, what, label = match.groups(default="")
            if sign == "@":
                return f"@{names.get(what) or label or what}"
            if sign == "!":
                return f"@{(label or what.split('^')[0]).removeprefix('@')}"
            return f"{sign}{label or what}"

        return " ".join(_unescape(re.sub(r"<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>", shown, text)).split())

    # Files

    async def _attachment(self, file: dict[str, Any]) -> Attachment:
        """In shared channels the event carries an id only. Never fails: what is wrong is said when it is read."""
        if file.get("file_access") == "check_file_info" or not file.get("url_private"):
            try:
                file = (await self.web.files_info(file=file["id"]))["file"]
            except TROUBLE as problem:
                log.warning("a file could not be looked up: %s", _code(problem))
                file = {"name": file.get("name") or "document.pdf", "mode": "unknown"}
        name = file.get("name") or file.get("title") or "document.pdf"
        return Attachment(name, int(file.get("size") or 0), file.get("mimetype") or "", partial(self._download, file))

    async def _download(self, file: dict[str, Any]) -> bytes:
        """The token goes to Slack's own file host alone, and never along with a redirect. Raises: Refused."""
        if sentence := export_of(file):
            raise Refused(sentence)
        if file.get("mode") in ("external", "unknown", "tombstone", "hidden_by_limit"):
            raise Refused("Slack does not give me this file; attach the file itself.")
        url = file.get("url_private_download") or file.get("url_private") or ""
        if not self._is_slacks(url):
            log.warning("a file is kept at a foreign address and was not fetched")
            raise Refused("Slack keeps this file somewhere else; attach the file itself.")
        headers = {"Authorization": f"Bearer {self.web.token}", "Accept-Encoding": "identity"}
        options = {"allow_redirects": False, "timeout": FILE_TIMEOUT, "proxy": self.web.proxy}
        async with self._file_session.get(yarl.URL(url), headers=headers, **options) as response:
            if response.status in (301, 302, 303, 307, 308):  # to a login page, too
                raise Refused(NO_FILES_READ)
            if response.status != 200:
                raise Refused("Slack did not give me this file; please send it again.")
            data = await self._capped(response)
        if response.content_type == "text/html" and PDF_MAGIC not in data[:1024]:
            raise Refused(NO_FILES_READ)
        return data

    def is_slacks_own(self, url: str) -> bool:
        """May an answer be sent there?"""
        try:
            return yarl.URL(url).origin() in (HOOK_HOST, yarl.URL(self.web.base_url).origin())
        except (ValueError, TypeError):
            return False

    def _is_slacks(self, url: str) -> bool:
        try:
            return yarl.URL(url).origin() in self._file_hosts
        except (ValueError, TypeError):
            return False

    async def _capped(self, response: aiohttp.ClientResponse) -> bytes:
        """What is said about the size may be wrong, so it is counted."""
        data, limit = bytearray(), self.bot.limits.max_bytes
        async for chunk in response.content.iter_chunked(CHUNK):
            data += chunk
            if len(data) > limit:
                raise PdfTooBig(f"It has more than {limit / 2**20:.4g} MB, the limit.")
        return bytes(data)

    # Messages

    async def post(self, channel: str, thread: str, message: Message, tag: str) -> str:
        """Post once, and return the time stamp. When nobody knows whether an earlier try arrived, look first: the tag
        stands on the message as the id of its first block. Raises: SlackApiError and others of TROUBLE."""
        if self._unsure.get(tag) and (ts := await self._find(channel, thread, tag)):
            return ts
        self._unsure.put(tag)
        dressed = dress(message)
        dressed["blocks"][0]["block_id"] = tag
        sent = await self.web.chat_postMessage(
            channel=channel, thread_ts=thread or None, unfurl_links=False, unfurl_media=False, **dressed
        )
        self._unsure.drop(tag)
        return sent["ts"]

    async def _find(self, channel: str, thread: str, tag: str) -> str:
        if thread:
            found = await self.web.conversations_replies(channel=channel, ts=thread, limit=200)
        else:
            found = await self.web.conversations_history(channel=channel, limit=20)
        blocks = ((message["ts"], block) for message in found["messages"] for block in message.get("blocks") or ())
        return next((ts for ts, block in blocks if block.get("block_id") == tag), "")

    def may_have_posted(self, tag: str) -> None:
        self._unsure.put(tag)


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


@contextlib.contextmanager
def _login_errors(name: str) -> Iterator[None]:
    """What trying again cannot heal, as one clear line."""
    try:
        yield
    except SlackApiError as problem:
        if _code(problem) in DEAD_TOKEN:
            raise SetupError(f"Slack does not accept {name} ({_code(problem)}); copy it again.") from None
        if _code(problem) == "missing_scope":
            raise SetupError(f"{name} lacks a scope; install the app again from `bot slack-manifest`.") from None
        raise


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


def _person(user: Mapping[str, Any], me: Me) -> Person:
    profile = user.get("profile") or {}
    team, enterprise = user.get("team_id") or me.team, (user.get("enterprise_user") or {}).get("enterprise_id")
    at_home = team == me.team or bool(me.enterprise and enterprise == me.enterprise)
    return Person(
        name=profile.get("display_name") or user.get("real_name") or user.get("name") or "",
        is_admin=bool(user.get("is_admin") or user.get("is_owner") or user.get("is_primary_owner")),
        is_guest=not at_home or any(user.get(f"is_{kind}") for kind in ("restricted", "ultra_restricted", "stranger")),
    )


def parse(command: Command, text: str) -> dict[str, object]:
    """What follows a slash command: `--private` before or after it, `--document NAME` or `--document "A NAME"`, and
    the rest. Some keyboards turn two hyphens into a dash and quotes into curly ones; "private:" says it, too."""
    first, others = command.options[:1], {option.name: option for option in command.options[1:]}
    arguments: dict[str, object] = {}
    for name, option in others.items():
        value = "" if option.kind is Kind.YES_NO else r'\s+(?:["“”]([^"“”]*)["“”]|(\S+))'
        pattern = re.compile(rf"(?:^|(?<=\s))(?:--?|—|–){name}\b{value}", re.IGNORECASE)
        if match := pattern.search(text):
            text = f"{text[: match.start()].rstrip()} {text[match.end() :].lstrip()}".strip()
            arguments[name] = True if option.kind is Kind.YES_NO else match[1] or match[2]
    if "private" in others and (match := re.match(r"privat(?:e|ely)\s*[:,]\s*", text, re.IGNORECASE)):
        arguments["private"], text = True, text[match.end() :]
    return arguments | {option.name: text for option in first if text}


def files_in(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a message, also of one that it forwards or shares."""
    shared = (copy.get("files") or () for copy in message.get("attachments") or ())
    return [*(message.get("files") or ()), *(file for files in shared for file in files)]


def _is_gone(event: Mapping[str, Any]) -> bool:
    """Was a message deleted? One that begins a thread becomes a tombstone."""
    became = (event.get("message") or {}).get("subtype")
    return event.get("subtype") == "message_deleted" or became == "tombstone"


def _removes_the_app(event: Mapping[str, Any]) -> bool:
    revoked = event["type"] == "tokens_revoked" and (event.get("tokens") or {}).get("bot")
    return event["type"] == "app_uninstalled" or bool(revoked)


def _is_spoken(event: dict[str, Any]) -> bool:
    """Written by a person."""
    return event.get("subtype") in SPOKEN and not event.get("bot_id") and bool(event.get("user"))


def _team(body: Mapping[str, Any]) -> str:
    """Whose installation is meant; in channels shared between workspaces, the authorization says it."""
    (authorized, *_) = body.get("authorizations") or ({},)
    return str(authorized.get("team_id") or body.get("team_id") or (body.get("team") or {}).get("id") or "")


def channel_key(team: str, place: Place) -> str:
    """Whose knowledge it is: a thread's is its channel's, that of direct messages the person's own."""
    return f"slack:{team}:" + (f"dm:{place.user}" if place.is_dm else place.channel)


def _place_of(body: Mapping[str, Any]) -> Place:
    """Of an event, a command, a button or a menu."""
    if event := body.get("event"):
        return Place(event["channel"], event.get("user") or "")
    channel, user = body.get("channel") or {}, body.get("user") or {}
    return Place(body.get("channel_id") or channel.get("id") or "", body.get("user_id") or user.get("id") or "")


def export_of(file: Mapping[str, Any]) -> str:
    """How to export what is no file: a canvas, or a document that lies at Google or Microsoft; "" for a file."""
    if file.get("filetype") in ("quip", "canvas") or file.get("mimetype") == "application/vnd.slack-docs":
        return "This is a Slack canvas; print it to a PDF and attach that."
    if file.get("external_type") == "gdrive" or str(file.get("filetype", "")).startswith("gdoc"):
        return "This lies in Google Drive; choose File > Download > PDF there and attach that."
    if file.get("external_type") in ("onedrive", "sharepoint", "onedrive_business"):
        return "This lies in Microsoft 365; download a copy there and attach it."
    return ""


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


# Replies -------------------------------------------------------------------------------------------------------------


class SlackReply(Reply):
    """Answers in the thread of what was said. What only the asker may see goes through the response URL, which lives
    for 30 minutes, or as an ephemeral message."""

    takes_forms = True

    def __init__(self, workspace: Workspace, place: Place, url: str = "", trigger: str = "") -> None:
        self._workspace = workspace
        self._place = place
        self._url = url if workspace.is_slacks_own(url) else ""
        self._origin = trigger or place.ts
        self._root = place.root
        self.thread = ""
        self.shows_question = bool(place.ts) and not trigger

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        with _sending():
            if replace and self._url and await self._respond(message, replace_original=True):
                return
            if (private or replace) and not self._place.is_dm:
                await self._whisper(message)
                if message.picture:
                    await self._show(message)
                return
            if thread == "" and self.shows_question and not (self._place.thread or self._place.is_dm):
                self._root = ""  # in the channel itself; people may go on in a thread below it
            try:
                ts = await self._post_somewhere(message)
                self.thread = self._root or ts
            except SlackApiError as problem:
                if _code(problem) not in FOREIGN or not self._url:
                    raise
                await self._respond(message)

    async def post(self, message: Message) -> Live:
        with _sending():
            try:
                ts = await self._post(message)
            except SlackApiError as problem:
                if _code(problem) in FOREIGN and self._url:
                    raise Refused(INVITE_ME) from None
                raise
        return Posted(self._workspace, self._place.channel, self._root, ts, self._place.ts)

    async def _post_somewhere(self, message: Message) -> str:
        """In the channel, when the thread takes no more."""
        try:
            return await self._post(message)
        except SlackApiError as problem:
            if _code(problem) not in THREAD_CLOSED or not self._root or self._place.is_dm:
                raise
            self._root = ""
            return await self._post(message)

    async def _post(self, message: Message) -> str:
        tag = tag_of(self._place.channel, self._origin, message)
        if _again.get():
            self._workspace.may_have_posted(tag)
        return await self._workspace.post(self._place.channel, self._root, message, tag)

    async def _whisper(self, message: Message) -> None:
        """An ephemeral message shows in a thread only where there is one already."""
        if self._url and await self._respond(message):
            return
        thread = self._place.thread or None
        await self._workspace.web.chat_postEphemeral(
            channel=self._place.channel, user=self._place.user, thread_ts=thread, **dress(message)
        )

    async def _show(self, message: Message) -> None:
        """Slack shows no picture to one person alone, so it goes into the thread; nothing is lost without it."""
        if self._root:
            with contextlib.suppress(*TROUBLE):
                await self._workspace.web.files_upload_v2(
                    channel=self._place.channel,
                    thread_ts=self._root,
                    content=message.picture,
                    filename=PICTURE,
                    title=message.picture_text,
                    alt_txt=message.picture_text,
                )

    async def _respond(self, message: Message, *, replace_original: bool = False) -> bool:
        """To the asker alone; False when the URL is used up. Raises: Undelivered."""
        body = {"response_type": "ephemeral", "replace_original": replace_original, **dress(message)}
        if self._place.thread:
            body["thread_ts"] = self._place.thread
        answer = await AsyncWebhookClient(self._url).send_dict(body)
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Undelivered from OSError(f"status {answer.status_code}")
        return answer.status_code == 200

    @contextlib.asynccontextmanager
    async def thinking(self) -> AsyncIterator[None]:
        """Slack takes the status away with the next message in the thread; after a failure there may be none."""
        status = asyncio.create_task(self._keep_status("is thinking …"))
        try:
            yield
        except BaseException:
            status.cancel()
            await self._status("")
            raise
        finally:
            status.cancel()

    async def _keep_status(self, status: str) -> None:
        """Slack takes it away after two minutes."""
        while True:
            await self._status(status)
            await asyncio.sleep(STATUS_FOR)

    async def _status(self, status: str) -> None:
        """Works where Slack knows the app as an agent; elsewhere it fails, and nothing is lost."""
        if thread := self._root or self._place.ts:
            with contextlib.suppress(*TROUBLE):
                async with asyncio.timeout(LOOK_UP):
                    await self._workspace.web.assistant_threads_setStatus(
                        channel_id=self._place.channel, thread_ts=thread, status=status
                    )

    async def react(self, emoji: str) -> None:
        with contextlib.suppress(*TROUBLE):
            await self._workspace.web.reactions_add(
                channel=self._place.channel, timestamp=self._place.ts, name=EMOJI[emoji]
            )

    async def name_of(self, user: str) -> str:
        platform, _, rest = user.partition(":")
        return (await self._workspace.person(rest.rpartition(":")[2])).name if platform == "slack" else ""


class Posted(Live):
    """A message of the bot, known by channel, thread and time stamp. `origin`: time stamp of what it answers. `again`:
    an earlier process may have told the end."""

    def __init__(
        self, workspace: Workspace, channel: str, thread: str, ts: str, origin: str = "", *, again: bool = False
    ) -> None:
        self.address = f"slack:{workspace.me.team}:{channel}:{thread}:{ts}:{origin}"
        self._workspace = workspace
        self._channel, self._thread, self._ts = channel, thread, ts
        self._editable = True
        self._again = again

    async def edit(self, message: Message) -> None:
        if not self._editable or not self._workspace.edits.has_capacity():
            return
        try:
            await self._update(message)
        except TROUBLE as problem:
            self._editable = _code(problem) not in FIXED
            log.debug("a progress message could not be edited: %s", _code(problem))

    async def finish(self, message: Message) -> None:
        with _sending():
            stays = not message.notify and self._editable and self._age() < STALE_AFTER
            if not (stays and await self._finish_here(message)):
                await self._finish_anew(message)

    async def _finish_here(self, message: Message) -> bool:
        """Twice is as good as once."""
        try:
            await self._update(message)
        except SlackApiError as problem:
            if _code(problem) not in FIXED - CLOSED:
                raise
            return False
        return True

    async def _finish_anew(self, message: Message) -> None:
        """An edit calls nobody: the end is a message of its own, and the progress goes."""
        tag = tag_of(self._channel, self._ts, message)
        if self._again:
            self._workspace.may_have_posted(tag)
        await self._workspace.post(self._channel, self._thread, message, tag)
        with contextlib.suppress(*TROUBLE):
            await self._workspace.web.chat_delete(channel=self._channel, ts=self._ts)

    async def _update(self, message: Message) -> None:
        await self._workspace.edits.acquire()
        await self._workspace.web.chat_update(channel=self._channel, ts=self._ts, **dress(message))

    def _age(self) -> float:
        return time.time() - float(self._ts)


def tag_of(channel: str, origin: str, message: Message) -> str:
    return f"{BUTTON}:" + hashlib.sha256(f"{channel} {origin} {message}".encode()).hexdigest()[:24]


def _code(problem: BaseException) -> str:
    """Slack's word for what went wrong, or the kind of trouble."""
    data = getattr(getattr(problem, "response", None), "data", None)
    return str(data.get("error")) if isinstance(data, Mapping) else type(problem).__name__


@contextlib.contextmanager
def _sending() -> Iterator[None]:
    """Trouble becomes Undelivered, or Unreachable where it will not pass."""
    try:
        yield
    except SlackApiError as problem:
        status = getattr(problem.response, "status_code", 0)
        if _code(problem) in CLOSED:
            log.warning("a message could not be sent: %s", _code(problem))
            raise Unreachable from problem
        if _code(problem) in PASSING or status == 429 or status >= 500:
            raise Undelivered from problem
        raise
    except (SlackClientError, aiohttp.ClientError, OSError, TimeoutError) as problem:
        raise Undelivered from problem
