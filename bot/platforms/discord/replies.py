"""How the bot answers on Discord, and the messages that it edits afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import discord

from bot import render
from bot.chat import Live, Message, Reply
from bot.escape import clip, without_mentions
from bot.platforms.common import PostedMessage, sending
from bot.platforms.discord.components import to_arguments
from bot.platforms.discord.connection import Connection
from bot.platforms.discord.errors import DEAD_TOKEN, THREAD_EXISTS, TROUBLE, is_closed, is_final, will_pass
from bot.platforms.discord.payloads import text_of, thread_of
from core.document.text import one_line
from core.errors import Refused

log = logging.getLogger(__name__)

MAX_THREAD_NAME = 100  # Discord's limit, in characters


class MessageReply(Reply):
    """Answers a message: by a reply, or in a thread of its own where that is wanted and possible."""

    shows_question = True

    def __init__(self, client: Connection, message: discord.Message) -> None:
        self.thread = ""
        self._client = client
        self._message = message
        self._thread: discord.Thread | None = None  # kept, so that trying again does not open another
        self._sent = 0  # messages, so that two that say the same are two

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        with sending(will_pass):
            if thread and isinstance(self._message.channel, discord.TextChannel):
                self._thread = self._thread or await _open_thread(self._message, thread)
            if self._thread:
                await self._send(self._thread, message)
                self.thread = str(self._thread.id)
                return
            sent = await self._reply(message)
            self.thread = thread_of(sent.channel) or str(sent.id)  # a thread at a message has its number

    async def post(self, message: Message) -> Live:
        with sending(will_pass):
            sent = await self._reply(message)
        return Posted(self._client, sent.channel.id, sent.id, self._message.id)

    async def _reply(self, message: Message) -> discord.Message:
        """In the channel of a thread, when the thread takes no more."""
        channel = self._message.channel
        try:
            reference = self._message.to_reference(fail_if_not_exists=False)
            return await self._send(channel, message, reference=reference)
        except discord.HTTPException as problem:
            if not (isinstance(channel, discord.Thread) and channel.parent and is_closed(problem)):
                raise
            asked = message.asked or render.asked_by(
                self._message.author.display_name, text_of(self._message, self._client.own_id)
            )
            return await self._send(channel.parent, replace(message, asked=asked))

    async def _send(self, channel: Any, message: Message, **options: Any) -> discord.Message:
        sent = await _send(channel, message, to=self._message.id, number=self._sent, **options)
        self._sent += 1
        return sent

    async def react(self, emoji: str) -> None:
        with contextlib.suppress(*TROUBLE):
            await self._message.add_reaction(emoji)

    @contextlib.asynccontextmanager
    async def thinking(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.suppress(*TROUBLE):
                await stack.enter_async_context(self._message.channel.typing())
            yield

    async def name_of(self, user: str) -> str:
        return await _name_of(self._client, self._message.guild, user)


async def say_in(channel: Any, message: Message) -> None:
    """Something that nobody has just asked for. Raises: Undelivered."""
    with sending(will_pass):
        await _send(channel, message, to=channel.id)


class InteractionReply(Reply):
    """Answers a command or a button. The interaction's token dies after 15 minutes; then the channel itself is used.

    A deferral fixes whether the first answer is private. Refusals are quick, so a command is deferred only when there
    is no answer after a second; a public deferral is taken back where the answer is private after all.

    Args:
        whispers: all that is said is private, and what lasts is told in direct messages.
    """

    shows_question = False

    def __init__(self, client: Connection, interaction: discord.Interaction, *, whispers: bool = False) -> None:
        self.thread = ""
        self._whispers = whispers
        self._announced = False  # everybody sees that an answer is coming
        self._client = client
        self._interaction = interaction
        self._alive = True
        self._acknowledging = asyncio.Lock()
        self._sent = 0

    @contextlib.asynccontextmanager
    async def in_time(self, patience: float | None, *, private: bool = False) -> AsyncIterator[None]:
        """Acknowledge within 3 seconds what is handled inside; the answer may then take 15 minutes.

        Args:
            patience: seconds after which people see that an answer is coming; None: it is acknowledged at once, and
                nobody sees it.
            private: only the asker does.
        """
        if patience is None:
            await self._defer(thinking=False)
            yield
            return
        waiting = asyncio.create_task(self._defer_after(patience, private))
        try:
            yield
        finally:
            waiting.cancel()

    async def _defer_after(self, seconds: float, private: bool) -> None:
        await asyncio.sleep(seconds)
        async with self._acknowledging:
            if not self._interaction.response.is_done():
                private = private or self._whispers
                await self._defer(thinking=True, ephemeral=private)
                self._announced = not private

    async def _defer(self, **how: bool) -> None:
        try:
            await self._interaction.response.defer(**how)
        except TROUBLE as problem:
            log.warning("an interaction could not be acknowledged in time: %s", type(problem).__name__)
            self._alive = False

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        with sending(will_pass):
            if replace and self._alive:
                await self._interaction.edit_original_response(**to_arguments(message, self._channel, edit=True))
                return
            private = private or self._whispers
            sent = await self._send(message, private)
            if sent and not private:
                self.thread = thread_of(self._channel) or str(sent.id)

    async def post(self, message: Message) -> Live:
        if self._whispers:
            return await self._post_to_person(message)
        rights = self._interaction.app_permissions
        if self._interaction.guild_id and not (rights.view_channel and rights.send_messages):
            raise Refused("I may not write here; somebody who manages this channel can give me that right.")
        with sending(will_pass):
            sent = await self._send(message, private=False)
        target = getattr(self._interaction.data, "get", lambda _: None)("target_id")  # whose menu was used
        return Posted(self._client, sent.channel.id, sent.id, int(target or 0))

    async def _post_to_person(self, message: Message) -> Live:
        """Raises: Refused."""
        with sending(will_pass):
            try:
                direct = await self._interaction.user.create_dm()
                sent = await _send(direct, message, to=self._interaction.id, number=self._sent)
            except discord.Forbidden:
                raise Refused("I can't write to you; allow direct messages from me, then try again.") from None
            self._sent += 1
            await self._send(
                render.note("Look into our direct messages: there I tell you when I know it."), private=True
            )
        return Posted(self._client, direct.id, sent.id)

    @property
    def _channel(self) -> Any:
        return self._interaction.channel

    async def _send(self, message: Message, private: bool) -> Any:
        if self._alive:
            try:
                return await self._answer(to_arguments(message, self._channel), private)
            except discord.HTTPException as problem:
                if problem.code not in DEAD_TOKEN:
                    raise
                self._alive = False
        if private:
            log.warning("a private answer came too late to be shown")
            return None
        sent = await _send(self._channel, message, to=self._interaction.id, number=self._sent)
        self._sent += 1
        return sent

    async def _answer(self, arguments: dict[str, Any], private: bool) -> Any:
        """The response itself where that is still to come; else what follows it."""
        async with self._acknowledging:
            if self._interaction.response.is_done():
                if private and self._announced:
                    await self._interaction.delete_original_response()
                self._announced = False
                return await self._interaction.followup.send(wait=True, ephemeral=private, **arguments)
            answered = await self._interaction.response.send_message(ephemeral=private, **arguments)
            return answered.resource or await self._interaction.original_response()

    async def react(self, emoji: str) -> None:
        pass  # there is no message

    @contextlib.asynccontextmanager
    async def thinking(self) -> AsyncIterator[None]:
        yield  # Discord shows it from the deferral on

    async def name_of(self, user: str) -> str:
        return await _name_of(self._client, self._interaction.guild, user)


class Posted(PostedMessage):
    """Known by channel and id, edited with the bot's own token. `origin`: what it answers."""

    def __init__(self, client: Connection, channel: int, message: int, origin: int = 0) -> None:
        super().__init__(f"discord:{channel}:{message}:{origin}", client.edits, TROUBLE, will_pass, is_final)
        self._origin = origin
        self._channel: Any = client.get_channel(channel)
        self._channel = self._channel or client.get_partial_messageable(channel)
        self._message = self._channel.get_partial_message(message)

    def _age(self) -> float:
        return (discord.utils.utcnow() - self._message.created_at).total_seconds()

    async def _update(self, message: Message) -> None:
        await self._message.edit(**to_arguments(message, self._channel, edit=True))

    async def _post_end(self, message: Message) -> None:
        reference = discord.MessageReference(
            message_id=self._origin or self._message.id, channel_id=self._channel.id, fail_if_not_exists=False
        )
        await _send(self._channel, message, to=self._message.id, reference=reference)

    async def _delete(self) -> None:
        await self._message.delete()


async def _send(channel: Any, message: Message, *, to: int, number: int = 0, **options: Any) -> discord.Message:
    """Post something in answer to a message or interaction. Trying again is safe when nobody knows whether it arrived:
    of several messages with the same nonce within some minutes Discord keeps one. `number`: of messages before it."""
    nonce = hashlib.sha256(f"{to} {number} {message}".encode()).hexdigest()[:25]
    return await channel.send(nonce=nonce, **to_arguments(message, channel), **options)


async def _open_thread(message: discord.Message, name: str) -> discord.Thread | None:
    """A thread at a message, or the one that is there already; None where Discord refuses it, for whatever reason."""
    try:
        return await message.create_thread(name=clip(without_mentions(one_line(name)), MAX_THREAD_NAME))
    except discord.HTTPException as problem:
        if problem.code == THREAD_EXISTS:
            return await message.fetch_thread()
        if problem.status >= 500 or problem.status == 429:
            raise
        log.info("Discord refused a thread: error %d", problem.code)
        return None


async def _name_of(client: Connection, guild: discord.Guild | None, user: str) -> str:
    platform, _, number = user.rpartition(":")
    if platform != "discord":
        return ""
    known = (guild and guild.get_member(int(number))) or client.get_user(int(number))
    with contextlib.suppress(*TROUBLE):
        return (known or await client.fetch_user(int(number))).display_name
    return ""
