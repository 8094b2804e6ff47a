"""Discord: events into requests, messages into embeds. The one home of discord.py.

Everything that lasts longer than an interaction token (15 minutes) goes through the bot's own token: a progress message
is known by channel and message id, so the next process can go on with it. Buttons carry all they need in their
custom_id, so they outlive a restart without any state.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import inspect
import io
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import discord
import yarl
from aiolimiter import AsyncLimiter
from discord import app_commands

from bot import render
from bot.chat import (
    Attachment,
    Button,
    Field,
    Live,
    Message,
    Reply,
    Request,
    Style,
    Tone,
    Unfinished,
)
from bot.commands import ACTIONS, COMMANDS, Bot, Command, Kind, Permission, upload_deleted
from bot.escape import clip, escape_discord, split, without_mentions
from bot.intents import understand
from bot.platforms import supervise
from bot.platforms.common import (
    BUTTON,
    PICTURE,
    STALE_AFTER,
    THREADS_FOR,
    Conversations,
    PostedMessage,
    bot_options,
    erase_all,
    login_errors,
    require_host,
    sending,
)
from bot.platforms.recent import Recent
from core.errors import Refused, SetupError, StorageFailed
from core.service import MAX_QUESTION

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings

log = logging.getLogger(__name__)

# Discord's limits, in characters
CONTENT, TITLE, DESCRIPTION, FIELD, FOOTER = 2000, 256, 4096, 1024, 2048
FIELDS_TOGETHER = 3200  # an embed may hold 6,000 in all
LABEL, CUSTOM_ID, THREAD_NAME, CHOICE, CHOICES = 80, 100, 100, 100, 25
PER_ROW = 5  # buttons

FILE_HOSTS = {yarl.URL("https://cdn.discordapp.com"), yarl.URL("https://media.discordapp.net")}
PATIENCE = 1.0  # seconds without an answer to a command after which it is deferred; Discord waits for 3
EDITS_PER_SECOND = 4  # progress edits of all channels together

TROUBLE = (discord.DiscordException, aiohttp.ClientError, OSError, asyncio.TimeoutError)
# Error codes
THREAD_EXISTS = 160004
THREAD_CLOSED = (50083, 160005)  # archived, locked
DEAD_TOKEN = (10015, 10062, 50027)  # unknown webhook, unknown interaction, invalid webhook token
TOO_MANY_EDITS = 30046  # a message older than an hour takes no more
FINAL = (10003, 10008, 50001, 50013, TOO_MANY_EDITS)  # channel or message gone, no access, no permission
FINAL_CLOSE_CODES = (4004, 4010, 4011, 4012, 4013, 4014)  # of the gateway: connecting again fails, too
LOOK_UP = 15  # seconds for what `examine` asks
LOOK_BACK = datetime.timedelta(hours=1)  # older mentions that nobody heard are not answered any more
RIGHTS = discord.Permissions(
    view_channel=True,
    send_messages=True,
    send_messages_in_threads=True,
    create_public_threads=True,
    embed_links=True,
    attach_files=True,
    read_message_history=True,
    add_reactions=True,
)

COLOURS = {Tone.PLAIN: 0x99AAB5, Tone.WORKING: 0x5865F2, Tone.GOOD: 0x57F287, Tone.BAD: 0xED4245}
STYLES = {
    Style.PLAIN: discord.ButtonStyle.secondary,
    Style.PRIMARY: discord.ButtonStyle.primary,
    Style.DANGER: discord.ButtonStyle.danger,
}
KINDS = {Kind.TEXT: str, Kind.FILE: discord.Attachment, Kind.YES_NO: bool}


# Starting ------------------------------------------------------------------------------------------------------------


async def serve(app: App, settings: Settings) -> None:
    """Be on Discord until cancelled. Raises: SetupError."""

    def make() -> Client:
        bot = Bot(app.service, hears_follow_ups=settings.discord_message_content, **bot_options(settings))
        return Client(bot, message_content=settings.discord_message_content, proxy=settings.proxy)

    await supervise("Discord", partial(connect, make, _token(settings)))


async def connect(make: Callable[[], Client], token: str) -> None:
    """Run a new client to its end. Raises: SetupError when it can't log in."""
    client = make()
    async with client, client.bot:
        with login_errors(_login_error):
            await client.start(token)


async def sync(settings: Settings) -> int:
    """Tell Discord which commands there are; needed once for each version. Returns their number. Raises: SetupError."""
    client = Client(None, proxy=settings.proxy)
    async with client:
        with login_errors(_login_error):
            await client.login(_token(settings))
            return len(await client.tree.sync())


async def examine(settings: Settings) -> AsyncIterator[tuple[str, str, str, str]]:
    """What Discord says about the token, as (name, state, detail, fix). Raises: SetupError, OSError, TimeoutError."""
    client = Client(None, proxy=settings.proxy)
    async with client, asyncio.timeout(LOOK_UP):
        with login_errors(_login_error):
            await client.login(_token(settings))
        app = await client.application_info()
        link = discord.utils.oauth_url(app.id, permissions=RIGHTS, scopes=("bot", "applications.commands"))
        yield "Discord token", "ok", f"{client.user}, in {app.approximate_guild_count or 0} servers", ""
        if not app.approximate_guild_count:
            yield "Discord servers", "warning", "the bot is in no server", f"Invite it: {link}"
        yield _intent(settings, app.flags)
        known = {command.name for command in await client.tree.fetch_commands()}
        absent = sorted({command.name for command in client.tree.get_commands()} - known)
        detail = f"unknown to Discord: {', '.join(absent)}" if absent else f"{len(known)} registered"
        yield "Discord commands", "warning" if absent else "ok", detail, "Run `python -m bot sync`." if absent else ""


def _intent(settings: Settings, flags: discord.ApplicationFlags) -> tuple[str, str, str, str]:
    """The privileged one; a client that asks for it without having it is turned away."""
    title, granted = "Discord intent", flags.gateway_message_content or flags.gateway_message_content_limited
    if settings.discord_message_content and not granted:
        fix = "Switch on Message Content Intent in the developer portal under Bot, or unset it."
        return title, "error", "ENGRAM_DISCORD_MESSAGE_CONTENT is set, but the app does not have the intent", fix
    if settings.discord_message_content:
        return title, "ok", "message content: follow-ups in the bot's threads need no mention", ""
    return title, "ok", "no message content: mentions, direct messages and commands work", ""


def _token(settings: Settings) -> str:
    if settings.discord_token is None:
        raise SetupError("ENGRAM_DISCORD_TOKEN is not set; the Discord developer portal shows the token under Bot.")
    return settings.discord_token.get_secret_value()


def _login_error(problem: Exception) -> str:
    """What trying again can't heal, in a sentence; "" for what it may."""
    if isinstance(problem, discord.LoginFailure):
        return "Discord does not accept ENGRAM_DISCORD_TOKEN; copy it again from the developer portal."
    if isinstance(problem, discord.PrivilegedIntentsRequired):
        return (
            "Discord refuses the message content intent: switch it on in the developer portal under Bot, "
            "or unset ENGRAM_DISCORD_MESSAGE_CONTENT."
        )
    if isinstance(problem, discord.ConnectionClosed) and problem.code in FINAL_CLOSE_CODES:
        text = "the token is no longer valid" if problem.code == 4004 else f"close code {problem.code}"
        return f"Discord ended the connection for good: {text}."
    return ""


class Client(discord.AutoShardedClient):
    """Turns events into requests. Without the message content intent it sees mentions, direct messages and commands."""

    def __init__(self, bot: Bot | None, *, message_content: bool = False, **options: Any) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, dm_messages=True, message_content=message_content)
        super().__init__(
            intents=intents,
            allowed_mentions=discord.AllowedMentions.none(),
            max_messages=None,
            max_ratelimit_timeout=30.0,  # seconds; longer waits raise RateLimited
            **options,
        )
        self.bot: Bot = bot  # type: ignore[assignment]  # None only to sync commands
        self._serves = bot is not None
        self.tree = _tree(self)
        self.edits = AsyncLimiter(EDITS_PER_SECOND, 1)
        self.conversations = Conversations()
        self._began_threads = Recent(THREADS_FOR)  # thread -> whether the bot's message began it
        self.was_ready = False
        self._left: list[tuple[str, str]] = []  # keys of messages that an earlier process did not work off
        _guard_parsers(self)

    async def setup_hook(self) -> None:
        if self._serves:
            self._left = await self.bot.service.inbox.unhandled("discord:")  # before anything new comes in

    @property
    def own_id(self) -> int:
        assert self.user is not None  # logged in before any event comes
        return self.user.id

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
        if message.author.bot or message.webhook_id or message.is_system():
            return
        if await self._is_meant(message):
            await self._hear(message)

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        """A mention that was added is heard; a question that was heard before is not answered again."""
        message = payload.message
        if message.author.bot or message.webhook_id or not message.edited_at or message.guild is None:
            return
        if self._is_mentioned(message):
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
            ChannelReply(self, channel),
        )

    async def _hear(self, message: discord.Message, *, again: bool = False) -> None:
        """Noted until it is handled, since Discord tells nothing twice: the next process then looks at it again."""
        inbox, key = self.bot.service.inbox, f"discord:{message.channel.id}:{message.id}"
        with contextlib.suppress(StorageFailed):  # the handler will say so
            if not await inbox.receive(key, "noted") and not again:
                return
        try:
            await self.bot.hear(_heard(message, self), MessageReply(self, message))
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
                self.bot.spawn(self._hear(message, again=True))

    async def _look_back(self) -> None:
        """Mentions that came while no process was there, in channels that have taught something. What was heard before
        is in the inbox, and not heard again."""
        for key in await self.bot.service.channels("discord:"):
            channel = self.get_channel(int(key.rpartition(":")[2]))
            if not isinstance(channel, discord.abc.Messageable):
                continue
            with contextlib.suppress(*TROUBLE):
                async for message in channel.history(limit=50, after=discord.utils.utcnow() - LOOK_BACK):
                    if not message.author.bot and not message.webhook_id and self._is_mentioned(message):
                        self.bot.spawn(self._hear(message))

    async def _is_meant(self, message: discord.Message) -> bool:
        """Is this said to the bot, or in a conversation with it? In the bot's threads and answers people need no
        mention, unless they talk to each other."""
        if message.guild is None or self._is_mentioned(message):
            self.conversations.end(message.channel.id)
            return True
        if not (message.content or message.attachments):
            return False  # without the intent, all other texts come empty
        if not isinstance(message.channel, discord.Thread):
            return self._goes_on(message)
        return not self._is_to_others(message) and await self._is_own(message.channel)

    def _goes_on(self, message: discord.Message) -> bool:
        """Is it a reply to one of the bot's messages? It may come without a ping."""
        answered = message.reference.resolved if message.reference else None
        return isinstance(answered, discord.Message) and answered.author.id == self.own_id

    def _is_mentioned(self, message: discord.Message) -> bool:
        """By name, by the bot's own role (easy to pick by mistake), or by a reply that pings."""
        role = message.guild.self_role if message.guild else None
        return self.user in message.mentions or (role is not None and role in message.role_mentions)

    def _is_to_others(self, message: discord.Message) -> bool:
        answered = message.reference.resolved if message.reference else None
        people = {person.id for person in message.mentions}
        if isinstance(answered, discord.Message) and answered.author.id != self.own_id:
            people.add(answered.author.id)
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
            if action in ACTIONS and ACTIONS[action].form and await self._ask_by_form(interaction, action, value):
                return
            public = action in ACTIONS and ACTIONS[action].public
            reply = InteractionReply(self, interaction)
            async with reply.in_time(thinking=public):
                await self.bot.press(action, value, _asked(interaction), reply)

    async def _ask_by_form(self, interaction: discord.Interaction, action: str, value: str) -> bool:
        """False when Discord did not open it."""
        try:
            await interaction.response.send_modal(ActionForm(self, action, value))
        except TROUBLE as problem:
            log.warning("a form could not be opened: %s", type(problem).__name__)
            return False
        return True

    async def command(self, command: Command, interaction: discord.Interaction, arguments: dict[str, Any]) -> None:
        files = [value for value in arguments.values() if isinstance(value, discord.Attachment)]
        request = _asked(interaction, arguments, files)
        reply = InteractionReply(self, interaction)
        async with reply.in_time(thinking=True, private=command.is_private(request)):
            await self.bot.run(command.name, request, reply)

    async def learn_message(self, interaction: discord.Interaction, message: discord.Message) -> None:
        """The message menu."""
        reply = InteractionReply(self, interaction)
        async with reply.in_time(thinking=True):
            await self.bot.run("learn", _asked(interaction, files=_files(message)), reply)

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        """Nobody can ask or erase there any more."""
        await self.bot.service.reset(channel_key(channel.guild.id, channel))

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        """Thrown out of a server: what it taught is erased."""
        await erase_all(self.bot, f"discord:{guild.id}:")

    async def on_error(self, event_method: str, /, *_args: Any, **_kwargs: Any) -> None:
        log.exception("an event could not be handled: %s", event_method)


class ActionForm(discord.ui.Modal):
    """What a button asks before it is handled."""

    def __init__(self, client: Client, action: str, value: str) -> None:
        form = ACTIONS[action].form
        assert form is not None
        super().__init__(title=form.title, timeout=STALE_AFTER)
        self._client, self._action, self._value = client, action, value
        self._given: Any = (
            discord.ui.FileUpload(custom_id="given", max_values=10)
            if form.files
            else discord.ui.TextInput(custom_id="given", required=False, max_length=MAX_QUESTION)
        )
        self.add_item(discord.ui.Label(text=form.label, component=self._given))

    async def on_submit(self, interaction: discord.Interaction) -> None:
        files = self._given.values if isinstance(self._given, discord.ui.FileUpload) else ()
        text = "" if files else str(getattr(self._given, "value", ""))
        reply = InteractionReply(self._client, interaction)
        async with reply.in_time(thinking=ACTIONS[self._action].public):
            request = replace(_asked(interaction, files=files), text=text)
            await self._client.bot.press(self._action, self._value, request, reply)


def _guard_parsers(client: Client) -> None:
    """discord.py lets the connection die of one malformed event; here it is logged and skipped."""

    def guarded(name: str, parse: Callable[[Any], None]) -> Callable[[Any], None]:
        def parse_or_skip(data: Any) -> None:
            try:
                parse(data)
            except Exception:
                log.exception("a malformed %s event was skipped", name)

        return parse_or_skip

    parsers = client._connection.parsers
    parsers.update({name: guarded(name, parse) for name, parse in parsers.items()})


# The commands --------------------------------------------------------------------------------------------------------


def _tree(client: Client) -> app_commands.CommandTree[Client]:
    tree = app_commands.CommandTree(
        client,
        allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=False),
        allowed_installs=app_commands.AppInstallationType(guild=True, user=False),
    )
    for command in COMMANDS.values():
        tree.add_command(_slash(client, command))
    tree.add_command(app_commands.ContextMenu(name="Learn this document", callback=_menu(client)))
    return tree


def _slash(client: Client, command: Command) -> app_commands.Command[Any, Any, None]:
    """A row of the table as a slash command."""

    async def callback(interaction: discord.Interaction, **arguments: Any) -> None:
        given = {name: value for name, value in arguments.items() if value is not None}
        await client.command(command, interaction, given)

    callback.__signature__ = _signature(command)  # type: ignore[attr-defined]
    app_commands.describe(**{option.name: option.description for option in command.options})(callback)
    slash: app_commands.Command[Any, Any, None] = app_commands.Command(
        name=command.name, description=command.description, callback=callback
    )
    if command.permission is Permission.MANAGER:
        slash.default_permissions = discord.Permissions(manage_channels=True)  # a default; `require` is what counts
    for option in command.options:
        if option.suggest:
            slash.autocomplete(option.name)(_autocomplete(client, option))
    return slash


def _signature(command: Command) -> inspect.Signature:
    """discord.py reads the options off the callback's signature."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(option.name, keyword, annotation=KINDS[option.kind])
        if option.required
        else inspect.Parameter(option.name, keyword, annotation=KINDS[option.kind] | None, default=None)
        for option in command.options
    ]
    return inspect.Signature([inspect.Parameter("interaction", inspect.Parameter.POSITIONAL_OR_KEYWORD), *options])


def _autocomplete(client: Client, option: Any) -> Any:
    async def choices(interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        suggested = await client.bot.suggest(option, _asked(interaction), typed)
        return [app_commands.Choice(name=name[:CHOICE], value=value) for name, value in suggested[:CHOICES]]

    return choices


def _menu(client: Client) -> Any:
    async def learn_this(interaction: discord.Interaction, message: discord.Message) -> None:
        await client.learn_message(interaction, message)

    return learn_this


# Requests ------------------------------------------------------------------------------------------------------------


def channel_key(guild_id: int | None, channel: Any, user_id: int = 0) -> str:
    """Whose knowledge it is: a thread's is its parent's, that of direct messages the person's own."""
    if guild_id is None:
        return f"discord:dm:{user_id}"
    return f"discord:{guild_id}:{channel.parent_id if isinstance(channel, discord.Thread) else channel.id}"


def _thread_of(channel: Any) -> str:
    return str(channel.id) if isinstance(channel, discord.Thread) else ""


def _asked(
    interaction: discord.Interaction,
    arguments: dict[str, Any] | None = None,
    files: Sequence[discord.Attachment] = (),
) -> Request:
    """A command or button as a request."""
    rights = interaction.permissions
    return Request(
        channel=channel_key(interaction.guild_id, interaction.channel, interaction.user.id),
        user=f"discord:{interaction.user.id}",
        user_name=interaction.user.display_name,
        thread=_thread_of(interaction.channel),
        arguments=arguments or {},
        attachments=_attachments(files),
        is_manager=interaction.guild_id is None or rights.administrator or rights.manage_channels,
        is_dm=interaction.guild_id is None,
        locale=str(interaction.locale),
    )


def _heard(message: discord.Message, client: Client) -> Request:
    """A message as a request."""
    text = _text(message, client)
    files = _files(message)
    answered = message.reference.resolved if message.reference else None
    if not files and understand(text).name in ("learn", "greeting"):
        files = _files(answered)
    in_guild = message.guild is not None
    return Request(
        channel=channel_key(message.guild.id if message.guild else None, message.channel, message.author.id),
        user=f"discord:{message.author.id}",
        user_name=message.author.display_name,
        thread=_thread_of(message.channel) or (str(answered.id) if answered and client._goes_on(message) else ""),
        text=text,
        attachments=_attachments(files),
        is_manager=not in_guild or _rights(message.channel, message.author, discord.Permissions.none()).manage_channels,
        is_dm=not in_guild,
        is_addressed=not in_guild or client._is_mentioned(message),
    )


def _text(message: discord.Message, client: Client) -> str:
    """What was written, without the mention of the bot, other people by name."""
    role = message.guild.self_role if message.guild else None
    text = re.sub(rf"<@!?{client.own_id}>", " ", message.content)
    text = re.sub(rf"<@&{role.id}>", " ", text) if role else text
    for person in message.mentions:
        text = re.sub(rf"<@!?{person.id}>", f"@{person.display_name}", text)
    return " ".join(text.split())


def _files(message: object) -> list[discord.Attachment]:
    """The attachments of a message, also of one that it forwards."""
    if not isinstance(message, discord.Message):
        return []
    return [*message.attachments, *(file for copy in message.message_snapshots for file in copy.attachments)]


def _attachments(files: Sequence[discord.Attachment]) -> tuple[Attachment, ...]:
    """Addresses are signed and run out, so they are read at once, by discord.py, and never stored."""
    attachments = []
    for file in files:
        kind = file.content_type or ""
        attachments.append(Attachment(name=_name(file), size=file.size, content_type=kind, read=partial(_read, file)))
    return tuple(attachments)


def _name(file: discord.Attachment) -> str:
    """As the sender called it: Discord takes much out of the file's name, and keeps that as a title."""
    ending = file.filename.rpartition(".")[2]
    return f"{file.title}.{ending}" if file.title and "." in file.filename else file.title or file.filename


async def _read(file: discord.Attachment) -> bytes:
    """From Discord's own file hosts alone, whatever the address says. Raises: Refused."""
    require_host(file.url, FILE_HOSTS, "Discord")
    return await file.read()


# Replies -------------------------------------------------------------------------------------------------------------


class MessageReply(Reply):
    """Answers a message: by a reply, or in a thread of its own where that is wanted and possible."""

    shows_question = True
    takes_forms = True

    def __init__(self, client: Client, message: discord.Message) -> None:
        self.thread = ""
        self._client = client
        self._message = message
        self._thread: discord.Thread | None = None  # kept, so that trying again does not open another
        self._sent = 0  # messages, so that two that say the same are two

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        with _sending():
            if thread and isinstance(self._message.channel, discord.TextChannel):
                self._thread = self._thread or await _open_thread(self._message, thread)
            if self._thread:
                await self._send(self._thread, message)
                self.thread = str(self._thread.id)
                return
            sent = await self._reply(message)
            self.thread = _thread_of(sent.channel) or str(sent.id)  # a thread at a message has its number

    async def post(self, message: Message) -> Live:
        with _sending():
            sent = await self._reply(message)
        return Posted(self._client, sent.channel.id, sent.id, self._message.id)

    async def _reply(self, message: Message) -> discord.Message:
        """In the channel of a thread, when the thread takes no more."""
        channel = self._message.channel
        try:
            reference = self._message.to_reference(fail_if_not_exists=False)
            return await self._send(channel, message, reference=reference)
        except discord.HTTPException as problem:
            if not (isinstance(channel, discord.Thread) and channel.parent and _is_closed(problem)):
                raise
            asked = message.asked or render.asked_by(
                self._message.author.display_name, _text(self._message, self._client)
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


class ChannelReply:
    """Says something in a channel that nobody has just asked for."""

    shows_question = True
    takes_forms = False
    thread = ""

    def __init__(self, client: Client, channel: Any) -> None:
        self._client = client
        self._channel = channel

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        with _sending():
            await _send(self._channel, message, to=self._channel.id)


class InteractionReply(Reply):
    """Answers a command or a button. The interaction's token dies after 15 minutes; then the channel itself is used.

    A deferral fixes whether the first answer is private. Refusals are quick, so a command is deferred only when there
    is no answer after a second.
    """

    shows_question = False
    takes_forms = True

    def __init__(self, client: Client, interaction: discord.Interaction) -> None:
        self.thread = ""
        self._client = client
        self._interaction = interaction
        self._alive = True
        self._acknowledging = asyncio.Lock()
        self._sent = 0

    @contextlib.asynccontextmanager
    async def in_time(self, *, thinking: bool, private: bool = False) -> AsyncIterator[None]:
        """Acknowledge within 3 seconds what is handled inside; the answer may then take 15 minutes.

        Args:
            thinking: people see that an answer is coming, unless it is there at once.
            private: only the asker does.
        """
        if not thinking:
            await self._defer(thinking=False)
            yield
            return
        waiting = asyncio.create_task(self._defer_after(PATIENCE, private))
        try:
            yield
        finally:
            waiting.cancel()

    async def _defer_after(self, seconds: float, private: bool) -> None:
        await asyncio.sleep(seconds)
        async with self._acknowledging:
            if not self._interaction.response.is_done():
                await self._defer(thinking=True, ephemeral=private)

    async def _defer(self, **how: bool) -> None:
        try:
            await self._interaction.response.defer(**how)
        except TROUBLE as problem:
            log.warning("an interaction could not be acknowledged in time: %s", type(problem).__name__)
            self._alive = False

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        with _sending():
            if replace and self._alive:
                await self._interaction.edit_original_response(**_to_arguments(message, self._channel, edit=True))
                return
            sent = await self._send(message, private)
            if sent and not private:
                self.thread = _thread_of(self._channel) or str(sent.id)

    async def post(self, message: Message) -> Live:
        rights = self._interaction.app_permissions
        if self._interaction.guild_id and not (rights.view_channel and rights.send_messages):
            raise Refused("I may not write here; somebody who manages this channel can give me that right.")
        with _sending():
            sent = await self._send(message, private=False)
        return Posted(self._client, sent.channel.id, sent.id, self._about())

    def _about(self) -> int:
        """The message whose menu was used, or 0."""
        target = getattr(self._interaction.data, "get", lambda _: None)("target_id")
        return int(target or 0)

    @property
    def _channel(self) -> Any:
        return self._interaction.channel

    async def _send(self, message: Message, private: bool) -> Any:
        if self._alive:
            try:
                return await self._answer(_to_arguments(message, self._channel), private)
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

    trouble = TROUBLE

    def __init__(self, client: Client, channel: int, message: int, origin: int = 0) -> None:
        super().__init__(f"discord:{channel}:{message}:{origin}", client.edits)
        self._origin = origin
        self._channel: Any = client.get_channel(channel)
        self._channel = self._channel or client.get_partial_messageable(channel)
        self._message = self._channel.get_partial_message(message)

    def _sending(self) -> AbstractContextManager[None]:
        return _sending()

    def _is_final(self, problem: BaseException) -> bool:
        return isinstance(problem, discord.HTTPException) and problem.code in FINAL

    def _age(self) -> float:
        return (discord.utils.utcnow() - self._message.created_at).total_seconds()

    async def _update(self, message: Message) -> None:
        await self._message.edit(**_to_arguments(message, self._channel, edit=True))

    async def _post_end(self, message: Message) -> None:
        reference = discord.MessageReference(
            message_id=self._origin or self._message.id, channel_id=self._channel.id, fail_if_not_exists=False
        )
        await _send(self._channel, message, to=self._message.id, reference=reference)

    async def _delete(self) -> None:
        await self._message.delete()


def _sending() -> AbstractContextManager[None]:
    return sending(_will_pass)


def _will_pass(problem: Exception) -> bool | None:
    """See `bot.platforms.common.sending`."""
    if isinstance(problem, discord.Forbidden | discord.NotFound):
        return False
    if isinstance(problem, discord.DiscordServerError | discord.RateLimited | aiohttp.ClientError | OSError):
        return True
    return problem.status == 429 if isinstance(problem, discord.HTTPException) else None


def _is_closed(problem: discord.HTTPException) -> bool:
    """Does a thread take no more messages?"""
    return problem.code in THREAD_CLOSED or problem.status in (403, 404)


async def _send(channel: Any, message: Message, *, to: int, number: int = 0, **options: Any) -> discord.Message:
    """Post something in answer to a message or interaction. Trying again is safe when nobody knows whether it arrived:
    of several messages with the same nonce within some minutes Discord keeps one. `number`: of messages before it."""
    nonce = hashlib.sha256(f"{to} {number} {message}".encode()).hexdigest()[:25]
    return await channel.send(nonce=nonce, **_to_arguments(message, channel), **options)


async def _open_thread(message: discord.Message, name: str) -> discord.Thread | None:
    """A thread at a message, or the one that is there already; None where Discord refuses it, for whatever reason."""
    try:
        return await message.create_thread(name=clip(without_mentions(" ".join(name.split())), THREAD_NAME))
    except discord.HTTPException as problem:
        if problem.code == THREAD_EXISTS:
            return await message.fetch_thread()
        if problem.status >= 500 or problem.status == 429:
            raise
        log.info("Discord refused a thread: error %d", problem.code)
        return None


async def _name_of(client: Client, guild: discord.Guild | None, user: str) -> str:
    platform, _, number = user.rpartition(":")
    if platform != "discord":
        return ""
    known = (guild and guild.get_member(int(number))) or client.get_user(int(number))
    with contextlib.suppress(*TROUBLE):
        return (known or await client.fetch_user(int(number))).display_name
    return ""


# Looks ---------------------------------------------------------------------------------------------------------------


def _to_arguments(message: Message, channel: Any, *, edit: bool = False) -> dict[str, Any]:
    """A message as arguments of `send` or `edit`, within Discord's limits and the bot's rights in the channel."""
    me = getattr(getattr(channel, "guild", None), "me", None)
    allowed = _rights(channel, me, unknown=discord.Permissions.all())
    called = [discord.Object(int(message.notify.rpartition(":")[2]))] if message.notify else []
    mentions = discord.AllowedMentions(everyone=False, roles=False, users=called or False, replied_user=False)
    arguments: dict[str, Any] = {"allowed_mentions": mentions}
    if message.buttons or edit:
        arguments["view"] = _view(message.buttons) if message.buttons else None
    with_picture = bool(message.picture) and allowed.attach_files
    if with_picture:
        picture = discord.File(io.BytesIO(message.picture), PICTURE, description=message.picture_text)
        arguments["attachments" if edit else "files"] = [picture]
    is_card = bool(message.fields or (message.title and message.text)) and allowed.embed_links and not called
    call = f"<@{called[0].id}> " if called else ""
    content = "" if is_card else call + _plain(message)
    if content or edit:
        arguments["content"] = clip(content, CONTENT) or None
    if is_card or edit:
        arguments["embed"] = _embed(message, with_picture) if is_card else None
    return arguments


def _rights(channel: Any, member: Any, unknown: discord.Permissions) -> discord.Permissions:
    """What somebody may do in a channel of a server; `unknown` where that is not known."""
    if isinstance(channel, discord.PartialMessageable) or not isinstance(member, discord.Member):
        return unknown
    try:
        return channel.permissions_for(member)
    except discord.ClientException:  # a thread whose parent is not cached
        return unknown


def _embed(message: Message, with_picture: bool) -> discord.Embed:
    text = clip(escape_discord(message.text), DESCRIPTION - 600)
    text = "\n".join(part for part in (_small(message.asked), text) if part)
    embed = discord.Embed(
        title=clip(escape_discord(message.title), TITLE) or None,
        description=text or None,
        colour=COLOURS[message.tone],
    )
    longest = max((len(_field(field)) for field in message.fields), default=0)
    side_by_side = 2 <= len(message.fields) <= 3 and longest <= FIELD
    for field in message.fields:
        for part in split(clip(_field(field), FIELDS_TOGETHER // len(message.fields)), FIELD):
            embed.add_field(name=escape_discord(field.name), value=part, inline=side_by_side)
    if message.footer:
        embed.set_footer(text=clip(without_mentions(message.footer), FOOTER))
    if with_picture:
        embed.set_image(url=f"attachment://{PICTURE}")
    return embed


def _field(field: Field) -> str:
    text = escape_discord(field.text)
    return f"{text}\n*{escape_discord(field.note)}*" if field.note else text


def _plain(message: Message) -> str:
    """Without a frame; the small print as Discord's subtext."""
    fields = (f"**{escape_discord(field.name)}**: {_field(field)}" for field in message.fields)
    title = f"**{clip(escape_discord(message.title), TITLE)}**" if message.title else ""
    room = CONTENT - 600  # for the rest
    text = clip(escape_discord(message.text), room)
    parts = (_small(message.asked), title, text, *fields, _small(message.footer))
    return "\n".join(part for part in parts if part)


def _small(text: str) -> str:
    lines = (" ".join(line.split()) for line in clip(text, 500).splitlines())
    return "\n".join(f"-# {escape_discord(line)}" for line in lines if line)


def _view(buttons: Sequence[Button]) -> discord.ui.View:
    view = discord.ui.View(timeout=None)
    rows = -(-len(buttons) // PER_ROW)
    for number, button in enumerate(buttons):
        view.add_item(
            discord.ui.Button(
                row=number * rows // len(buttons),
                style=STYLES[button.style],
                label=button.label[:LABEL],
                custom_id=f"{BUTTON}:{button.action}:{button.value}"[:CUSTOM_ID],
            )
        )
    view.stop()  # presses come by `on_interaction`; discord.py need not remember the view
    return view
