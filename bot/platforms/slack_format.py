"""What Slack wants to see, without its SDK: the app's manifest, and messages as blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bot import render
from bot.chat import Button, Field, Message, Style
from bot.commands import COMMANDS, Command, Form
from bot.intents import understand
from core.service import MAX_QUESTION

# Slack's limits, in characters after escaping
SECTION, COLUMN, LABEL, VALUE, FALLBACK = 3000, 2000, 75, 2000, 3000
TITLE, TEXT, FIELDS_TOGETHER, FOOTER = 300, 4000, 4000, 500  # ours: all blocks together may hold about 9,500

BUTTON = "engram"  # action_id: engram:ACTION:NUMBER; block_id of a message's first block: engram:TAG
FORM, GIVEN = f"{BUTTON}:form", "given"  # callback_id of a modal, block_id and action_id of what it asks
SHORTCUT = "learn_document"  # callback_id of the message menu
COMMAND = "engram"  # /engram ask ...: the one command that clashes with no other app's
NAMES = {"status": "engram-status", "settings": "engram-settings"}  # of the short ones; Slack keeps /status for itself
DESCRIPTIONS = {"learn": "Show how to hand me a document"}  # Slack gives commands no files
STYLES = {Style.PRIMARY: "primary", Style.DANGER: "danger"}

SCOPES = (
    "app_mentions:read",
    "channels:history",
    "channels:read",
    "chat:write",
    "commands",
    "files:read",
    "files:write",
    "groups:history",
    "groups:read",
    "im:history",
    "mpim:history",
    "mpim:read",
    "reactions:write",
    "users:read",
)
EVENTS = (
    "app_home_opened",
    "app_mention",
    "app_uninstalled",
    "channel_deleted",
    "group_deleted",
    "member_left_channel",
    "message.channels",
    "message.groups",
    "message.im",
    "message.mpim",
    "tokens_revoked",
)
PROMPTS = [
    {"title": "What can you do?", "message": "help"},
    {"title": "What do you know here?", "message": "docs"},
]
EMOJI = {"❤️": "heart", "👍": "+1", "👋": "wave"}


# The manifest --------------------------------------------------------------------------------------------------------


def manifest(url: str = "", *, short_commands: bool = False) -> dict[str, Any]:
    """What to paste when the app is created on api.slack.com.

    Args:
        url: where Slack reaches the bot, for HTTP mode; Socket Mode needs none.
        short_commands: /ask, /docs, ... beside /engram ask, /engram docs, ...; other apps may have the same.
    """
    request = {"request_url": url} if url else {}
    redirect = {"redirect_urls": [url.removesuffix("/events") + "/oauth_redirect"]} if url else {}
    return {
        "_metadata": {"major_version": 2},
        "display_information": {
            "name": "Engram",
            "description": "Learns your documents, and answers from what it learned.",
            "background_color": "#2f3e9e",
        },
        "features": {
            "app_home": {
                "home_tab_enabled": False,
                "messages_tab_enabled": True,
                "messages_tab_read_only_enabled": False,
            },
            "bot_user": {"display_name": "Engram", "always_online": True},
            "agent_view": {
                "agent_description": "Send me a document and I learn it; then ask me about it.",
                "suggested_prompts": PROMPTS,
            },
            "slash_commands": [
                {
                    "command": f"/{COMMAND}",
                    "description": "Ask me, or tell me what to do",
                    "usage_hint": "Who built it? | ask --private ... | docs | forget | help",
                    **({"url": url} if url else {}),
                },
                *(_slash(COMMANDS[name], short, url) for name, short in short_names().items() if short_commands),
            ],
            "shortcuts": [
                {
                    "name": "Learn this document",
                    "type": "message",
                    "callback_id": SHORTCUT,
                    "description": "Learn the documents of this message",
                }
            ],
        },
        "oauth_config": {"scopes": {"bot": list(SCOPES)}, **redirect},
        "settings": {
            "event_subscriptions": {**request, "bot_events": list(EVENTS)},
            "interactivity": {"is_enabled": True, **request},
            "socket_mode_enabled": not url,
            "org_deploy_enabled": False,
            "token_rotation_enabled": False,
        },
    }


def view_of(form: Form, context: str) -> dict[str, Any]:
    """What a button asks before it is worked off, as a modal. `context`: what is needed to work it off, as text."""
    element = (
        {"type": "file_input", "action_id": GIVEN, "filetypes": ["pdf"], "max_files": 10}
        if form.files
        else {"type": "plain_text_input", "action_id": GIVEN, "max_length": MAX_QUESTION}
    )
    label = {"type": "plain_text", "text": form.label}
    return {
        "type": "modal",
        "callback_id": FORM,
        "private_metadata": context,
        "title": {"type": "plain_text", "text": form.title},
        "submit": {"type": "plain_text", "text": "Send"},
        "blocks": [
            {"type": "input", "block_id": GIVEN, "optional": not form.files, "label": label, "element": element}
        ],
    }


def _slash(command: Command, name: str, url: str) -> dict[str, Any]:
    hint = " ".join(
        [f"[--{option.name}]" for option in command.options[1:]] + [f"[{o.name}]" for o in command.options[:1]]
    )
    usage = {"usage_hint": hint} if command.options and command.name != "learn" else {}
    request = {"url": url} if url else {}
    description = DESCRIPTIONS.get(command.name, command.description)
    return {"command": f"/{name}", "description": description, **usage, **request}


def commands() -> list[Command]:
    """As /help shows them here."""
    return [
        replace(row, name=f"{COMMAND} {name}", description=DESCRIPTIONS.get(name, row.description))
        for name, row in COMMANDS.items()
    ]


def short_names() -> dict[str, str]:
    """Command -> the short one, for workspaces where no other app has it."""
    return {name: NAMES.get(name, name) for name in COMMANDS}


def command_of(slash: str, text: str) -> tuple[str, str]:
    """A slash command and what was written after it -> the command in the table, and what follows that."""
    if slash != COMMAND:
        return next((name for name, short in short_names().items() if short == slash), slash), text
    first, _, rest = text.strip().partition(" ")
    if first.lower() in COMMANDS:
        return first.lower(), rest.strip()
    wanted = understand(text).name
    return (wanted, text) if wanted == "ask" else (wanted if wanted in COMMANDS else "help", "")


# Messages ------------------------------------------------------------------------------------------------------------


def dress(message: Message) -> dict[str, Any]:
    """A message as `text` (for notifications and screen readers) and `blocks`, within Slack's limits."""
    blocks: list[dict[str, Any]] = []
    if message.asked:
        blocks.append(_context(message.asked))
    if message.title:
        call = f"<@{message.notify.rpartition(':')[2]}> " if message.notify else ""
        blocks.append(_section(f"{call}*{clip(' '.join(message.title.split()), TITLE)}*"))
    if message.text:
        blocks += [_section(part) for part in split(message.text, TEXT)]
    blocks += _fields(message.fields)
    if message.footer:
        blocks.append(_context(message.footer))
    if message.buttons:
        blocks.append({"type": "actions", "elements": [_button(*pair) for pair in enumerate(message.buttons)]})
    return {"text": clip(_summary(message), FALLBACK), "blocks": blocks}


def _context(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [_mrkdwn(clip(text, FOOTER))]}


def _fields(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Side by side where they fit."""
    columns = [f"{_head(field)}{render.escape_slack(field.text)}{_foot(field)}" for field in fields]
    if 2 <= len(fields) <= 3 and all(len(column) <= COLUMN for column in columns):
        return [{"type": "section", "fields": [_mrkdwn(column) for column in columns]}]
    blocks = []
    for field in fields:
        *parts, last = split(field.text, FIELDS_TOGETHER // len(fields), less=200)
        texts = [*parts, last + _foot(field)]
        blocks += [_section(text) for text in [_head(field) + texts[0], *texts[1:]]]
    return blocks


def _head(field: Field) -> str:
    return f"*{clip(field.name, LABEL)}*\n"


def _foot(field: Field) -> str:
    return f"\n_{clip(field.note, 100)}_" if field.note else ""


def _summary(message: Message) -> str:
    fields = (f"{field.name}: {field.text}" for field in message.fields)
    return "\n".join(part for part in (message.title, message.text, *fields) if part) or "…"


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text), "expand": True}


def _mrkdwn(text: str) -> dict[str, Any]:
    """Verbatim: no links, mentions or channels are made of what looks like one."""
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _button(number: int, button: Button) -> dict[str, Any]:
    label = button.label.translate(str.maketrans("<>&", "‹›＆"))  # plain text, for which Slack names no escapes
    dressed = {
        "type": "button",
        "action_id": f"{BUTTON}:{button.action}:{number}",
        "text": {"type": "plain_text", "text": label[:LABEL], "emoji": True},
    }
    dressed |= {"value": button.value[:VALUE]} if button.value else {}
    return dressed | ({"style": STYLES[button.style]} if button.style in STYLES else {})


def clip(text: str, limit: int) -> str:
    """Escaped, at most `limit` characters."""
    room = limit
    while len(escaped := render.escape_slack(render.clip(text, room))) > limit:
        room = room * 9 // 10
    return escaped


def split(text: str, limit: int, less: int = 0) -> list[str]:
    """Escaped parts that fit a section, `less` for what is put around them, together about `limit` characters."""
    room = limit
    while len(render.escape_slack(kept := render.clip(text, room))) > limit:
        room = room * 9 // 10
    room = SECTION - less
    while max(map(len, parts := _parts(kept, room))) > SECTION - less:
        room = room * 9 // 10
    return parts


def _parts(text: str, room: int) -> list[str]:
    return [render.escape_slack(part) for part in render.split(text, room)]
