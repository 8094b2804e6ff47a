"""A small Slack on real sockets: Web API, files, Socket Mode, signed HTTP and response URLs on loopback, with faults on
demand.

It speaks what slack_bolt and our client need, refuses what Slack is known to refuse, and no more. It is not Slack.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import re
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import aiohttp
from aiohttp import web
from slack_sdk.models.blocks import Block
from slack_sdk.signature import SignatureVerifier

from bot.platforms.slack.manifest import SCOPES

BOT, TEAM, CHANNEL = "UBOT", "T1", "C1"
BOT_TOKEN, APP_TOKEN, SECRET = "xoxb-very-secret", "xapp-very-secret", "signing-very-secret"
FOR_AGENTS = ("task_card", "plan", "context_actions")
MENTION = f"<@{BOT}>"


@dataclass
class Call:
    """One request to the Web API, with its answer."""

    method: str
    body: dict[str, Any]
    answer: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)


@dataclass
class Fault:
    """Answers that come instead of the right one, `times` times."""

    method: str
    error: str = "fault"
    status: int = 200
    times: int = 1
    retry_after: int = 0
    after_the_fact: bool = False  # the call takes effect all the same


@dataclass
class File:
    """How the file host answers for one file."""

    data: bytes
    content_type: str = "application/pdf"
    redirect: tuple[int, str] | None = None
    endless: bool = False
    mimetype: str = ""  # that the event says, when it is another one
    encoding: str = ""
    slow: bool = False  # a byte, then nothing
    url: str = ""  # instead of the file host's
    title: str = ""  # that its sender gave it
    info_only: bool = False  # the event carries no more than the id, as in shared channels


class FakeSlack:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.messages: dict[str, list[dict[str, Any]]] = {}  # by channel, in order
        self.whispers: list[dict[str, Any]] = []  # ephemeral messages
        self.responses: list[dict[str, Any]] = []  # what came to response URLs
        self.responses_left: dict[str, int] = {}
        self.files: dict[str, File] = {}
        self.uploads: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []  # modals that were opened
        self.file_headers: list[dict[str, str]] = []  # of what was asked of the file host
        self.sent_bytes = 0
        self.acks: dict[str, float] = {}  # envelope -> seconds
        self.connections = 0
        self.connected = asyncio.Event()
        self.users = {name: user(name) for name in ("UADA", "UBOB", "UMOD")}
        self.users["UMOD"]["is_admin"] = True
        self.creators = {CHANNEL: "USOMEBODY"}
        self.members = {CHANNEL}
        self.joined: dict[str, set[str]] = {}  # who is in a channel; everybody where it says nothing
        self.homes: dict[str, dict[str, Any]] = {}  # Home tabs, by person
        self.http_url = ""  # of the bot, in HTTP mode
        self.mentions_carry_files = True
        self.sends: tuple[str, ...] = ("message", "app_mention")  # which of the two events of a mention come
        self.scopes = ",".join(SCOPES)  # that the bot token has
        self.takes_blocks_for_agents = True
        self.response_uses = 5
        self.behind = 0.0  # seconds by which what is written now is older than it looks
        self.ahead = 0.0  # seconds of its clock before ours
        self._ids = itertools.count(1)
        self._socket: web.WebSocketResponse | None = None
        self._answered: dict[str, asyncio.Event] = {}
        self._clock = itertools.count()

    async def __aenter__(self) -> FakeSlack:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/api/{method}", self._api)
        app.router.add_get("/link", self._link)
        app.router.add_get("/files/{id}/{name}", self._file)
        app.router.add_post("/upload/{id}", self._upload)
        app.router.add_post("/response/{number}", self._response)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket:
            await self._socket.close()
        await self.session.close()
        await self._runner.cleanup()

    def id(self, prefix: str) -> str:
        return f"{prefix}{next(self._ids)}"

    def ts(self) -> str:
        return f"{int(time.time() - self.behind)}.{next(self._clock):06}"

    # What people do

    async def say(
        self, text: str, *files: tuple[str, bytes | File], by: str = "UADA", channel: str = CHANNEL, **more: Any
    ):
        """Somebody writes; returns the message."""
        shared = [self._attach(name, data) for name, data in files]
        message = {"type": "message", "user": by, "text": text, "ts": self.ts(), "channel": channel, **more}
        message |= {"subtype": "file_share", "files": shared} if shared else {}
        self._store(channel, message)
        kind = "im" if channel.startswith("D") else "channel"
        parent = self._parent(message)
        event = message | {"channel_type": kind} | ({"parent_user_id": parent["user"]} if parent else {})
        if "message" in self.sends:
            await self.event(event)
        if MENTION in text and kind == "channel" and "app_mention" in self.sends:
            mention = {**event, "type": "app_mention"}
            mention.pop("subtype", None)
            if not self.mentions_carry_files:
                mention.pop("files", None)
            await self.event(mention)
        return message

    def miss(self, text: str, *, by: str = "UADA", channel: str = CHANNEL) -> dict[str, Any]:
        """Somebody writes while the bot is away, longer than Slack tells events again."""
        message = {"type": "message", "user": by, "text": text, "ts": self.ts(), "channel": channel}
        self._store(channel, message)
        return message

    async def remove(self, message: dict[str, Any]) -> None:
        """Somebody deletes a message. One that begins a thread becomes a tombstone."""
        gone = {"subtype": "message_deleted", "deleted_ts": message["ts"], "previous_message": dict(message)}
        if any(reply.get("thread_ts") == message["ts"] for reply in self.messages[message["channel"]]):
            stone = {
                "type": "message",
                "subtype": "tombstone",
                "text": "This message was deleted.",
                "ts": message["ts"],
            }
            gone = {"subtype": "message_changed", "message": stone, "previous_message": dict(message)}
        self.delete(message)
        await self.event({"type": "message", "channel": message["channel"], "ts": self.ts(), **gone})

    async def change(self, message: dict[str, Any], text: str) -> None:
        """Somebody edits a message."""
        before = dict(message)
        message.update(text=text, edited={"user": message["user"], "ts": self.ts()})
        changed = {"subtype": "message_changed", "message": dict(message), "previous_message": before, "hidden": True}
        await self.event({"type": "message", "channel": message["channel"], "ts": self.ts(), **changed})

    async def event(self, event: dict[str, Any], event_id: str = "", retry: int = 0) -> None:
        payload = {
            "token": "t",
            "team_id": TEAM,
            "api_app_id": "A1",
            "type": "event_callback",
            "event_id": event_id or self.id("Ev"),
            "event_time": int(time.time()),
            "event": event,
            "authorizations": [{"team_id": TEAM, "user_id": BOT, "is_bot": True}],
        }
        await self.deliver("events_api", payload, retry)

    async def slash(self, name: str, text: str = "", *, by: str = "UADA", channel: str = CHANNEL) -> None:
        payload = {
            "token": "t",
            "team_id": TEAM,
            "team_domain": "harbour",
            "channel_id": channel,
            "channel_name": "general",
            "user_id": by,
            "user_name": by.lower(),
            "command": f"/{name}",
            "text": text,
            "api_app_id": "A1",
            "is_enterprise_install": "false",
            "response_url": self.response_url(),
            "trigger_id": self.id("Tr"),
        }
        await self.deliver("slash_commands", payload)

    async def click(self, message: dict[str, Any], label: str, *, by: str = "UADA") -> None:
        button = next(button for button in buttons(message) if button["text"]["text"] == label)
        ephemeral = message in self.whispers
        container = {"type": "message", "message_ts": message["ts"], "channel_id": message["channel"]}
        thread = {"thread_ts": message["thread_ts"]} if message.get("thread_ts") else {}
        await self.interact(
            {
                "type": "block_actions",
                "user": {"id": by, "name": by.lower(), "team_id": TEAM},
                "channel": {"id": message["channel"], "name": "general"},
                "container": {**container, **thread, "is_ephemeral": ephemeral},
                **({} if ephemeral else {"message": message}),
                "actions": [{"type": "button", "block_id": "b", "value": "", **button, "action_ts": self.ts()}],
            }
        )

    async def choose(self, message: dict[str, Any], *, by: str = "UADA") -> None:
        """The message menu."""
        await self.interact(
            {
                "type": "message_action",
                "callback_id": "learn_document",
                "user": {"id": by, "name": by.lower(), "team_id": TEAM},
                "channel": {"id": message["channel"], "name": "general"},
                "message_ts": message["ts"],
                "message": message,
            }
        )

    async def submit(self, view: dict[str, Any], text: str = "", *files: tuple[str, bytes], by: str = "UADA") -> None:
        """Somebody fills in a modal and sends it. A form that names endings takes no file with another one."""
        endings = view["blocks"][0]["element"].get("filetypes")
        for name, _ in files:
            assert endings is None or name.rpartition(".")[2] in endings, f"the form takes no {name}"
        given = {"value": text or None, "files": [self._attach(name, data) for name, data in files]}
        sent = {**view, "state": {"values": {"given": {"given": given}}}}
        person = {"id": by, "name": by.lower(), "team_id": TEAM}
        await self.interact({"type": "view_submission", "user": person, "view": sent})

    async def interact(self, payload: dict[str, Any], *, at_home: bool = False) -> None:
        more = {"api_app_id": "A1", "team": {"id": TEAM, "domain": "harbour"}, "token": "t"}
        more |= {"trigger_id": self.id("Tr")} | ({} if at_home else {"response_url": self.response_url()})
        await self.deliver("interactive", {**payload, **more})

    def response_url(self) -> str:
        number = self.id("R")
        self.responses_left[number] = self.response_uses
        return f"{self.url}/response/{number}"

    # Delivery

    async def deliver(self, kind: str, payload: dict[str, Any], retry: int = 0) -> None:
        """Returns once the bot has acknowledged."""
        if self.http_url:
            answer = await self.post(*signed(kind, payload), retry=retry)
            assert answer == 200, answer
            return
        envelope = self.id("E")
        body = {"envelope_id": envelope, "type": kind, "payload": payload, "accepts_response_payload": True}
        body |= {"retry_attempt": retry, "retry_reason": "timeout"} if retry else {}
        done, began = self._answered.setdefault(envelope, asyncio.Event()), time.monotonic()
        await self._socket.send_json(body)
        await asyncio.wait_for(done.wait(), 3)
        self.acks[envelope] = time.monotonic() - began

    async def post(self, body: bytes, headers: dict[str, str], *, retry: int = 0) -> int:
        """A raw request to the bot in HTTP mode; the status."""
        more = {"X-Slack-Retry-Num": str(retry), "X-Slack-Retry-Reason": "http_timeout"} if retry else {}
        async with self.session.post(self.http_url, data=body, headers=headers | more) as answer:
            return answer.status

    async def disconnect(self) -> None:
        """Slack asks the client to take a new connection, and closes the old one."""
        self.connected.clear()
        await self._socket.send_json({"type": "disconnect", "reason": "warning"})
        await self.connected.wait()

    async def _link(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        info = {"num_connections": 1, "connection_info": {"app_id": "A1"}, "debug_info": {}}
        await socket.send_json({"type": "hello", **info})
        self._socket = socket
        self.connections += 1
        self.connected.set()
        async for frame in socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                self._answered[json.loads(frame.data)["envelope_id"]].set()
        return socket

    # The Web API

    def fault(self, method: str, error: str = "fault", **changes: Any) -> None:
        self.faults.append(Fault(method, error, **changes))

    def sent(self, method: str) -> list[dict[str, Any]]:
        return [call.body for call in self.calls if call.method == method]

    async def _api(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        call = Call(method, await read(request))
        self.calls.append(call)
        wanted = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
        if method != "oauth.v2.access" and request.headers.get("Authorization") != f"Bearer {wanted}":
            return web.json_response({"ok": False, "error": "invalid_auth"})
        fault = next((fault for fault in self.faults if fault.times and fault.method == method), None)
        if fault and not fault.after_the_fact:
            return fail(fault)
        try:
            call.answer = {"ok": True, **(await getattr(self, "_" + method.replace(".", "_"))(call.body) or {})}
        except Refusal as refusal:
            call.answer = {"ok": False, "error": str(refusal)}
        return fail(fault) if fault else web.json_response(call.answer, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"x-oauth-scopes": self.scopes, "Date": formatdate(time.time() + self.ahead, usegmt=True)}

    async def _auth_test(self, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "url": "https://harbour.slack.com/",
            "team": "harbour",
            "user": "engram",
            "team_id": TEAM,
            "user_id": BOT,
            "bot_id": "B1",
        }

    async def _oauth_v2_access(self, body: dict[str, Any]) -> dict[str, Any]:
        team = {"id": TEAM, "name": "harbour"}
        granted = {"access_token": BOT_TOKEN, "token_type": "bot", "scope": self.scopes, "bot_user_id": BOT}
        return {"app_id": "A1", "team": team, "authed_user": {"id": "UADA"}, "is_enterprise_install": False, **granted}

    async def _apps_connections_open(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"url": f"ws://127.0.0.1:{self.port}/link?ticket={self.id('')}"}

    async def _users_info(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"user": self.users.get(body["user"]) or refuse("user_not_found")}

    async def _conversations_info(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"channel": {"id": body["channel"], "creator": self.creators.get(body["channel"], "")}}

    async def _conversations_history(self, body: dict[str, Any]) -> dict[str, Any]:
        top = [message for message in self.messages.get(body["channel"], []) if is_top(message)]
        top = [message for message in top if message["ts"] > body.get("oldest", "")]
        return {"messages": top[::-1][: int(body.get("limit", 100))]}

    async def _conversations_replies(self, body: dict[str, Any]) -> dict[str, Any]:
        thread = [m for m in self.messages.get(body["channel"], []) if body["ts"] in (m["ts"], m.get("thread_ts"))]
        found = [m for m in thread if body.get("oldest", "") <= m["ts"] <= body.get("latest", "9")]
        parent = [m for m in thread if m["ts"] == body["ts"] and m not in found]  # Slack always gives it, first
        return {"messages": parent + found[: int(body.get("limit", 1000))] or refuse("thread_not_found")}

    async def _chat_postMessage(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body)
        message = {"type": "message", "user": BOT, "bot_id": "B1", "ts": self.ts(), **body}
        self._store(body["channel"], message)
        if self._socket and not self._socket.closed and not self.http_url:
            asyncio.get_running_loop().create_task(self.event({**message, "channel_type": "channel"}))
        return {"channel": body["channel"], "ts": message["ts"], "message": message}

    async def _chat_update(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body)
        message = self.message(body["ts"], body["channel"]) or refuse("message_not_found")
        message.update({"blocks": [], **body, "edits": message.get("edits", 0) + 1})
        return {"channel": body["channel"], "ts": body["ts"]}

    async def _chat_delete(self, body: dict[str, Any]) -> None:
        self.delete(self.message(body["ts"], body["channel"]) or refuse("message_not_found"))

    async def _views_open(self, body: dict[str, Any]) -> None:
        view = body["view"] if isinstance(body["view"], dict) else json.loads(body["view"])
        if len(view["title"]["text"]) > 24 or len(view["private_metadata"]) > 3000:
            raise Refusal("invalid_arguments")
        self.views.append(view)

    async def _views_publish(self, body: dict[str, Any]) -> None:
        view = body["view"] if isinstance(body["view"], dict) else json.loads(body["view"])
        assert view["type"] == "home" and len(view["blocks"]) <= 100
        check_blocks([block for block in view["blocks"] if not block.get("accessory")][:50])
        for block in view["blocks"]:
            Block.parse(block).to_dict()
        self.homes[body["user_id"]] = view

    async def _users_conversations(self, body: dict[str, Any]) -> dict[str, Any]:
        joined = [channel for channel in sorted(self.members) if body["user"] in self.joined.get(channel, self.users)]
        return {"channels": [{"id": channel} for channel in joined], "response_metadata": {"next_cursor": ""}}

    async def press_at_home(self, label: str, *, by: str = "UADA", number: int = 0) -> None:
        """A button of the Home tab."""
        shown = [block["accessory"] for block in self.homes[by]["blocks"] if block.get("accessory")]
        button = [button for button in shown if button["text"]["text"] == label][number]
        person = {"id": by, "name": by.lower(), "team_id": TEAM}
        container = {"type": "view", "view_id": "V1"}
        payload = {"type": "block_actions", "user": person, "container": container, "view": self.homes[by]}
        await self.interact({**payload, "actions": [{**button, "block_id": "b", "action_ts": self.ts()}]}, at_home=True)

    async def _reactions_add(self, body: dict[str, Any]) -> None:
        message = self.message(body["timestamp"], body["channel"]) or refuse("message_not_found")
        message.setdefault("reactions", []).append(body["name"])

    async def _assistant_threads_setSuggestedPrompts(self, body: dict[str, Any]) -> None:
        if not 0 < len(body.get("prompts") or ()) <= 4:
            raise Refusal("invalid_arguments")

    async def _chat_postEphemeral(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body)
        self.whispers.append({"ts": self.ts(), **body})
        return {"message_ts": self.whispers[-1]["ts"]}

    async def _assistant_threads_setStatus(self, body: dict[str, Any]) -> None:
        if not body.get("thread_ts"):
            raise Refusal("invalid_arguments")

    async def _files_info(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"file": self._described(body["file"], full=True)}

    async def _files_getUploadURLExternal(self, body: dict[str, Any]) -> dict[str, Any]:
        number = self.id("F")
        return {"upload_url": f"{self.url}/upload/{number}", "file_id": number}

    async def _files_completeUploadExternal(self, body: dict[str, Any]) -> dict[str, Any]:
        self.uploads.append(body)
        files = [{"id": file["id"], "name": file["title"]} for file in body["files"]]
        thread = {"thread_ts": body["thread_ts"]} if body.get("thread_ts") else {}
        message = {
            "type": "message",
            "user": BOT,
            "bot_id": "B1",
            "ts": self.ts(),
            "text": "",
            "files": files,
            **thread,
        }
        self._store(body["channel_id"], message | {"channel": body["channel_id"]})
        return {"files": [{"id": file["id"]} for file in body["files"]]}

    def _check(self, body: dict[str, Any]) -> None:
        """What Slack refuses, as far as it is known."""
        if body["channel"] not in self.members and not body["channel"].startswith("D"):
            raise Refusal("not_in_channel")
        if not body.get("text") and not body.get("blocks"):
            raise Refusal("no_text")
        check_blocks(body.get("blocks") or [], for_agents=self.takes_blocks_for_agents)

    # Messages and files

    def message(self, ts: str, channel: str = CHANNEL) -> dict[str, Any] | None:
        return next((message for message in self.messages.get(channel, []) if message["ts"] == ts), None)

    def delete(self, message: dict[str, Any]) -> None:
        self.messages[message["channel"]].remove(message)

    def said(self, words: str, channel: str = CHANNEL) -> list[dict[str, Any]]:
        """The bot's messages with these words."""
        return [m for m in self.messages.get(channel, []) if m.get("bot_id") and words in shown(m)]

    def whispered(self, words: str) -> list[dict[str, Any]]:
        """Messages that only one person sees, by either way."""
        return [message for message in [*self.whispers, *self.responses] if words in shown(message)]

    def transcript(self, channel: str = CHANNEL) -> str:
        """What people see, threads indented below their first message."""
        lines, everything = [], self.messages.get(channel, [])
        whispers = [m | {"to": m["user"], "user": BOT} for m in self.whispers if m["channel"] == channel]
        for top in sorted([m for m in everything + whispers if is_top(m)], key=lambda m: m["ts"]):
            replies = [m for m in everything + whispers if m.get("thread_ts") == top["ts"] != m["ts"]]
            lines += self._lines(top, "")
            for reply in sorted(replies, key=lambda m: m["ts"]):
                lines += self._lines(reply, "        ")
        return "\n".join(lines)

    def _lines(self, message: dict[str, Any], indent: str) -> list[str]:
        name = "Engram" if message["user"] == BOT else message["user"][1:].title()
        name += f" (only {message['to'][1:].title()} sees this)" if message.get("to") else ""
        files = [f"({file.get('name', 'a file')})" for file in message.get("files", [])]
        text = shown(message).replace(MENTION, "@Engram").splitlines()
        return [f"\n{indent}{name}", *(f"{indent}    {line}" for line in [*files, *text])]

    def _store(self, channel: str, message: dict[str, Any]) -> None:
        self.messages.setdefault(channel, []).append(message)

    def _parent(self, message: dict[str, Any]) -> dict[str, Any] | None:
        return self.message(message["thread_ts"], message["channel"]) if message.get("thread_ts") else None

    def _attach(self, name: str, data: bytes | File) -> dict[str, Any]:
        number = self.id("F")
        self.files[number] = data if isinstance(data, File) else File(data)
        self.files[number].name = name
        return self._described(number)

    def _described(self, number: str, *, full: bool = False) -> dict[str, Any]:
        file = self.files[number]
        if file.info_only and not full:
            return {"id": number, "mode": "file_access", "file_access": "check_file_info"}
        url = file.url or f"{self.url}/files/{number}/{number}.pdf"
        facts = {
            "name": file.name,
            "title": file.title or file.name,
            "mimetype": file.mimetype or file.content_type,
            "size": len(file.data),
            "mode": "hosted",
        }
        return {"id": number, **facts, "url_private": url, "url_private_download": url}

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.file_headers.append(dict(request.headers))
        file = self.files[request.match_info["id"]]
        if request.headers.get("Authorization") != f"Bearer {BOT_TOKEN}":
            return web.Response(status=401)
        if file.redirect:
            return web.Response(status=file.redirect[0], headers={"Location": file.redirect[1]})
        if file.endless or file.slow:
            return await self._endless(request, file.slow)
        headers = {"Content-Encoding": file.encoding} if file.encoding else {}
        return web.Response(body=file.data, content_type=file.content_type, headers=headers)

    async def _endless(self, request: web.Request, slow: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/pdf"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        chunk = b"%PDF-" + b"x" * (0 if slow else 65_531)
        try:
            while True:
                await response.write(chunk)
                self.sent_bytes += len(chunk)
                await asyncio.sleep(60 if slow else 0)
        except ConnectionError:
            return response

    async def _upload(self, request: web.Request) -> web.Response:
        self.files[request.match_info["id"]] = File(await request.read(), "image/png")
        return web.Response(text="OK")

    async def _response(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        if not self.responses_left[number]:
            return web.Response(status=404, text="used_url")
        self.responses_left[number] -= 1
        body = await request.json()
        check_blocks(body.get("blocks") or [], for_agents=False)  # what it takes there is not documented
        self.responses.append({"ts": self.ts(), "channel": CHANNEL, **body})
        return web.Response(text="ok")


class Refusal(Exception):
    """Slack's error code."""


def refuse(code: str) -> Any:
    raise Refusal(code)


def fail(fault: Fault) -> web.Response:
    fault.times -= 1
    if fault.status == 200:
        return web.json_response({"ok": False, "error": fault.error})
    headers = {"Retry-After": str(fault.retry_after)} if fault.status == 429 else {}
    return web.json_response({"ok": False, "error": fault.error}, status=fault.status, headers=headers)


async def read(request: web.Request) -> dict[str, Any]:
    """slack_sdk sends JSON, a form, or the query."""
    if request.content_type == "application/json":
        return await request.json()
    given = {**request.query, **(await request.post())}
    return {key: json.loads(value) if key in ("blocks", "files") else value for key, value in given.items()}


def user(name: str, **more: Any) -> dict[str, Any]:
    names = {"name": name.lower(), "real_name": name[1:].title(), "profile": {"display_name": ""}}
    return {"id": name, "team_id": TEAM, **names, "is_admin": False, "is_owner": False, **more}


def is_top(message: dict[str, Any]) -> bool:
    return message.get("thread_ts", message["ts"]) == message["ts"]


def signed(kind: str, payload: dict[str, Any], secret: str = SECRET, at: float = 0.0) -> tuple[bytes, dict[str, str]]:
    """A request as Slack sends it in HTTP mode: body and headers. `at`: seconds from now."""
    if kind == "events_api":
        body, content = json.dumps(payload).encode(), "application/json"
    else:
        form = payload if kind == "slash_commands" else {"payload": json.dumps(payload)}
        body, content = aiohttp.FormData(form)()._value, "application/x-www-form-urlencoded"
    timestamp = str(int(time.time() + at))
    digest = hmac.new(secret.encode(), b"v0:" + timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    assert SignatureVerifier(secret).generate_signature(timestamp=timestamp, body=body) == f"v0={digest}"
    headers = {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={digest}", "Content-Type": content}
    return body, headers


def check_blocks(blocks: list[dict[str, Any]], *, for_agents: bool = True) -> None:
    """Block Kit's documented limits. for_agents: whether the workspace takes the blocks for agents."""
    for block in blocks:
        if block["type"] in FOR_AGENTS:
            if not for_agents:
                raise Refusal("invalid_blocks")
            Block.parse(block).to_dict()  # slack_sdk knows what belongs into them, and how much
    ids = [element["action_id"] for block in blocks for element in block.get("elements", []) if "action_id" in element]
    texts = [text["text"] for block in blocks for text in [block.get("text"), *block.get("fields", [])] if text]
    too_long = any(len(text) > 3000 for text in texts) or sum(map(len, texts)) > 9_500
    columns = [len(column["text"]) for block in blocks for column in block.get("fields", [])]
    labels = [len(button["text"]["text"]) for button in buttons({"blocks": blocks})]
    values = [len(button.get("value", "x")) for button in buttons({"blocks": blocks})]
    if too_long or len(blocks) > 50 or len(set(ids)) != len(ids) or not all(texts):
        raise Refusal("invalid_blocks")
    if max(columns, default=0) > 2000 or max(labels, default=1) > 75 or 0 in labels + values:
        raise Refusal("invalid_blocks")


def buttons(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of a message; a pair of feedback buttons counts as two."""
    pressed = []
    for block in message.get("blocks") or []:
        pressed += [block["accessory"]] if "accessory" in block else []
        for element in block["elements"] if block["type"] in ("actions", "context_actions") else []:
            pair = [element[side] for side in ("positive_button", "negative_button") if side in element]
            pressed += [{"type": element["type"], "action_id": element["action_id"], **side} for side in pair]
            pressed += [] if pair else [element]
    return pressed


def texts(message: dict[str, Any]) -> list[str]:
    """Everything of a message that Slack would parse or show."""
    read = [message.get("text") or ""]
    for block in message.get("blocks") or []:
        parts = [block.get("text"), *block.get("fields", [])]
        parts += buttons({"blocks": [block]}) or block.get("elements", [])
        read += [block["title"]] if block["type"] == "task_card" else []
        read += [part["text"] if isinstance(part["text"], str) else part["text"]["text"] for part in parts if part]
    return read


def shown(message: dict[str, Any]) -> str:
    """All that a person reads in a message."""
    text, *parts = texts(message)
    labels = [button["text"]["text"] for button in buttons(message)]
    said = [f"[{part}]" if part in labels else part for part in parts] or [text]
    plain = "\n".join(said).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return re.sub(r"^([*_])(.+)\1$", r"\2", plain, flags=re.MULTILINE)
