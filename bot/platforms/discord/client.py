"""Discord's events into requests."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import discord

from bot.chat import Live, Request, Unfinished
from bot.commands import ACTIONS, Bot, Command, Form, Option, upload_deleted
from bot.platforms.common import BUTTON, THREADS_FOR, Conversations, erase_all
from bot.platforms.discord.commands import command_tree
from bot.platforms.discord.connection import Connection
from bot.platforms.discord.errors import TROUBLE
from bot.platforms.discord.forms import ActionForm
from bot.platforms.discord.payloads import (
    asked,
    attachments,
    channel_key,
    files_of,
    goes_on,
    heard,
    is_away,
    is_mentioned,
    people_meant,
)
from bot.platforms.discord.replies import InteractionReply, MessageReply, Posted, say_in
from bot.platforms.recent import Recent
from core.errors import StorageFailed

log = logging.getLogger(__name__)

DEFER_AFTER = 1.0  # seconds without an answer to a command after which it is deferred; Discord waits for 3
SHARE = "share"  # the button that makes an answer public
LOOK_BACK = datetime.timedelta(hours=1)  # older mentions that nobody heard are not answered any more


class Client(Connection):
    """Turns events into requests. Without the message content intent it sees mentions, direct messages and commands."""

    def __init__(self, bot: Bot | None, *, patience: float = DEFER_AFTER, **options: Any) -> None:
        super().__init__(**options)
        self.bot: Bot = bot  # type: ignore[assignment]  # None only to sync commands
        self._serves = bot is not None
        self._patience = patience
        self.tree = command_tree(self, self)
        self.conversations = Conversations()
        self._began_threads = Recent(THREADS_FOR)  # thread -> whether the bot's message began it
        self.was_ready = False
        self._left: list[tuple[str, str]] = []  # keys of messages that an earlier process did not work off

    async def setup_hook(self) -> None:
        if self._serves:
            self._left = await self.bot.service.inbox.unhandled("discord:")  # before anything new comes in

    async def on_ready(self) -> None:
        if not self.was_ready:
            self.was_ready = True
            log.info("on Discord as %s in %d servers", self.user, len(self.guilds))
            await self.bot.resume(self.reopen)
            await self._take_up()
            await self._look_back()

    async def reopen(self, address: str) -> Live | None:
        platform, _, rest = address.partition(":")
        if platform != "discord":
            return None
        channel, message, *origin = rest.split(":")  # no origin before version 5 of the index
        return Posted(self, int(channel), int(message), *map(int, origin))

    async def on_message(self, message: discord.Message) -> None:
        if not _is_a_persons(message):
            return
        if await self._is_meant(message):
            await self._hear(message)

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        """A mention that was added is heard; a question that was heard before is not answered again."""
        message = payload.message
        if not _is_a_persons(message) or not message.edited_at or message.guild is None:
            return
        if is_mentioned(message, self.own_id):
            await self._hear(message)

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        await self._deleted(payload.guild_id, payload.channel_id, {payload.message_id})

    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        await self._deleted(payload.guild_id, payload.channel_id, payload.message_ids)

    async def _deleted(self, guild: int | None, channel_id: int, messages: set[int]) -> None:
        """Messages, perhaps with documents: see `upload_deleted`."""
        channel = self.get_channel(channel_id)
        if guild is None or channel is None:
            return
        gone = {str(number) for number in messages}
        await upload_deleted(
            self.bot,
            channel_key(guild, channel),
            lambda address: address.rpartition(":")[2] in gone,
            partial(say_in, channel),
        )

    async def _hear(self, message: discord.Message, *, again: bool = False) -> None:
        """Noted until it is handled, since Discord tells nothing twice: the next process then looks at it again."""
        inbox, key = self.bot.service.inbox, f"discord:{message.channel.id}:{message.id}"
        with contextlib.suppress(StorageFailed):  # the handler will say so
            if not await inbox.receive(key, "noted") and not again:
                return
        try:
            await self.bot.hear(heard(message, self), MessageReply(self, message))
        except Unfinished:
            return
        with contextlib.suppress(StorageFailed):
            await inbox.handled(key)

    async def _take_up(self) -> None:
        """What an earlier process was told and did not work off. Posting the same again makes no second message."""
        for key, _ in self._left:
            _, channel, number = key.split(":")
            try:
                place: Any = self.get_channel(int(channel)) or await self.fetch_channel(int(channel))
                message = await place.fetch_message(int(number))  # its links to files are new
            except TROUBLE as problem:
                log.warning("a message of an earlier process could not be looked at: %s", type(problem).__name__)
                await self.bot.service.inbox.handled(key)
            else:
                if self.receives_guild(message.guild.id if message.guild else 0):
                    self.bot.spawn(self._hear(message, again=True))

    async def _look_back(self) -> None:
        """What was said to the bot while no process was there: mentions in channels that have taught something and in
        their threads, and direct messages. What was heard before is in the inbox, and not heard again."""
        since = discord.utils.utcnow() - LOOK_BACK
        for key in await self.bot.service.channels("discord:"):
            guild = key.split(":")[1]
            if not self.receives_guild(int(guild) if guild.isdecimal() else 0):
                continue
            with contextlib.suppress(*TROUBLE):
                for place in await self._places(key):
                    async for message in place.history(limit=50, after=since):
                        if _is_a_persons(message) and (message.guild is None or is_mentioned(message, self.own_id)):
                            self.bot.spawn(self._hear(message))

    async def _places(self, key: str) -> list[Any]:
        """Where a channel of the bot is talked to; those that are known to be quiet are left out."""
        kind, _, number = key.removeprefix("discord:").rpartition(":")
        if kind == "dm":
            return [await (await self.fetch_user(int(number))).create_dm()]
        channel: Any = self.get_channel(int(number))
        places = [channel] if isinstance(channel, discord.abc.Messageable) else []  # a forum has threads alone
        return [place for place in (*places, *getattr(channel, "threads", ())) if _may_have_news(place)]

    async def _is_meant(self, message: discord.Message) -> bool:
        """Is this said to the bot, or in a conversation with it? In the bot's threads and answers people need no
        mention, unless they talk to each other."""
        if message.guild is None or is_mentioned(message, self.own_id):
            self.conversations.end(message.channel.id)
            return True
        if not (message.content or message.attachments):
            return False  # without the intent, all other texts come empty
        if not isinstance(message.channel, discord.Thread):
            return goes_on(message, self.own_id)
        return not self._is_to_others(message) and await self._is_own(message.channel)

    def _is_to_others(self, message: discord.Message) -> bool:
        people = people_meant(message, self.own_id)
        to_all = bool(message.role_mentions) or message.mention_everyone
        return self.conversations.is_to_others(message.channel.id, message.author.id, people, to_all)

    async def _is_own(self, thread: discord.Thread) -> bool:
        """Did the bot open it, or does it hang on one of the bot's messages?"""
        if thread.owner_id == self.own_id:
            return True
        if self._began_threads.get(thread.id) is None:
            began = False
            with contextlib.suppress(*TROUBLE, AttributeError):  # a parent that is not known
                parent: Any = thread.parent
                began = (await parent.fetch_message(thread.id)).author.id == self.own_id
            self._began_threads.put(thread.id, began)
        return bool(self._began_threads.get(thread.id))

    async def on_interaction(self, interaction: discord.Interaction) -> None:
        """Buttons; commands go through the tree."""
        data: Any = interaction.data or {}
        custom_id = str(data.get("custom_id", ""))
        brand, _, rest = custom_id.partition(":")
        if interaction.type is discord.InteractionType.component and brand == BUTTON:
            action, _, value = rest.partition(":")
            await self._press(interaction, action, value)

    async def _press(self, interaction: discord.Interaction, action: str, value: str) -> None:
        form = ACTIONS[action].form if action in ACTIONS else None
        if form and await self._ask_by_form(interaction, form, action, value):
            return
        public = action in ACTIONS and ACTIONS[action].public
        reply = InteractionReply(self, interaction, whispers=is_away(interaction) and action != SHARE)
        async with reply.in_time(self._patience if public else None):
            await self.bot.press(action, value, self._asked(interaction), reply)

    async def _ask_by_form(
        self,
        interaction: discord.Interaction,
        form: Form,
        action: str,
        value: str,
        arguments: dict[str, Any] | None = None,
    ) -> bool:
        """False when Discord did not open it. `arguments`: of the request that the form leads to."""

        async def submit(given: discord.Interaction, text: str, files: Sequence[discord.Attachment]) -> None:
            reply = InteractionReply(self, given, whispers=is_away(given))
            async with reply.in_time(self._patience if ACTIONS[action].public else None):
                await self.bot.press(action, value, replace(self._asked(given, arguments, files), text=text), reply)

        try:
            await interaction.response.send_modal(ActionForm(form, submit))
        except TROUBLE as problem:
            log.warning("a form could not be opened: %s", type(problem).__name__)
            return False
        return True

    async def command(self, command: Command, interaction: discord.Interaction, arguments: dict[str, Any]) -> None:
        files = [value for value in arguments.values() if isinstance(value, discord.Attachment)]
        form = ACTIONS[command.asks_by].form if command.asks_by and not files else None
        if form and await self._ask_by_form(interaction, form, command.asks_by, "", arguments):
            return
        away = is_away(interaction)
        request = self._asked(interaction, arguments | ({"private": True} if away else {}), files)
        reply = InteractionReply(self, interaction, whispers=away)
        async with reply.in_time(self._patience, private=command.is_private(request)):
            await self.bot.run(command.name, request, reply)

    async def suggest(self, option: Option, interaction: discord.Interaction, typed: str) -> list[tuple[str, str]]:
        return await self.bot.suggest(option, self._asked(interaction), typed)

    async def learn_message(self, interaction: discord.Interaction, message: discord.Message) -> None:
        """The message menu."""
        reply = InteractionReply(self, interaction, whispers=is_away(interaction))
        async with reply.in_time(self._patience):
            await self.bot.run("learn", self._asked(interaction, files=files_of(message)), reply)

    def _asked(
        self,
        interaction: discord.Interaction,
        arguments: dict[str, Any] | None = None,
        files: Sequence[discord.Attachment] = (),
    ) -> Request:
        return asked(interaction, arguments or {}, attachments(files, self.file_hosts))

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        """Nobody can ask or erase there any more."""
        await self.bot.service.reset(channel_key(channel.guild.id, channel))

    async def on_raw_thread_delete(self, payload: discord.RawThreadDeleteEvent) -> None:
        """A private one has taught itself alone."""
        if payload.thread_type is discord.ChannelType.private_thread:
            await self.bot.service.reset(f"discord:{payload.guild_id}:{payload.thread_id}")

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        """Thrown out of a server: what it taught is erased."""
        await erase_all(self.bot.service, f"discord:{guild.id}:")

    async def on_error(self, event_method: str, /, *_args: Any, **_kwargs: Any) -> None:
        log.exception("an event could not be handled: %s", event_method)


def _is_a_persons(message: discord.Message) -> bool:
    return not (message.author.bot or message.webhook_id or message.is_system())


def _may_have_news(place: Any) -> bool:
    last = place.last_message_id
    return last is None or discord.utils.snowflake_time(last) > discord.utils.utcnow() - LOOK_BACK
