"""One workspace: what the bot asks Slack about people and messages, and what it posts there."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from html import unescape
from typing import Any

import yarl
from aiolimiter import AsyncLimiter
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.chat import Message
from bot.platforms.common import is_from
from bot.platforms.recent import Recent
from bot.platforms.slack.blocks import to_blocks
from bot.platforms.slack.errors import REFUSED_BLOCKS, TROUBLE, code
from bot.platforms.slack.payloads import Me, Person, person_of

log = logging.getLogger(__name__)

HOOK_HOST = yarl.URL("https://hooks.slack.com")  # of response URLs
PEOPLE_FOR, UNKNOWN_FOR, EVENTS_FOR = 300, 30, 600  # seconds that something is remembered
MAX_MENTIONS = 10  # people that one message mentions and who are looked up
MAX_MESSAGES = 50  # messages of a channel that are looked at after a restart
MAX_CHANNELS = 1_000  # channels of a person that are looked at
MAX_TEXT = 4_000  # characters of a message; a question may have 1,000
LOOK_UP_TIMEOUT = 5  # seconds for a question to Slack that we can do without


class Workspace:
    def __init__(self, me: Me, web: AsyncWebClient, edits: AsyncLimiter) -> None:
        self.me, self.web = me, web
        self.edits = edits  # progress edits of all channels
        self.native = True  # it takes the blocks that Slack has for agents, as far as is known
        self._people = Recent(PEOPLE_FOR)
        self._unknown = Recent(UNKNOWN_FOR)
        self._creators = Recent(PEOPLE_FOR)
        self._unsure = Recent(EVENTS_FOR)  # tags of messages that may have arrived

    # People and messages

    async def person(self, user: str) -> Person:
        """Somebody whom Slack does not tell us about is unknown, for a while: that is asked for once. Never fails."""
        if (known := self._people.get(user) or self._unknown.get(user)) is None:
            try:
                known = person_of((await self.web.users_info(user=user))["user"], self.me)
            except TROUBLE as problem:
                log.warning("Slack does not say who %s is: %s", user, code(problem))
                known = Person(is_known=False)
                self._unknown.put(user, known)
            else:
                self._people.put(user, known)
        return known

    async def creator(self, channel: str) -> str:
        """Who made a channel, and so may manage it. Never fails."""
        if (known := self._creators.get(channel)) is None:
            try:
                known = (await self.web.conversations_info(channel=channel))["channel"].get("creator") or ""
            except TROUBLE as problem:
                log.debug("Slack does not say who made %s: %s", channel, code(problem))
                return ""
            self._creators.put(channel, known)
        return known

    async def channels_of(self, user: str) -> list[str]:
        """Ids of the channels that somebody is in, as far as the bot may know. Raises: TROUBLE."""
        ids: list[str] = []
        kinds = "public_channel,private_channel"
        async for page in await self.web.users_conversations(user=user, types=kinds, limit=200, exclude_archived=True):
            ids += [channel["id"] for channel in page["channels"]]
            if len(ids) >= MAX_CHANNELS:
                break
        return ids

    async def message(self, channel: str, ts: str, thread: str = "") -> dict[str, Any]:
        """One message as it stands in its channel or thread; {} when Slack does not show it soon."""
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT):
                answer = await self.web.conversations_replies(
                    channel=channel, ts=thread or ts, oldest=ts, latest=ts, inclusive=True, limit=1
                )
        except TROUBLE as problem:
            log.warning("a message could not be looked up: %s", code(problem))
            return {}
        return next((message for message in answer["messages"] if message["ts"] == ts), {})

    async def latest(self, channel: str, seconds: float) -> list[dict[str, Any]]:
        """What was said in a channel in the last seconds, threads left out, the oldest first. Never fails."""
        oldest = f"{time.time() - seconds:.6f}"
        try:
            answer = await self.web.conversations_history(channel=channel, oldest=oldest, limit=MAX_MESSAGES)
        except TROUBLE as problem:
            log.warning("what was said meanwhile could not be looked up: %s", code(problem))
            return []
        return [{**message, "channel": channel} for message in answer["messages"][::-1]]

    async def plain_text(self, text: str) -> str:
        """Slack's markup as plain text: without the mention of the bot, other people by name."""
        text = re.sub(rf"<@{self.me.user}(\|[^>]*)?>", " ", text[:MAX_TEXT])
        mentioned = dict.fromkeys(re.findall(r"<@(\w+)", text))
        names = {user: (await self.person(user)).name for user in [*mentioned][:MAX_MENTIONS]}

        def shown(match: re.Match[str]) -> str:
            sign, what, label = match.groups(default="")
            if sign == "@":
                return f"@{names.get(what) or label or what}"
            if sign == "!":
                return f"@{(label or what.split('^')[0]).removeprefix('@')}"
            return f"{sign}{label or what}"

        return " ".join(unescape(re.sub(r"<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>", shown, text)).split())

    # Posting

    def is_slacks_own(self, url: str) -> bool:
        """May an answer be sent there?"""
        return is_from(url, (HOOK_HOST, yarl.URL(self.web.base_url).origin()))

    async def post(self, channel: str, thread: str, message: Message, tag: str) -> str:
        """Post once, and return the time stamp. When nobody knows whether an earlier try arrived, look first: the tag
        stands on the message as the id of its first block. Raises: SlackApiError and others of TROUBLE."""
        if self._unsure.get(tag) and (ts := await self._find(channel, thread, tag)):
            return ts
        self._unsure.put(tag)
        options = {"thread_ts": thread or None, "unfurl_links": False, "unfurl_media": False}
        sent = await self.deliver(self.web.chat_postMessage, message, tag, channel=channel, **options)
        self._unsure.drop(tag)
        return sent["ts"]

    async def deliver(self, send: Callable[..., Awaitable[Any]], message: Message, tag: str = "", **where: Any) -> Any:
        """Hand a message to a method. A workspace that does not take the blocks for agents gets plain ones from then
        on."""
        try:
            return await send(**where, **self._body(message, tag))
        except SlackApiError as problem:
            if code(problem) not in REFUSED_BLOCKS or not self.native:
                raise
        self.native = False
        return await send(**where, **self._body(message, tag))

    def _body(self, message: Message, tag: str) -> dict[str, Any]:
        body = to_blocks(message, native=self.native)
        if tag:
            body["blocks"][0]["block_id"] = tag
        return body

    async def _find(self, channel: str, thread: str, tag: str) -> str:
        if thread:
            answer = await self.web.conversations_replies(channel=channel, ts=thread, limit=200)
        else:
            answer = await self.web.conversations_history(channel=channel, limit=20)
        for message in answer["messages"]:
            if any(block.get("block_id") == tag for block in message.get("blocks") or ()):
                return message["ts"]
        return ""

    def may_have_posted(self, tag: str) -> None:
        self._unsure.put(tag)
