"""What Slack's JSON says: who, where, which files. Pure functions; the SDK is not needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.commands import Command, Kind

OWN_MESSAGES = "D"  # stands for a person's direct messages where their id is not known
SPOKEN = (None, "file_share", "thread_broadcast", "me_message")  # subtypes of messages that people write


@dataclass(frozen=True)
class Me:
    """Who the bot is in a workspace."""

    user: str
    team: str
    enterprise: str = ""
    name: str = ""


@dataclass(frozen=True)
class Person:
    name: str = ""
    is_admin: bool = False  # of the workspace
    is_guest: bool = False  # restricted, or of another workspace
    is_known: bool = True  # Slack has told


@dataclass(frozen=True)
class Place:
    """Where somebody said or pressed something."""

    channel: str
    user: str
    ts: str = ""  # of the message; "": of none, or of one that nobody else sees
    thread: str = ""  # that it is in

    @property
    def is_dm(self) -> bool:
        return self.channel.startswith("D")

    @property
    def root(self) -> str:
        """The thread below what was said; "": nothing was said that others see."""
        return self.thread or self.ts


def channel_key(team: str, place: Place) -> str:
    """Whose knowledge it is: a thread's is its channel's, that of direct messages the person's own."""
    return f"slack:{team}:" + (f"dm:{place.user}" if place.is_dm else place.channel)


def team_of(body: Mapping[str, Any]) -> str:
    """Whose installation is meant; in channels shared between workspaces, the authorization says it."""
    authorized: Mapping[str, Any] = (body.get("authorizations") or [{}])[0]
    team = body.get("team") or {}
    return str(authorized.get("team_id") or body.get("team_id") or team.get("id") or "")


def place_of(body: Mapping[str, Any]) -> Place:
    """Of an event, a command, a button or a menu."""
    if event := body.get("event"):
        opened = event.get("assistant_thread") or {}
        channel, user = event.get("channel") or opened.get("channel_id"), event.get("user") or opened.get("user_id")
        return Place(channel=channel or "", user=user or "")
    channel, user = body.get("channel") or {}, body.get("user") or {}
    return Place(
        channel=body.get("channel_id") or channel.get("id") or "", user=body.get("user_id") or user.get("id") or ""
    )


def person_of(user: Mapping[str, Any], me: Me) -> Person:
    profile = user.get("profile") or {}
    team = user.get("team_id") or me.team
    enterprise = (user.get("enterprise_user") or {}).get("enterprise_id")
    at_home = team == me.team or bool(me.enterprise and enterprise == me.enterprise)
    return Person(
        name=profile.get("display_name") or user.get("real_name") or user.get("name") or "",
        is_admin=bool(user.get("is_admin") or user.get("is_owner") or user.get("is_primary_owner")),
        is_guest=not at_home or any(user.get(f"is_{kind}") for kind in ("restricted", "ultra_restricted", "stranger")),
    )


def files_in(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a message, also of one that it forwards or shares."""
    files = list(message.get("files") or ())
    for shared in message.get("attachments") or ():
        files += shared.get("files") or ()
    return files


def is_gone(event: Mapping[str, Any]) -> bool:
    """Was a message deleted? One that begins a thread becomes a tombstone."""
    became = (event.get("message") or {}).get("subtype")
    return event.get("subtype") == "message_deleted" or became == "tombstone"


def is_spoken(event: dict[str, Any]) -> bool:
    """Written by a person."""
    return event.get("subtype") in SPOKEN and not event.get("bot_id") and bool(event.get("user"))


def removes_the_app(event: Mapping[str, Any]) -> bool:
    revoked = event["type"] == "tokens_revoked" and (event.get("tokens") or {}).get("bot")
    return event["type"] == "app_uninstalled" or bool(revoked)


def parse(command: Command, text: str) -> dict[str, object]:
    """What follows a slash command: `--private` before or after it, `--document NAME` or `--document "A NAME"`, and
    the rest. Some keyboards turn two hyphens into a dash and quotes into curly ones; "private:" says it, too."""
    first, others = command.options[:1], {option.name: option for option in command.options[1:]}
    arguments: dict[str, object] = {}
    for name, option in others.items():
        value = "" if option.kind is Kind.YES_NO else r'\s+(?:["“”]([^"“”]*)["“”]|(\S+))'
        pattern = re.compile(rf"(?:^|(?<=\s))(?:--?|—|–){name}\b{value}", re.IGNORECASE)
        if match := pattern.search(text):
            text = f"{text[: match.start()].rstrip()} {text[match.end() :].lstrip()}".strip()
            arguments[name] = True if option.kind is Kind.YES_NO else match[1] or match[2]
    if "private" in others and (match := re.match(r"privat(?:e|ely)\s*[:,]\s*", text, re.IGNORECASE)):
        arguments["private"], text = True, text[match.end() :]
    return arguments | {option.name: text for option in first if text}
