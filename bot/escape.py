"""Plain text made safe for a platform, and cut to its limits."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from core.document.text import visible

FENCE = "```"
_DISCORD_SPECIAL = re.compile(r"([\\*_~|`<>\[\]]|^#|(?<=^-)#|:(?=//))", re.MULTILINE)


def escape_discord(text: str) -> str:
    """Plain text -> Discord Markdown that shows exactly it: no formatting, links, time stamps, emoji codes or mentions.
    Fenced code stays code, in which only mentions are broken."""
    escaped = []
    for number, part in enumerate(re.split(r"(```.*?```)", text, flags=re.DOTALL)):
        is_code = number % 2 == 1  # what the group of the pattern matched
        escaped.append(without_mentions(part if is_code else _DISCORD_SPECIAL.sub(r"\\\1", part)))
    return "".join(escaped)


def without_mentions(text: str) -> str:
    """A zero-width space after each @: for places that show plain text. Nothing invisible but that."""
    return visible(text).replace("@", "@\u200b")


def escape_slack(text: str) -> str:
    """Plain text -> Slack mrkdwn: only & < > have power to mention, link or call; * _ ~ ` are left as written."""
    return html.escape(visible(text), quote=False)


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, with an ellipsis where something was cut; an open code fence is closed."""
    return text if len(text) <= limit else split(text, limit - 1)[0].rstrip() + "…"


def fitting(markup: Callable[[str], str], text: str, limit: int) -> str:
    """As much of a text as has at most `limit` characters with its markup."""
    room = limit
    while len(shown := markup(clip(text, room))) > limit:
        room = room * 9 // 10
    return shown


def split(text: str, limit: int) -> list[str]:
    """Cut a text into parts of at most `limit` (40 or more) characters: between paragraphs, lines or words where
    possible. A code fence that has to be cut is closed and opened again, so that every part stands alone."""
    parts: list[str] = []
    opening = ""  # what the next part begins with when a fence was cut
    rest = text
    while len(opening) + len(rest) > limit:
        cut = _best_cut(rest, limit - len(opening) - len(FENCE) - 1)  # a fence may have to be closed
        part, rest = opening + rest[:cut].rstrip(), rest[cut:]
        opening = _open_fence(part)
        parts.append(f"{part}\n{FENCE}" if opening else part)
    return [*parts, opening + rest]


def _best_cut(text: str, room: int) -> int:
    for gap in ("\n\n", "\n", ". ", " "):
        start = text.rfind(gap, room // 2, room - len(gap))
        if start > 0:
            return start + len(gap)
    fence = re.search(r"`+\w*$", text[:room])  # a fence and its language stay together
    return fence.start() if fence and fence.start() and re.match(r"[`\w]", text[room:]) else room


def _open_fence(text: str) -> str:
    """The line that opens again the fence which is open at the end of a text, or ""."""
    if text.count(FENCE) % 2 == 0:
        return ""
    language = re.match(r"(\w{0,20})\n", text.rpartition(FENCE)[2])
    return f"{FENCE}{language[1] if language else ''}\n"
