"""Messages in Discord's look, within its limits and the bot's rights."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import discord

from bot.chat import Button, Field, Message, Style, Tone
from bot.escape import clip, escape_discord, split, without_mentions
from bot.platforms.common import BUTTON, PICTURE
from bot.platforms.discord.payloads import rights_in

# Discord's limits, in characters
CONTENT, TITLE, DESCRIPTION, FIELD, FOOTER = 2000, 256, 4096, 1024, 2048
FIELDS_TOGETHER = 3200  # an embed may hold 6,000 in all
LABEL, CUSTOM_ID = 80, 100
PER_ROW = 5  # buttons

COLOURS = {Tone.PLAIN: 0x99AAB5, Tone.WORKING: 0x5865F2, Tone.GOOD: 0x57F287, Tone.BAD: 0xED4245}
STYLES = {
    Style.PLAIN: discord.ButtonStyle.secondary,
    Style.PRIMARY: discord.ButtonStyle.primary,
    Style.DANGER: discord.ButtonStyle.danger,
}


def to_arguments(message: Message, channel: Any, *, edit: bool = False) -> dict[str, Any]:
    """A message as arguments of `send` or `edit`, within Discord's limits and the bot's rights in the channel."""
    me = getattr(getattr(channel, "guild", None), "me", None)
    allowed = rights_in(channel, me, unknown=discord.Permissions.all())
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
