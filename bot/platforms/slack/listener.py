"""Events, commands, buttons and menus of one workspace, into requests."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from typing import Any

from bot import render
from bot.chat import Attachment, Request
from bot.commands import ACTIONS, COMMANDS, Bot, upload_deleted
from bot.intents import understand
from bot.platforms.common import THREADS_FOR, Conversations
from bot.platforms.recent import Recent
from bot.platforms.slack.blocks import FEEDBACK, GIVEN, view_of
from bot.platforms.slack.errors import TROUBLE, code
from bot.platforms.slack.files import Files
from bot.platforms.slack.home import Home
from bot.platforms.slack.manifest import command_of
from bot.platforms.slack.payloads import Person, Place, channel_key, files_in, is_gone, is_spoken, parse
from bot.platforms.slack.replies import SlackReply
from bot.platforms.slack.workspace import EVENTS_FOR, Workspace
from core.errors import StorageFailed

log = logging.getLogger(__name__)

FILES_FOR = 60  # seconds that a file is remembered
HOW_TO_LEARN = (
    "Slack gives slash commands no files. Attach the document to a message that mentions me, in this channel or in a "
    "direct message to me, and I will learn it."
)


class Listener:
    """Decides what is meant for the bot, once for each event, and hands it over."""

    def __init__(self, bot: Bot, workspace: Workspace, files: Files) -> None:
        self.bot, self.workspace, self._files = bot, workspace, files
        self._seen = Recent(EVENTS_FOR)  # for when the disk is full
        self._threads = Recent(THREADS_FOR)  # (channel, thread) -> "ours" or "theirs"
        self._conversations = Conversations()
        self._home = Home(bot, workspace, self.request)

    def durability(self, event: dict[str, Any]) -> int:
        """0: not for the bot. 1: perhaps; its text is not stored. 2: for the bot; stored until it is handled."""
        kind, change = event["type"], event.get("subtype")
        if kind in ("app_mention", "channel_deleted", "group_deleted"):
            return 2
        if kind in ("app_home_opened", "assistant_thread_started"):
            return 1
        if kind == "member_left_channel":
            return 2 if event.get("user") == self.workspace.me.user else 0
        if kind == "message" and is_gone(event):
            return 2 if (event.get("previous_message") or {}).get("files") else 0
        if kind == "message" and change == "message_changed":
            return 2 if self._mentioned_by_edit(event) else 0
        if kind != "message" or not is_spoken(event):
            return 0
        if event["channel"].startswith("D") or self._mentioned(event.get("text") or ""):
            return 2
        if not event.get("thread_ts"):
            return 0
        return 2 if files_in(event) else 1

    def _mentioned_by_edit(self, event: dict[str, Any]) -> bool:
        now, before = event.get("message") or {}, event.get("previous_message") or {}
        return self._mentioned(now.get("text") or "") and not self._mentioned(before.get("text") or "")

    async def handle(self, kind: str, body: dict[str, Any]) -> None:
        handlers = {
            "event": self._on_event,
            "command": self._on_command,
            "action": self._on_action,
            "form": self._on_form,
        }
        await handlers.get(kind, self._on_shortcut)(body)

    async def _first(self, key: str, owner: str, seconds: float = 86_400.0) -> bool:
        """Is it the first time in that while, or the same event once more, after a restart?"""
        try:
            return await self.bot.service.inbox.claim(f"slack:{key}", owner, seconds)
        except StorageFailed:
            return self._seen.first(key)

    async def _on_event(self, body: dict[str, Any]) -> None:
        event = body["event"]
        kind, change = event["type"], event.get("subtype")
        if kind == "message" and is_gone(event):
            await self._deleted(event)
        elif kind in ("message", "app_mention"):
            edited = {**event, **event["message"], "type": "message"} if change == "message_changed" else event
            edited = edited if edited.get("subtype") != "message_changed" else {**edited, "subtype": None}
            await self._on_message(edited, body["event_id"])
        elif kind in ("channel_deleted", "group_deleted", "member_left_channel"):  # nobody can ask or erase there
            await self.bot.service.reset(self.key(Place(event["channel"], "")))
        elif kind == "app_home_opened" and event.get("tab") == "home":
            await self._home.publish(event["user"])
        elif kind == "app_home_opened":
            await self._home.suggest(Place(event["channel"], event["user"]))
        elif kind == "assistant_thread_started":  # of an app whose manifest is from before agent_view
            opened = event["assistant_thread"]
            await self._home.suggest(Place(opened["channel_id"], opened["user_id"]), opened["thread_ts"])

    async def _deleted(self, event: dict[str, Any]) -> None:
        """A message with a document: see `upload_deleted`."""
        gone = event["previous_message"]
        place = Place(
            channel=event["channel"], user=gone.get("user", ""), ts=gone["ts"], thread=gone.get("thread_ts") or ""
        )
        reply = SlackReply(self.workspace, replace(place, ts=""))
        end = f":{place.ts}"
        await upload_deleted(self.bot, self.key(place), lambda address: address.endswith(end), reply.say)

    async def _on_message(self, event: dict[str, Any], event_id: str) -> None:
        """A message. One that mentions the bot comes twice, as `message` and as `app_mention`, in any order."""
        if not is_spoken(event):
            return
        thread = event.get("thread_ts", "")
        begins_thread = thread == event["ts"]
        place = Place(
            channel=event["channel"], user=event["user"], ts=event["ts"], thread="" if begins_thread else thread
        )
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
            self._conversations.end((place.channel, place.thread))
            return True
        if not place.thread or self._is_to_others(event.get("text") or "", place):
            return False
        return await self._is_own(place, event.get("parent_user_id"))

    def _is_addressed(self, event: dict[str, Any], place: Place) -> bool:
        return place.is_dm or event["type"] == "app_mention" or self._mentioned(event.get("text") or "")

    def _is_to_others(self, text: str, place: Place) -> bool:
        people = set(re.findall(r"<@(\w+)", text))
        return self._conversations.is_to_others((place.channel, place.thread), place.user, people, "<!" in text)

    def _mentioned(self, text: str) -> bool:
        return f"<@{self.workspace.me.user}>" in text or f"<@{self.workspace.me.user}|" in text

    async def _is_own(self, place: Place, parent_user: str | None) -> bool:
        """Did the thread begin with the bot, or with its mention?"""
        key = (place.channel, place.thread)
        if parent_user == self.workspace.me.user:
            return True
        if self._threads.get(key) is None:
            parent = await self.workspace.message(place.channel, place.thread)
            is_ours = parent.get("user") == self.workspace.me.user or self._mentioned(parent.get("text") or "")
            if parent:
                self._threads.put(key, "ours" if is_ours else "theirs")
        return self._threads.get(key) == "ours"

    async def _hear(self, event: dict[str, Any], place: Place, event_id: str) -> None:
        if not place.thread:
            self._threads.put((place.channel, place.ts), "ours")
        text = await self.workspace.plain_text(event.get("text") or "")
        files = files_in(event)
        new: list[dict[str, Any]] = []
        for file in files:
            if await self._first(f"file:{place.channel}:{file['id']}", event_id, FILES_FOR):
                new.append(file)
        if files and not new:
            return  # the same upload, told again
        attachments = [await self._files.attachment(file) for file in new or await self._files_of(event, place, text)]
        addressed = self._is_addressed(event, place)
        request = await self.request(place, text=text, attachments=attachments, is_addressed=addressed)
        await self.bot.hear(request, SlackReply(self.workspace, place))

    async def _files_of(self, event: dict[str, Any], place: Place, text: str) -> Sequence[dict[str, Any]]:
        """Files that the event does not carry: a mention's own, or those of the message that began the thread."""
        if event["type"] == "app_mention":
            message = await self.workspace.message(place.channel, place.ts, place.thread)
            if own := files_in(message):
                return own
        if place.thread and understand(text).name in ("learn", "greeting"):
            return files_in(await self.workspace.message(place.channel, place.thread))
        return ()

    async def _on_command(self, body: dict[str, Any]) -> None:
        place = Place(body["channel_id"], body["user_id"])
        name, text = command_of(
            body["command"].removeprefix("/"), await self.workspace.plain_text(body.get("text") or "")
        )
        arguments = parse(COMMANDS[name], text)
        request = await self.request(place, arguments=arguments)
        reply = SlackReply(self.workspace, place, body["response_url"], body["trigger_id"])
        if name == "learn":
            await reply.say(render.note(HOW_TO_LEARN), private=True)
            return
        await self.bot.run(name, request, reply)

    async def _on_action(self, body: dict[str, Any]) -> None:
        action, container = body["actions"][0], body.get("container") or {}
        if (body.get("view") or {}).get("type") == "home":
            await self._home.forget(unescape(action["value"]), body["user"]["id"])
            return
        seen = "" if container.get("is_ephemeral") else container.get("message_ts", "")
        thread = container.get("thread_ts") or (body.get("message") or {}).get("thread_ts") or ""
        place = Place(body["channel"]["id"], body["user"]["id"], seen, thread)
        name, value = action["action_id"].split(":")[1], unescape(action.get("value") or "")
        if name == FEEDBACK:
            name, _, value = value.partition(":")
        if await self._ask_by_form(name, value, place, body["trigger_id"]):
            return
        request = await self.request(place, is_whispered=bool(container.get("is_ephemeral")))
        reply = SlackReply(self.workspace, place, body["response_url"], body["trigger_id"])
        await self.bot.press(name, value, request, reply)

    async def _ask_by_form(self, name: str, value: str, place: Place, trigger: str) -> bool:
        """False when there is none, or Slack did not open it, which it does for 3 seconds only."""
        form = ACTIONS[name].form if name in ACTIONS else None
        if form is None:
            return False
        context = json.dumps([name, value, place.channel, place.ts, place.thread])
        try:
            await self.workspace.web.views_open(trigger_id=trigger, view=view_of(form, context))
        except TROUBLE as problem:
            log.warning("a form could not be opened: %s", code(problem))
            return False
        return True

    async def _on_form(self, body: dict[str, Any]) -> None:
        """A form was sent."""
        view = body["view"]
        name, value, channel, ts, thread = json.loads(view["private_metadata"])
        given = view["state"]["values"][GIVEN][GIVEN]
        place = Place(channel, body["user"]["id"], ts, thread)
        files = [await self._files.attachment(file) for file in given.get("files") or ()]
        text = given.get("value") or ""
        request = await self.request(place, attachments=files, text=text, is_whispered=not ts)
        await self.bot.press(name, value, request, SlackReply(self.workspace, place, "", body["trigger_id"]))

    async def _on_shortcut(self, body: dict[str, Any]) -> None:
        """The message menu."""
        message = body["message"]
        place = Place(
            channel=body["channel"]["id"],
            user=body["user"]["id"],
            ts=message["ts"],
            thread=message.get("thread_ts", ""),
        )
        files = [await self._files.attachment(file) for file in files_in(message)]
        request = await self.request(place, attachments=files)
        reply = SlackReply(self.workspace, place, body["response_url"], body["trigger_id"])
        await self.bot.run("learn", request, reply)

    # Requests

    def key(self, place: Place) -> str:
        return channel_key(self.workspace.me.team, place)

    async def request(self, place: Place, *, attachments: Sequence[Attachment] = (), **given: Any) -> Request:
        person = await self.workspace.person(place.user)
        return Request(
            channel=self.key(place),
            user=f"slack:{self.workspace.me.team}:{place.user}",
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
        return at_home and (person.is_admin or await self.workspace.creator(place.channel) == place.user)
