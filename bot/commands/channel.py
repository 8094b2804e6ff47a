"""What a channel's handlers look up: the document that somebody means, and how the channel wants to be answered."""

from __future__ import annotations

from collections.abc import Sequence

from bot import render
from bot.chat import Request
from bot.commands.base import BotBase
from core.errors import NotFound
from core.search.finder import has_id, matching
from core.service import harmless_name
from core.types import Document

THREADS = {"slack": "always"}  # by platform: its habit; elsewhere an answer is a reply, and a follow-up opens a thread


def unknown_document(key: str) -> NotFound:
    return NotFound(f"I don't know a document called {harmless_name(key)} here. Write “docs” to me to see the list.")


def one_document(known: Sequence[Document], key: str) -> Document:
    """The document that is meant, the newest of several versions. Raises: NotFound."""
    similar = matching(known, key)
    if not similar:
        raise unknown_document(key)
    names = [document.name for document in similar]
    if len(set(names)) > 1:
        raise NotFound(f"Which one do you mean: {', '.join(names[: render.MAX_OFFERED])}?")
    return similar[0]


async def document_by_id(bot: BotBase, channel: str, document_id: str) -> Document:
    """Raises: NotFound."""
    for document in await bot.service.documents(channel):
        if has_id(document, document_id):
            return document
    raise NotFound("I no longer know this document.")


async def documents_by_id(bot: BotBase, channel: str) -> dict[str, Document]:
    return {document.id: document for document in await bot.service.documents(channel)}


async def suggest_documents(bot: BotBase, request: Request, typed: str) -> list[tuple[str, str]]:
    known = await bot.service.documents(request.channel)
    return [(document.name, document.id) for document in known if typed.lower() in document.name.lower()]


async def settings_of(bot: BotBase, channel: str) -> dict[str, str]:
    """How a channel wants to be answered: what was chosen, else the habit of its platform."""
    chosen = await bot.service.settings(channel)
    habit = {"compare": "line", "threads": THREADS.get(channel.partition(":")[0], "follow-ups")}
    return {name: chosen.get(name, value) for name, value in habit.items()}
