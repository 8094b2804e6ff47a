"""What a channel knows, forgetting it, its settings, and what the bot says of itself."""

from __future__ import annotations

import asyncio

from bot import render
from bot.chat import Reply, Request
from bot.commands.base import BotBase, owns, require_own
from bot.commands.channel import document_by_id, settings_of, unknown_document
from core.errors import Refused
from core.search.finder import is_named, matching
from core.types import Document


async def docs(bot: BotBase, request: Request, reply: Reply) -> None:
    known = await bot.service.documents(request.channel)
    coming = await bot.service.jobs(request.channel)
    names: dict[str, str] = {}
    for document in known:
        if document.learned_by not in names:
            names[document.learned_by] = await reply.name_of(document.learned_by)
    own = [document.id for document in known if owns(document.learned_by, request)]
    message = render.documents(known, coming, names=names, is_dm=request.is_dm, own=own)
    await bot.send(reply.say, message, private=True)


async def press_learning(bot: BotBase, document_id: str, request: Request, reply: Reply) -> None:
    """How learning a document went."""
    document = await document_by_id(bot, request.channel, document_id)
    picture = await asyncio.to_thread(render.loss_curve, document.metrics.loss_history)
    await bot.send(reply.say, render.learning_details(document, picture), private=True)


async def forget(bot: BotBase, request: Request, reply: Reply) -> None:
    """One's own documents; managers any. Only a whole name or an id is an order; all else is asked about."""
    key = str(request.arguments.get("document") or "").strip()
    known = await bot.service.documents(request.channel)
    similar = matching(known, key)
    exact = [document for document in similar if is_named(document, key)]
    if len(exact) == 1:
        await _forget(bot, exact[0], request, reply)
        return
    if key and not similar:
        raise unknown_document(key)
    own = [document for document in similar if owns(document.learned_by, request)]
    if key and not own:
        require_own(similar[0].learned_by, request)
    await bot.send(reply.say, render.forget_question(own, key), private=True)


async def press_ask_forget(bot: BotBase, document_id: str, request: Request, reply: Reply) -> None:
    """A list's button asks first."""
    document = await document_by_id(bot, request.channel, document_id)
    require_own(document.learned_by, request)
    await bot.send(reply.say, render.forget_question([document], document.name), private=True)


async def press_forget(bot: BotBase, document_id: str, request: Request, reply: Reply) -> None:
    await _forget(bot, await document_by_id(bot, request.channel, document_id), request, reply)


async def _forget(bot: BotBase, document: Document, request: Request, reply: Reply) -> None:
    require_own(document.learned_by, request)
    await bot.send(reply.say, render.forgotten(await bot.service.forget(request.channel, document.id)))


async def reset(bot: BotBase, request: Request, reply: Reply) -> None:
    """Asks first; the button does it."""
    known = await bot.service.documents(request.channel)
    await bot.send(reply.say, render.reset_question(len(known)), private=True)


async def press_reset(bot: BotBase, _: str, request: Request, reply: Reply) -> None:
    await bot.send(reply.say, render.reset_done(await bot.service.reset(request.channel)), replace=True)


async def press_keep(bot: BotBase, _: str, request: Request, reply: Reply) -> None:
    await bot.send(reply.say, render.note("Kept. Nothing was changed."), replace=True)


async def settings(bot: BotBase, request: Request, reply: Reply) -> None:
    await bot.send(reply.say, render.settings(await settings_of(bot, request.channel)), private=True)


async def press_set(bot: BotBase, value: str, request: Request, reply: Reply) -> None:
    """ "NAME=VALUE" """
    name, _, choice = value.partition("=")
    if choice not in {"compare": render.COMPARE, "threads": render.THREADS}.get(name, ()):
        raise Refused("This button no longer works.")
    await bot.service.change_setting(request.channel, name, choice)
    await bot.send(reply.say, render.settings(await settings_of(bot, request.channel)), replace=True)


async def status(bot: BotBase, request: Request, reply: Reply) -> None:
    await bot.send(reply.say, render.status(await bot.service.status(request.channel), request.channel), private=True)


async def help(bot: BotBase, request: Request, reply: Reply) -> None:
    commands = {command.name: command.description for command in bot.commands}
    await bot.send(reply.say, render.help(commands, hears_follow_ups=bot.hears_follow_ups), private=True)


async def about(bot: BotBase, request: Request, reply: Reply) -> None:
    model = (await bot.service.status(request.channel)).model
    await bot.send(reply.say, render.about(model, bot.source), private=True)
