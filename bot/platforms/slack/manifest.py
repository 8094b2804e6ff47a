"""The app's manifest, and its slash commands. The SDK is not needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bot.commands import COMMANDS, Command
from bot.intents import understand
from bot.render import DISCLAIMER

SHORTCUT = "learn_document"  # callback_id of the message menu
COMMAND = "engram"  # /engram ask ...: the one command that clashes with no other app's
NAMES = {"status": "engram-status", "settings": "engram-settings"}  # of the short ones; Slack keeps /status for itself
DESCRIPTIONS = {"learn": "Show how to upload a document"}  # Slack gives commands no files

SCOPES = [
    "app_mentions:read",
    "assistant:write",
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
]
EVENTS = [
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
]
LONG_DESCRIPTION = (
    "Attach a document to a message that mentions Engram: it learns it by heart, for that channel alone. Anybody there "
    f"then asks about it, and an answer names the page that supports it, where one was found. {DISCLAIMER}"
)
PROMPTS = [{"title": "What can you do?", "message": "help"}, {"title": "What do you know here?", "message": "docs"}]


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
            "long_description": LONG_DESCRIPTION,
            "background_color": "#2f3e9e",
        },
        "features": {
            "app_home": {
                "home_tab_enabled": True,
                "messages_tab_enabled": True,
                "messages_tab_read_only_enabled": False,
            },
            "bot_user": {"display_name": "Engram", "always_online": True},
            "agent_view": {
                "agent_description": f"Send me a document and I learn it; then ask me about it. {DISCLAIMER}",
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
        "oauth_config": {"scopes": {"bot": SCOPES}, **redirect},
        "settings": {
            "event_subscriptions": {**request, "bot_events": EVENTS},
            "interactivity": {"is_enabled": True, **request},
            "socket_mode_enabled": not url,
            "org_deploy_enabled": False,
            "token_rotation_enabled": False,
        },
    }


def _slash(command: Command, name: str, url: str) -> dict[str, Any]:
    first, *flags = [option.name for option in command.options] or [""]
    hint = " ".join([*(f"[--{flag}]" for flag in flags), f"[{first}]"])
    usage = {"usage_hint": hint} if command.options and command.name != "learn" else {}
    request = {"url": url} if url else {}
    description = DESCRIPTIONS.get(command.name, command.description)
    return {"command": f"/{name}", "description": description, **usage, **request}


def commands() -> list[Command]:
    """As /help shows them here."""
    shown = []
    for name, row in COMMANDS.items():
        description = DESCRIPTIONS.get(name, row.description)
        shown.append(replace(row, name=f"{COMMAND} {name}", description=description))
    return shown


def short_names() -> dict[str, str]:
    """Command -> the short one, for workspaces where no other app has it."""
    return {name: NAMES.get(name, name) for name in COMMANDS}


def command_of(slash: str, text: str) -> tuple[str, str]:
    """A slash command and what was written after it -> the command in the table, and what follows that."""
    if slash != COMMAND:
        by_short_name = {short: name for name, short in short_names().items()}
        return by_short_name.get(slash, slash), text
    first, _, rest = text.strip().partition(" ")
    if first.lower() in COMMANDS:
        return first.lower(), rest.strip()
    wanted = understand(text).name
    if wanted == "ask":
        return wanted, text
    return wanted if wanted in COMMANDS else "help", ""
