"""A small Discord on real sockets: gateway, REST and file host on loopback, with faults on demand.

It speaks what discord.py 2.7 needs and no more. It is not Discord: what it shows is that our client survives a
protocol, not that Discord behaves so.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any

import discord
import yarl
from aiohttp import WSMsgType, web

BOT, ADA, GUILD, CHANNEL, DIRECT = "100", "200", "300", "400", "500"  # DIRECT: Ada's direct messages
ALL_RIGHTS = str(discord.Permissions.all().value)
USER = {"username": "ada", "discriminator": "0", "global_name": "Ada", "avatar": None}
MEMBER = {"roles": [], "joined_at": "2026-01-01T00:00:00+00:00", "deaf": False, "mute": False, "flags": 0}


@dataclass
class Call:
    """One REST request as it came over the wire."""

    method: str
    path: str
    body: Any = None
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Fault:
    """Answers that come instead of the right one, `times` times."""

    method: str
    path: str  # regular expression
    status: int
    times: int = 1
    code: int = 0
    retry_after: float = 0.05
    after_the_fact: bool = False  # the request takes effect all the same


class FakeDiscord:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.messages: dict[str, dict[str, Any]] = {}
        self.heard: dict[str, dict[str, Any]] = {}  # what people said
        self.files: dict[str, bytes] = {}
        self.gone = False  # the file host does not answer
        self.fetched = 0  # files
        self.commands: list[dict[str, Any]] = []  # registered
        self.flags, self.servers = 0, 1  # of the application
        self.identified = self.resumed = 0
        self.shards: list[int] = []  # that were logged in, one after another
        self.close_on_identify = 0  # close code
        self.heartbeat = 41.25  # seconds between two of the client's
        self.connected = asyncio.Event()
        self._events: list[dict[str, Any]] = []  # of the session, for RESUME
        self._nonces: dict[str, str] = {}
        self._socket: web.WebSocketResponse | None = None
        self._ids = itertools.count(discord.utils.time_snowflake(discord.utils.utcnow()))

    async def __aenter__(self) -> FakeDiscord:
        app = web.Application()
        app.router.add_get("/gateway", self._gateway)
        app.router.add_get("/files/{name}", self._file)
        app.router.add_route("*", "/api/v10/{path:.*}", self._rest)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self._before = discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY
        discord.http.Route.BASE = f"http://127.0.0.1:{self.port}/api/v10"
        discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(self.gateway_url)
        return self

    async def __aexit__(self, *_: object) -> None:
        discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = self._before
        if self._socket:
            await self._socket.close()
        await self._runner.cleanup()

    @property
    def host(self) -> yarl.URL:
        return yarl.URL(f"http://127.0.0.1:{self.port}")

    @property
    def gateway_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/gateway"

    def id(self) -> str:
        return str(next(self._ids))

    # What people do

    async def say(self, text: str, pdf: bytes = b"", **changes: Any) -> str:
        """Ada writes, mentioning the bot."""
        number = self.id()
        files = [self._attachment("handbook.pdf", pdf)] if pdf else []
        mention = {"id": BOT, "username": "engram", "discriminator": "0", "avatar": None, "bot": True}
        message = self._message(number, {"content": f"<@{BOT}> {text}"}) | {
            "author": {"id": ADA, **USER},
            "member": MEMBER,
            "guild_id": GUILD,
            "mentions": [mention],
            "attachments": files,
        }
        self.heard[number] = message | changes
        await self.dispatch("MESSAGE_CREATE", self.heard[number])
        return number

    async def slash(self, name: str, *, pdf: bytes = b"", away: bool = False, **options: str) -> str:
        """Ada uses a command; returns the interaction's token. `away`: in a server where only she installed the bot."""
        token = f"token-{self.id()}"
        given = [{"name": key, "type": 3, "value": value} for key, value in options.items()]
        file = self._attachment("handbook.pdf", pdf)
        given += [{"name": "file", "type": 11, "value": file["id"]}] if pdf else []
        elsewhere = {"guild_id": "301", "channel_id": "401", "authorizing_integration_owners": {"1": ADA}}
        await self.dispatch(
            "INTERACTION_CREATE",
            {
                "id": self.id(),
                "application_id": BOT,
                "type": 2,
                "token": token,
                "version": 1,
                "guild_id": GUILD,
                "channel_id": CHANNEL,
                "channel": {"id": CHANNEL, "type": 0, "name": "general", "position": 0, "permissions": ALL_RIGHTS},
                "member": {**MEMBER, "user": {"id": ADA, **USER}, "permissions": ALL_RIGHTS},
                "app_permissions": ALL_RIGHTS,
                "locale": "en-US",
                "entitlements": [],
                "authorizing_integration_owners": {},
                "context": 0,
                "attachment_size_limit": 10485760,
                "data": {
                    "id": "1",
                    "name": name,
                    "type": 1,
                    "options": given,
                    "resolved": {"attachments": {file["id"]: file}},
                },
            }
            | (elsewhere if away else {}),
        )
        return token

    # The gateway

    async def dispatch(self, event: str, data: Any) -> None:
        """Send an event; while the bot is away it is kept for RESUME."""
        frame = {"op": 0, "t": event, "s": len(self._events) + 1, "d": data}
        self._events.append(frame)
        if self._socket and not self._socket.closed:
            await self._socket.send_json(frame)

    async def send_raw(self, text: str) -> None:
        await self._socket.send_str(text)

    async def op(self, number: int, data: Any = None) -> None:
        """7: reconnect; 9: invalid session, `data` says whether it can be resumed."""
        self.connected.clear()
        await self._socket.send_json({"op": number, "d": data})

    async def reset(self) -> None:
        """The connection is gone, without a word."""
        self.connected.clear()
        socket, self._socket = self._socket, None
        socket._req.transport.abort()

    async def silence(self) -> None:
        """The connection stays, and nothing comes or goes."""
        self.connected.clear()
        socket, self._socket = self._socket, None
        socket._req.transport.pause_reading()

    async def close(self, code: int) -> None:
        self.connected.clear()
        socket, self._socket = self._socket, None
        await socket.close(code=code)

    async def _gateway(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": 1000 * self.heartbeat}})
        async for frame in socket:
            if frame.type is WSMsgType.TEXT:
                await self._received(socket, json.loads(frame.data))
        return socket

    async def _received(self, socket: web.WebSocketResponse, frame: dict[str, Any]) -> None:
        if frame["op"] == 1:
            await socket.send_json({"op": 11})
        elif frame["op"] == 2:
            await self._identify(socket, *frame["d"].get("shard") or (0, 1))
        elif frame["op"] == 6:
            await self._resume(socket, frame["d"]["seq"])

    async def _identify(self, socket: web.WebSocketResponse, shard: int, shards: int) -> None:
        """The first shard has the server."""
        self.identified += 1
        self.shards.append(shard)
        if self.close_on_identify:
            await socket.close(code=self.close_on_identify)
            return
        ready = {
            "v": 10,
            "user": {"id": BOT, "username": "engram", "discriminator": "0", "avatar": None, "bot": True},
            "guilds": [{"id": GUILD, "unavailable": True}],
            "session_id": f"session-{self.identified}",
            "resume_gateway_url": self.gateway_url,
            "application": {"id": BOT, "flags": 0},
            "shard": [shard, shards],
        }
        if shard:
            await socket.send_json({"op": 0, "t": "READY", "s": 1, "d": ready | {"guilds": []}})
            return
        self._events.clear()
        self._socket = socket
        await self.dispatch("READY", ready)
        await self.dispatch("GUILD_CREATE", self._guild())
        self.connected.set()

    async def _resume(self, socket: web.WebSocketResponse, seen: int) -> None:
        self.resumed += 1
        self._socket = socket
        for frame in self._events[seen:]:
            await socket.send_json(frame)
        await self.dispatch("RESUMED", {})
        self.connected.set()

    def _guild(self) -> dict[str, Any]:
        me = {**MEMBER, "user": {"id": BOT, "username": "engram", "discriminator": "0", "avatar": None, "bot": True}}
        role = {"id": GUILD, "name": "@everyone", "permissions": ALL_RIGHTS, "position": 0, "color": 0, "hoist": False}
        channel = {"id": CHANNEL, "type": 0, "name": "general", "position": 0, "permission_overwrites": []}
        return {
            "id": GUILD,
            "name": "harbour",
            "owner_id": ADA,
            "member_count": 2,
            "roles": [role | {"managed": False, "mentionable": False, "colors": {"primary_color": 0}}],
            "channels": [channel],
            "members": [me],
            "unavailable": False,
        }

    # REST and files

    def fault(self, *args: Any, **changes: Any) -> None:
        self.faults.append(Fault(*args, **changes))

    def sent(self, method: str, path: str) -> list[Call]:
        return [call for call in self.calls if call.method == method and re.fullmatch(path, call.path)]

    async def _rest(self, request: web.Request) -> web.Response:
        call = await self._read(request)
        self.calls.append(call)
        fault = next(
            (f for f in self.faults if f.times and f.method == call.method and re.fullmatch(f.path, call.path)), None
        )
        if fault and not fault.after_the_fact:
            return self._fail(fault)
        answer = self._answer(call)
        return self._fail(fault) if fault else answer

    def _fail(self, fault: Fault) -> web.Response:
        fault.times -= 1
        body = {"message": "fault", "code": fault.code, "retry_after": fault.retry_after, "global": False}
        return answer(body, status=fault.status, headers={"Via": "1.1 fake"})

    async def _read(self, request: web.Request) -> Call:
        call = Call(request.method, request.match_info["path"])
        if request.content_type.startswith("multipart/"):
            async for part in await request.multipart():
                data = await part.read()
                if part.name == "payload_json":
                    call.body = json.loads(data)
                else:
                    call.files[part.name] = bytes(data)
        elif request.can_read_body:
            call.body = await request.json()
        return call

    def _answer(self, call: Call) -> web.Response:
        method, path = call.method, call.path
        if path == "users/@me":
            return answer({"id": BOT, "username": "engram", "discriminator": "0", "avatar": None, "bot": True})
        if path == "oauth2/applications/@me":
            return answer(APPLICATION | {"flags": self.flags, "approximate_guild_count": self.servers})
        if path == "gateway/bot":
            limit = {"total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 1}
            return answer({"url": self.gateway_url, "shards": 1, "session_start_limit": limit})
        if method == "GET" and path == f"channels/{CHANNEL}":
            return answer(self._guild()["channels"][0] | {"guild_id": GUILD})
        if path == "users/@me/channels":
            return answer({"id": DIRECT, "type": 1, "recipients": [{"id": ADA, **USER}]})
        if path.endswith("/commands"):
            known = {"description": "", "application_id": BOT, "version": "1"}
            if method == "PUT":
                self.commands = [{**known, **command, "id": self.id()} for command in call.body]
            return answer(self.commands)
        if method == "GET" and (said := self.heard.get(path.rpartition("/messages/")[2])):
            return answer(said)
        if path.endswith("/callback"):
            return answer(self._called_back(call))
        if path.endswith("/typing"):
            return web.Response(status=204)
        if path.endswith("/threads"):
            return answer(
                {"id": path.split("/")[3], "type": 11, "guild_id": GUILD, "parent_id": CHANNEL, **THREAD, **call.body}
            )
        if method == "POST" and (path.startswith("webhooks/") or path.endswith("/messages")):
            return answer(self._posted(call))
        if method == "DELETE":
            self.messages.pop(path.rsplit("/", 1)[1], None)
            return web.Response(status=204)
        if method == "PATCH":
            number = path.rsplit("/", 1)[1]
            self.messages[number] = self._message(number, call.body)
            return answer(self.messages[number])
        return answer({"message": f"no {method} {path} here", "code": 0}, status=404)

    def _called_back(self, call: Call) -> dict[str, Any]:
        """A deferral, or at once the message."""
        told = {"id": "1", "type": 2, "response_message_loading": call.body["type"] == 5}
        if call.body["type"] != 4:
            return {"interaction": told}
        number = self.id()
        self.messages[number] = self._message(number, call.body["data"])
        resource = {"type": 4, "message": self.messages[number]}
        return {"interaction": told | {"response_message_id": number}, "resource": resource}

    def _posted(self, call: Call) -> dict[str, Any]:
        nonce = (call.body or {}).get("nonce") or self.id()
        number = self._nonces.setdefault(nonce, self.id())
        return self.messages.setdefault(number, self._message(number, call.body))

    def _message(self, number: str, body: dict[str, Any]) -> dict[str, Any]:
        me = {"id": BOT, "username": "engram", "discriminator": "0", "avatar": None, "bot": True}
        return {
            "id": number,
            "channel_id": CHANNEL,
            "type": 0,
            "author": me,
            "content": body.get("content") or "",
            "embeds": body.get("embeds") or [],
            "components": body.get("components") or [],
            "attachments": [],
            "mentions": [],
            "mention_roles": [],
            "mention_everyone": False,
            "pinned": False,
            "tts": False,
            "timestamp": "2026-01-01T00:00:00+00:00",
            "edited_timestamp": None,
        }

    def _attachment(self, name: str, data: bytes) -> dict[str, Any]:
        number = self.id()
        self.files[number] = data
        url = f"http://127.0.0.1:{self.port}/files/{number}"
        kind = "application/pdf"
        return {"id": number, "filename": name, "size": len(data), "url": url, "proxy_url": url, "content_type": kind}

    async def _file(self, request: web.Request) -> web.Response:
        self.fetched += 1
        if self.gone:
            await asyncio.sleep(60)
        return web.Response(body=self.files[request.match_info["name"]], content_type="application/pdf")


APPLICATION = {
    "id": BOT,
    "name": "engram",
    "icon": None,
    "description": "",
    "bot_public": True,
    "bot_require_code_grant": False,
    "verify_key": "00",
    "flags": 0,
    "owner": {"id": ADA, **USER},
    "team": None,
    "rpc_origins": None,
}
THREAD = {
    "owner_id": BOT,
    "member_count": 1,
    "message_count": 0,
    "thread_metadata": {
        "archived": False,
        "auto_archive_duration": 1440,
        "archive_timestamp": "2026-01-01T00:00:00+00:00",
        "locked": False,
    },
}


def answer(body: Any, **options: Any) -> web.Response:
    """discord.py reads JSON only where the content type is exactly this one, without a charset."""
    return web.Response(body=json.dumps(body).encode(), content_type="application/json", **options)
