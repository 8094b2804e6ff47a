"""Messages as Discord's components (version 2), within its limits and the bot's rights."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import discord
from discord import ui

from bot.chat import Button, Field, Message, Style, Tone
from bot.escape import escape_discord, fitting
from bot.platforms.common import BUTTON, PICTURE
from bot.platforms.discord.payloads import rights_in
from core.document.text import one_line

TEXT, COMPONENTS = 4000, 40  # Discord's limits: characters of all texts of a message together, components
LABEL, CUSTOM_ID = 80, 100  # Discord's limits, in characters
TITLE, ASKED, FOOTER = 250, 400, 700  # characters, ours
PER_ROW, IN_SECTION = 5, 3  # buttons in a row, texts beside one

COLOURS = {
    Tone.WORKING: 0x5865F2,
    Tone.GOOD: 0x57F287,
    Tone.UNSURE: 0xFEE75C,
    Tone.ABSENT: 0x99AAB5,
    Tone.BAD: 0xED4245,
}
STYLES = {
    Style.PLAIN: discord.ButtonStyle.secondary,
    Style.PRIMARY: discord.ButtonStyle.primary,
    Style.DANGER: discord.ButtonStyle.danger,
}


def to_arguments(message: Message, channel: Any, *, edit: bool = False) -> dict[str, Any]:
    """A message as arguments of `send` or `edit`."""
    called = [discord.Object(int(message.notify.rpartition(":")[2]))] if message.notify else []
    mentions = discord.AllowedMentions(everyone=False, roles=False, users=called or False, replied_user=False)
    me = getattr(getattr(channel, "guild", None), "me", None)
    may_attach = rights_in(channel, me, unknown=discord.Permissions.all()).attach_files
    files = []
    if message.picture and may_attach:
        files.append(discord.File(io.BytesIO(message.picture), PICTURE, description=message.picture_text))
    call = f"<@{called[0].id}> " if called else ""
    arguments: dict[str, Any] = {"allowed_mentions": mentions, "view": _view(message, call, with_picture=bool(files))}
    if edit:  # a message of an earlier version may have a text or an embed, which components exclude
        return arguments | {"content": None, "embed": None, "attachments": files}
    return arguments | ({"files": files} if files else {})


def _view(message: Message, call: str, *, with_picture: bool) -> ui.LayoutView:
    view, parts = ui.LayoutView(timeout=None), [*_texts(message, call)]
    if with_picture:
        picture = discord.MediaGalleryItem(f"attachment://{PICTURE}", description=message.picture_text)
        parts.append(ui.MediaGallery(picture))
    if message.fields or (message.title and message.text) or message.tone in (Tone.GOOD, Tone.UNSURE, Tone.ABSENT):
        if len(message.buttons) == 1 and len(parts) <= IN_SECTION and not message.fields:
            parts = [ui.Section(*parts, accessory=_button(message.buttons[0]))]
        else:
            parts += _rows(message.buttons)
        view.add_item(ui.Container(*parts, accent_colour=COLOURS.get(message.tone)))
    else:
        parts += _rows(message.buttons)
        for part in parts:
            view.add_item(part)
    view.stop()  # presses come by `on_interaction`; discord.py need not remember the view
    return view


def _texts(message: Message, call: str) -> Iterator[ui.Item[Any]]:
    """The small print has its room before all else; then come title, text and fields, until the message is full."""
    asked, footer = _small(message.asked, ASKED), _small(message.footer, FOOTER)
    title = _escaped(one_line(message.title), TITLE)
    head = f"{asked}\n" if asked else ""
    head += f"### {call}{title}" if title else call
    room = TEXT - len(head) - len(footer) - 10
    text = _escaped(message.text, room if not message.fields else room // 2)
    yield from _display("\n".join(filter(str.strip, (head, text))))
    room -= len(text)
    fields = message.fields[: (COMPONENTS - 5 - len(message.buttons) * 5 // 4) // 3]  # three components for each
    for field in fields:
        if not field.button:
            yield ui.Separator(visible=False)
        yield from _field(field, room // len(fields))
    yield from _display(footer)


def _display(text: str) -> Iterator[ui.Item[Any]]:
    if text:
        yield ui.TextDisplay(text)


def _field(field: Field, room: int) -> Iterator[ui.Item[Any]]:
    """With its button beside it. `room`: in characters."""
    third = room // 3
    name, note = f"**{_escaped(field.name, min(TITLE, third - 4))}**", _small(field.note, min(ASKED, third))
    text = _escaped(field.text, room - len(name) - len(note) - 2)
    lines = "\n".join(filter(None, (name, text, note)))
    yield ui.Section(lines, accessory=_button(field.button)) if field.button else ui.TextDisplay(lines)


def _escaped(text: str, limit: int) -> str:
    return fitting(escape_discord, text, limit)


def _small(text: str, limit: int) -> str:
    """As Discord's subtext."""

    def small(text: str) -> str:
        lines = filter(None, map(one_line, text.splitlines()))
        return "\n".join(f"-# {escape_discord(line)}" for line in lines)

    return fitting(small, text, limit)


def _rows(buttons: Sequence[Button]) -> Iterator[ui.Item[Any]]:
    """As even as possible."""
    count = -(-len(buttons) // PER_ROW)
    for row in range(count):
        first, end = -(-row * len(buttons) // count), -(-(row + 1) * len(buttons) // count)
        yield ui.ActionRow(*map(_button, buttons[first:end]))


def _button(button: Button) -> ui.Button[Any]:
    return ui.Button(
        style=STYLES[button.style],
        label=button.label[:LABEL],
        custom_id=f"{BUTTON}:{button.action}:{button.value}"[:CUSTOM_ID],
    )
