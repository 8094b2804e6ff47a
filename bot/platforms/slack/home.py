"""The app's Home tab: what the channels of a person know, who brought it, and buttons to forget it; and the questions
that Slack suggests where somebody opens the app's messages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from itertools import chain, islice, zip_longest

from bot import render
from bot.chat import Message, Request
from bot.commands import Bot, Permission, owns, require
from bot.platforms.slack.blocks import HOME_BLOCKS, home_document, home_text
from bot.platforms.slack.errors import TROUBLE, code
from bot.platforms.slack.manifest import PROMPTS
from bot.platforms.slack.payloads import OWN_MESSAGES, Place, channel_key
from bot.platforms.slack.replies import SlackReply
from bot.platforms.slack.workspace import Workspace
from core.errors import NotAllowed

log = logging.getLogger(__name__)

MAX_PROMPTS = 4  # that Slack shows
Ask = Callable[[Place], Awaitable[Request]]  # who somebody is in a place


class HomeReply(SlackReply):
    """What is said to a button of the Home tab stands on top of it."""

    notice = ""

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        self.notice = message.title or message.text


class Home:
    def __init__(self, bot: Bot, workspace: Workspace, request: Ask) -> None:
        self._bot, self._workspace, self._request = bot, workspace, request

    async def publish(self, user: str, notice: str = "") -> None:
        """Show it anew to one person. Never fails: Slack shows it again when it is opened again."""
        blocks = [home_text(notice)] if notice else []
        blocks.append(home_text(render.HOME, small=render.DISCLAIMER))
        for place in [Place(OWN_MESSAGES, user), *await self._shared(user)]:
            blocks += await self._documents(place)
        view = {"type": "home", "blocks": blocks[:HOME_BLOCKS]}
        with contextlib.suppress(*TROUBLE):
            await self._workspace.web.views_publish(user_id=user, view=view)

    async def forget(self, value: str, user: str) -> None:
        """The button of a document: "CHANNEL/DOCUMENT"."""
        channel, _, document_id = value.partition("/")
        place = Place(channel, user)
        reply = HomeReply(self._workspace, place)
        await self._bot.press("forget", document_id, await self._request(place), reply)
        await self.publish(user, reply.notice)

    async def suggest(self, place: Place, thread: str = "") -> None:
        """What one can ask in the app's messages: a question about each document, then more of them. Never fails.

        Args:
            thread: of an app of the older kind, whose conversations are threads; "": none.
        """
        key = channel_key(self._workspace.me.team, place)
        known, coming = await self._bot.service.documents(key), await self._bot.service.jobs(key)
        by_document = [filter(render.reads_well, document.questions) for document in known]
        asked = filter(None, chain.from_iterable(zip_longest(*by_document)))
        prompts = [{"title": text, "message": text} for text in islice(asked, MAX_PROMPTS)] or PROMPTS
        title = render.small_talk("greeting", known, coming, is_dm=True).text
        with contextlib.suppress(*TROUBLE):
            await self._workspace.web.assistant_threads_setSuggestedPrompts(
                channel_id=place.channel, thread_ts=thread or None, title=title, prompts=prompts
            )

    async def _shared(self, user: str) -> list[Place]:
        """The channels of a person of which anything is stored."""
        prefix = f"slack:{self._workspace.me.team}:"
        taught = {channel.removeprefix(prefix) for channel in await self._bot.service.channels(prefix)}
        try:
            joined = await self._workspace.channels_of(user)
        except TROUBLE as problem:
            log.warning("Slack does not say which channels somebody is in: %s", code(problem))
            return []
        return [Place(channel, user) for channel in joined if channel in taught]

    async def _documents(self, place: Place) -> list[dict[str, object]]:
        known = await self._bot.service.documents(channel_key(self._workspace.me.team, place))
        if not known:
            return []
        request = await self._request(place)
        blocks = [home_text("", channel="" if place.channel == OWN_MESSAGES else place.channel)]
        for document in known:
            platform, _, owner = document.learned_by.partition(":")
            owner = owner.rpartition(":")[2] if platform == "slack" else ""
            may_forget = owns(document.learned_by, request) and _may(request)
            about = render.about_document(document)
            blocks.append(home_document(document.name, about, owner, f"{place.channel}/{document.id}", may_forget))
        return blocks


def _may(request: Request) -> bool:
    try:
        require(Permission.MEMBER, request)
    except NotAllowed:
        return False
    return True
