"""How the bot answers on Slack, and the messages that it edits afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

from slack_sdk.errors import SlackApiError
from slack_sdk.webhook.async_client import AsyncWebhookClient

from bot import render
from bot.chat import Live, Message, Reply, Undelivered
from bot.platforms.common import BUTTON, PICTURE, PostedMessage, sending
from bot.platforms.slack.blocks import EMOJI, to_blocks
from bot.platforms.slack.errors import FOREIGN, THREAD_CLOSED, TROUBLE, code, is_final, will_pass
from bot.platforms.slack.payloads import Place
from bot.platforms.slack.workspace import LOOK_UP_TIMEOUT, Workspace
from core.errors import Refused

log = logging.getLogger(__name__)

STATUS_FOR = 90  # seconds
INVITE_ME = "I am not in this channel. Invite me with /invite, then try again."

may_repeat: ContextVar[bool] = ContextVar("may_repeat", default=False)  # an earlier process may have answered already


class SlackReply(Reply):
    """Answers in the thread of what was said. What only the asker may see goes through the response URL, which lives
    for 30 minutes, or as an ephemeral message."""

    def __init__(self, workspace: Workspace, place: Place, url: str = "", trigger: str = "") -> None:
        self._workspace = workspace
        self._place = place
        self._url = url if workspace.is_slacks_own(url) else ""
        self._origin = trigger or place.ts
        self._root = place.root
        self._status_in = ""  # thread in which it says that an answer is coming
        self.thread = ""
        self.shows_question = bool(place.ts) and not trigger

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        with sending(will_pass):
            if replace and self._url and await self._respond(message, replace_original=True):
                return
            if (private or replace) and not self._place.is_dm:
                await self._whisper(message)
                await self._clear_status()
                if message.picture:
                    await self._show(message)
                return
            if thread == "" and self.shows_question and not (self._place.thread or self._place.is_dm):
                self._root = ""  # in the channel itself; people may go on in a thread below it
            try:
                ts = await self._post_somewhere(message)
                self.thread = self._root or ts
                await self._clear_status()
            except SlackApiError as problem:
                if code(problem) not in FOREIGN or not self._url:
                    raise
                await self._respond(message)

    async def post(self, message: Message) -> Live:
        with sending(will_pass):
            try:
                ts = await self._post(message)
            except SlackApiError as problem:
                if code(problem) in FOREIGN and self._url:
                    raise Refused(INVITE_ME) from None
                raise
        return Posted(self._workspace, self._place.channel, self._root, ts, self._place.ts)

    async def _post_somewhere(self, message: Message) -> str:
        """In the channel, when the thread takes no more."""
        try:
            return await self._post(message)
        except SlackApiError as problem:
            if code(problem) not in THREAD_CLOSED or not self._root or self._place.is_dm:
                raise
            self._root = ""
            return await self._post(message)

    async def _post(self, message: Message) -> str:
        tag = tag_of(self._place.channel, self._origin, message)
        if may_repeat.get():
            self._workspace.may_have_posted(tag)
        return await self._workspace.post(self._place.channel, self._root, message, tag)

    async def _whisper(self, message: Message) -> None:
        """An ephemeral message shows in a thread only where there is one already."""
        if self._url and await self._respond(message):
            return
        thread = self._place.thread or None
        shown = to_blocks(message, native=False)  # whether it takes more there is not documented
        await self._workspace.web.chat_postEphemeral(
            channel=self._place.channel, user=self._place.user, thread_ts=thread, **shown
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
        shown = to_blocks(message, native=False)  # a refusal here comes without a reason
        body = {"response_type": "ephemeral", "replace_original": replace_original, **shown}
        if self._place.thread:
            body["thread_ts"] = self._place.thread
        answer = await AsyncWebhookClient(self._url).send_dict(body)
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Undelivered from OSError(f"status {answer.status_code}")
        return answer.status_code == 200

    @contextlib.asynccontextmanager
    async def thinking(self) -> AsyncIterator[None]:
        """Slack takes the status away with the next message in the thread; there is none after a failure, or when the
        answer stands in the channel."""
        status = asyncio.create_task(self._keep_status())
        try:
            yield
        except BaseException:
            status.cancel()
            await self._status("")
            raise
        finally:
            status.cancel()
        self._status_in = self._root or self._place.ts

    async def _keep_status(self) -> None:
        """Slack takes it away after two minutes."""
        while True:
            await self._status(render.THINKING, loading_messages=[*render.LOADING])
            await asyncio.sleep(STATUS_FOR)

    async def _status(self, status: str, **more: Any) -> None:
        """Works where Slack knows the app as an agent; elsewhere it fails, and nothing is lost."""
        if thread := self._status_in or self._root or self._place.ts:
            with contextlib.suppress(*TROUBLE):
                async with asyncio.timeout(LOOK_UP_TIMEOUT):
                    await self._workspace.web.assistant_threads_setStatus(
                        channel_id=self._place.channel, thread_ts=thread, status=status, **more
                    )

    async def _clear_status(self) -> None:
        """Where the answer went elsewhere."""
        if self._status_in and self._status_in != self._root:
            await self._status("")
        self._status_in = ""

    async def react(self, emoji: str) -> None:
        with contextlib.suppress(*TROUBLE):
            await self._workspace.web.reactions_add(
                channel=self._place.channel, timestamp=self._place.ts, name=EMOJI[emoji]
            )

    async def name_of(self, user: str) -> str:
        platform, _, rest = user.partition(":")
        return (await self._workspace.person(rest.rpartition(":")[2])).name if platform == "slack" else ""


class Posted(PostedMessage):
    """Known by channel, thread and time stamp.

    Args:
        origin: time stamp of what it answers.
        again: an earlier process may have told the end.
    """

    def __init__(
        self, workspace: Workspace, channel: str, thread: str, ts: str, origin: str = "", *, again: bool = False
    ) -> None:
        address = f"slack:{workspace.me.team}:{channel}:{thread}:{ts}:{origin}"
        super().__init__(address, workspace.edits, TROUBLE, will_pass, is_final)
        self._workspace = workspace
        self._channel, self._thread, self._ts = channel, thread, ts
        self._again = again

    def _age(self) -> float:
        return time.time() - float(self._ts)

    async def _update(self, message: Message) -> None:
        await self._workspace.deliver(self._workspace.web.chat_update, message, channel=self._channel, ts=self._ts)

    async def _post_end(self, message: Message) -> None:
        tag = tag_of(self._channel, self._ts, message)
        if self._again:
            self._workspace.may_have_posted(tag)
        await self._workspace.post(self._channel, self._thread, message, tag)

    async def _delete(self) -> None:
        await self._workspace.web.chat_delete(channel=self._channel, ts=self._ts)


def tag_of(channel: str, origin: str, message: Message) -> str:
    """The same for an answer that is given again, whose buttons carry new ids, and whose small print may differ."""
    said = f"{channel} {origin} {message.asked} {message.title} {message.text}"
    return f"{BUTTON}:" + hashlib.sha256(said.encode()).hexdigest()[:24]
