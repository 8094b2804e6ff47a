"""Messages as Slack's blocks, forms as its modals, within its limits. The SDK is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot.chat import Button, Field, Message, Style, Tone
from bot.commands import Form
from bot.escape import clip, escape_slack, fitting, split
from bot.platforms.common import BUTTON
from bot.render import FORGET_WARNING, HOME_OWN
from core.document.text import one_line
from core.service import MAX_QUESTION

# Slack's limits, in characters after escaping
SECTION, COLUMN, LABEL, VALUE, FALLBACK = 3000, 2000, 75, 2000, 3000
TITLE, TEXT, FIELDS_TOGETHER, FOOTER = 300, 4000, 4000, 500  # ours: all blocks together may hold about 9,500

HOME, HOME_BLOCKS = "home", 100  # name of its button; blocks that it may have
FORM, GIVEN = f"{BUTTON}:form", "given"  # callback_id of a modal, block_id and action_id of what it asks
STYLES = {Style.PRIMARY: "primary", Style.DANGER: "danger"}

JUDGE, FEEDBACK = ("helpful", "wrong"), "feedback"  # actions of a pair of feedback buttons, and the pair's own name
EMOJI = {"❤️": "heart", "👍": "+1", "👀": "eyes", "👋": "wave"}


def view_of(form: Form, context: str) -> dict[str, Any]:
    """What a button asks before it is handled, as a modal. `context`: what is needed to work it off, as text."""
    element = (
        {"type": "file_input", "action_id": GIVEN, "max_files": 10}  # text has any ending
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


def to_blocks(message: Message, *, native: bool = True) -> dict[str, Any]:
    """A message as `text` (for notifications and screen readers) and `blocks`, within Slack's limits.

    Args:
        native: with the blocks that Slack has for agents, a task card and feedback buttons. Not everywhere are they
            taken.
    """
    blocks: list[dict[str, Any]] = []
    if message.asked:
        blocks.append(_context(message.asked))
    if native and message.title and message.tone is Tone.WORKING:
        title = plain_text(message.title)[:TITLE]  # a turning sign stands before it; the id is the message's own
        blocks.append({"type": "task_card", "task_id": "task", "title": title, "status": "in_progress"})
    elif message.title:
        call = f"<@{message.notify.rpartition(':')[2]}> " if message.notify else ""
        blocks.append(_section(f"{call}*{escaped(one_line(message.title), TITLE)}*"))
    if message.text:
        blocks += map(_section, escaped_parts(message.text, TEXT))
    blocks += _fields(message.fields)
    if message.footer:
        blocks.append(_context(message.footer))
    plain, judging = [], []
    for number, button in enumerate(message.buttons):
        if native and button.action in JUDGE:
            judging.append(button)
        else:
            plain.append(_button(number, button))
    if judging:
        blocks.append({"type": "context_actions", "elements": [_feedback(judging)]})
    if plain:
        blocks.append({"type": "actions", "elements": plain})
    return {"text": escaped(_summary(message), FALLBACK), "blocks": blocks}


def _feedback(buttons: Sequence[Button]) -> dict[str, Any]:
    """Slack's own pair, good and bad; what each means stands in its value."""
    good, bad = buttons
    return {
        "type": "feedback_buttons",
        "action_id": f"{BUTTON}:{FEEDBACK}:0",
        "positive_button": _judgement(good, "That was helpful"),
        "negative_button": _judgement(bad, "That was wrong"),
    }


def _judgement(button: Button, label: str) -> dict[str, Any]:
    text = {"type": "plain_text", "text": button.label[:LABEL]}
    return {"text": text, "accessibility_label": label, "value": f"{button.action}:{button.value}"[:VALUE]}


def _context(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [_mrkdwn(escaped(text, FOOTER))]}


def _fields(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Side by side where they fit."""
    if any(field.button for field in fields):
        return [_beside(number, field) for number, field in enumerate(fields)]
    columns = [f"{_head(field)}{escape_slack(field.text)}{_foot(field)}" for field in fields]
    if 2 <= len(fields) <= 3 and max(map(len, columns)) <= COLUMN:
        return [{"type": "section", "fields": list(map(_mrkdwn, columns))}]
    blocks: list[dict[str, Any]] = []
    for field in fields:
        texts = escaped_parts(field.text, FIELDS_TOGETHER // len(fields), less=200)
        texts[0] = _head(field) + texts[0]
        texts[-1] += _foot(field)
        blocks += map(_section, texts)
    return blocks


def _beside(number: int, field: Field) -> dict[str, Any]:
    """A field with its button on its right."""
    section = _section(f"{_head(field)}{escaped(field.text, 1000)}{_foot(field)}")
    return section | ({"accessory": _button(number, field.button)} if field.button else {})


def _head(field: Field) -> str:
    return f"*{escaped(field.name, LABEL)}*\n"


def _foot(field: Field) -> str:
    note = f"_{escaped(field.note, 100)}_" if field.note else ""
    return f"\n{note}" if field.text and note else note


def _summary(message: Message) -> str:
    fields = [f"{field.name}: {field.text}" for field in message.fields]
    return "\n".join(filter(None, (message.title, message.text, *fields))) or "…"


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text), "expand": True}


def _mrkdwn(text: str) -> dict[str, Any]:
    """Verbatim: no links, mentions or channels are made of what looks like one."""
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _button(number: int, button: Button) -> dict[str, Any]:
    body = {
        "type": "button",
        "action_id": f"{BUTTON}:{button.action}:{number}",
        "text": {"type": "plain_text", "text": plain_text(button.label)[:LABEL], "emoji": True},
    }
    body |= {"value": button.value[:VALUE]} if button.value else {}
    return body | ({"style": STYLES[button.style]} if button.style in STYLES else {})


def plain_text(text: str) -> str:
    """For which Slack names no escapes."""
    return text.translate(str.maketrans("<>&", "‹›＆"))


# The Home tab


def home_text(text: str, *, small: str = "", channel: str = "") -> dict[str, Any]:
    """A paragraph with small print; or a heading: the channel's name, or one's own messages."""
    if text:
        return _section(escape_slack(text) + (f"\n_{escape_slack(small)}_" if small else ""))
    return _section(f"*<#{channel}>*" if channel else f"*{HOME_OWN}*")


def home_document(name: str, about: str, owner: str, value: str, may_forget: bool) -> dict[str, Any]:
    """A document with who brought it. `value`: what its button carries."""
    block = _section(f"{escaped(name, TITLE)}\n{escape_slack(about)}{f' · <@{owner}>' if owner else ''}")
    if may_forget:
        name = clip(plain_text(name), 60)
        button = _button(0, Button("Forget", HOME, value, Style.DANGER))
        confirm = {
            "title": {"type": "plain_text", "text": f"Forget {name}?"},
            "text": {"type": "plain_text", "text": FORGET_WARNING},
            "confirm": {"type": "plain_text", "text": "Forget"},
            "deny": {"type": "plain_text", "text": "Keep"},
            "style": "danger",
        }
        block["accessory"] = {**button, "confirm": confirm}
    return block


def escaped(text: str, limit: int) -> str:
    """Escaped, at most `limit` characters."""
    return fitting(escape_slack, text, limit)


def escaped_parts(text: str, limit: int, less: int = 0) -> list[str]:
    """Escaped parts that fit a section, `less` for what is put around them, together about `limit` characters."""
    room = limit
    while len(escape_slack(kept := clip(text, room))) > limit:
        room = room * 9 // 10
    room = SECTION - less
    while max(map(len, parts := list(map(escape_slack, split(kept, room))))) > SECTION - less:
        room = room * 9 // 10
    return parts
