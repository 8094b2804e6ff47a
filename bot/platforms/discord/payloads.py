"""Discord's messages and interactions as requests."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import discord
import yarl

from bot.chat import Attachment, Request
from bot.intents import understand
from bot.platforms.common import require_host
from bot.platforms.discord.connection import Connection
from core.document.text import one_line


def channel_key(guild_id: int | None, channel: Any, user_id: int = 0) -> str:
    """Whose knowledge it is: a thread's is its parent's, unless it is private; that of direct messages the person's
    own."""
    if guild_id is None:
        return f"discord:dm:{user_id}"
    is_open_thread = isinstance(channel, discord.Thread) and not channel.is_private()
    return f"discord:{guild_id}:{channel.parent_id if is_open_thread else channel.id}"


def thread_of(channel: Any) -> str:
    return str(channel.id) if isinstance(channel, discord.Thread) else ""


def is_away(interaction: discord.Interaction) -> bool:
    """Is it in a server or a conversation that has not installed the bot, by somebody who has?"""
    return (
        interaction.is_user_integration()
        and not interaction.is_guild_integration()
        and not interaction.context.dm_channel
    )


def asked(interaction: discord.Interaction, arguments: dict[str, Any], files: tuple[Attachment, ...]) -> Request:
    """A command or button as a request. Where the bot is not installed it is about the person's own documents."""
    rights, guild = interaction.permissions, None if is_away(interaction) else interaction.guild_id
    return Request(
        channel=channel_key(guild, interaction.channel, interaction.user.id),
        user=f"discord:{interaction.user.id}",
        user_name=interaction.user.display_name,
        thread=thread_of(interaction.channel),
        arguments=arguments,
        attachments=files,
        is_manager=guild is None or rights.administrator or rights.manage_channels,
        is_dm=guild is None,
        is_whispered=bool(interaction.message and interaction.message.flags.ephemeral),
    )


def heard(message: discord.Message, client: Connection) -> Request:
    """A message as a request."""
    text = text_of(message, client.own_id)
    files = files_of(message)
    answered = message.reference.resolved if message.reference else None
    if not files and understand(text).name in ("learn", "greeting"):
        files = files_of(answered)
    thread = thread_of(message.channel) or (str(answered.id) if answered and goes_on(message, client.own_id) else "")
    in_guild = message.guild is not None
    return Request(
        channel=channel_key(message.guild.id if message.guild else None, message.channel, message.author.id),
        user=f"discord:{message.author.id}",
        user_name=message.author.display_name,
        thread=thread,
        text=text,
        attachments=attachments(files, client.file_hosts),
        is_manager=not in_guild
        or rights_in(message.channel, message.author, discord.Permissions.none()).manage_channels,
        is_dm=not in_guild,
        is_addressed=not in_guild or is_mentioned(message, client.own_id),
    )


def text_of(message: discord.Message, own_id: int) -> str:
    """What was written, without the mention of the bot, other people by name."""
    role = message.guild.self_role if message.guild else None
    text = re.sub(rf"<@!?{own_id}>", " ", message.content)
    text = re.sub(rf"<@&{role.id}>", " ", text) if role else text
    for person in message.mentions:
        text = re.sub(rf"<@!?{person.id}>", f"@{person.display_name}", text)
    return one_line(text)


def files_of(message: object) -> list[discord.Attachment]:
    """The attachments of a message, also of one that it forwards."""
    if not isinstance(message, discord.Message):
        return []
    files = list(message.attachments)
    for forwarded in message.message_snapshots:
        files += forwarded.attachments
    return files


def attachments(files: Sequence[discord.Attachment], hosts: Collection[yarl.URL]) -> tuple[Attachment, ...]:
    """Addresses are signed and run out, so they are read at once, by discord.py, and never stored.

    Args:
        hosts: where Discord keeps files; they are fetched from nowhere else.
    """
    given = []
    for file in files:
        kind = file.content_type or ""
        read = partial(_read, file, hosts)
        given.append(Attachment(name=_name(file), size=file.size, content_type=kind, read=read))
    return tuple(given)


def _name(file: discord.Attachment) -> str:
    """As the sender called it: Discord takes much out of the file's name, and keeps that as a title."""
    ending = file.filename.rpartition(".")[2]
    return f"{file.title}.{ending}" if file.title and "." in file.filename else file.title or file.filename


async def _read(file: discord.Attachment, hosts: Collection[yarl.URL]) -> bytes:
    """From Discord's own file hosts alone, whatever the address says. Raises: Refused."""
    require_host(file.url, hosts, "Discord")
    return await file.read()


def goes_on(message: discord.Message, own_id: int) -> bool:
    """Is it a reply to one of the bot's messages? It may come without a ping."""
    answered = message.reference.resolved if message.reference else None
    return isinstance(answered, discord.Message) and answered.author.id == own_id


def is_mentioned(message: discord.Message, own_id: int) -> bool:
    """By name, by the bot's own role (easy to pick by mistake), or by a reply that pings."""
    role = message.guild.self_role if message.guild else None
    is_named = any(person.id == own_id for person in message.mentions)
    return is_named or (role is not None and role in message.role_mentions)


def people_meant(message: discord.Message, own_id: int) -> set[int]:
    """Other people whom it mentions or answers."""
    answered = message.reference.resolved if message.reference else None
    people = {person.id for person in message.mentions}
    if isinstance(answered, discord.Message) and answered.author.id != own_id:
        people.add(answered.author.id)
    return people


def rights_in(channel: Any, member: Any, unknown: discord.Permissions) -> discord.Permissions:
    """What somebody may do in a channel of a server; `unknown` where that is not known."""
    if isinstance(channel, discord.PartialMessageable) or not isinstance(member, discord.Member):
        return unknown
    try:
        return channel.permissions_for(member)
    except discord.ClientException:  # a thread whose parent is not cached
        return unknown
