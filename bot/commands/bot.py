"""The only ways in: `Bot.run` a command, `Bot.press` a button, `Bot.hear` a message. They check the permission, call
the handler and turn every failure into words; a platform only translates."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from structlog.contextvars import bound_contextvars

from bot import intents, render
from bot.chat import Live, Reply, Request, Undelivered, Unfinished
from bot.commands.base import BotBase, Option, Permission, log_context, require
from bot.commands.following import deliver_overdue, resume_job
from bot.commands.tables import ACTIONS, COMMANDS
from bot.links import links_in, without_links
from core.document.formats import is_named_as_document
from core.errors import Refused, StorageFailed
from core.search.whole import asks_about_whole

log = logging.getLogger(__name__)


class Bot(BotBase):
    """The ways in."""

    table = COMMANDS

    async def run(self, name: str, request: Request, reply: Reply) -> None:
        """A command."""
        command = COMMANDS[name]
        await self._guarded(command.permission, request, reply, lambda: command.run(self, request, reply))

    async def press(self, action: str, value: str, request: Request, reply: Reply) -> None:
        """A button. Unknown ones are from an older version. Raises: Unfinished, as `run` and `hear` do."""
        if row := ACTIONS.get(action):
            await self._guarded(row.permission, request, reply, lambda: row.run(self, value, request, reply))
        else:
            await self.send(reply.say, render.note("This button no longer works."), private=True)

    async def hear(self, request: Request, reply: Reply) -> None:
        """A message: documents are learned, `bot.intents` knows commands and small talk, and the rest is a question."""
        name, arguments = await self._understand(request)
        if name in COMMANDS:
            await self.run(name, replace(request, arguments={**request.arguments, **arguments}), reply)
        elif name:
            await self._guarded(Permission.EVERYONE, request, reply, lambda: small_talk(self, name, request, reply))

    async def _understand(self, request: Request) -> tuple[str, Mapping[str, object]]:
        """A command or small talk with its arguments; "" when nothing is wanted of the bot."""
        try:
            names = [document.name for document in await self.service.documents(request.channel)]
        except StorageFailed:  # the command will say so
            names = []
        files = any(is_named_as_document(file.name, file.content_type) for file in request.attachments)
        if request.is_addressed and not files and (links := links_in(request.text)):
            around = intents.understand(without_links(request.text))
            if around.name == "learn" or not intents.normal(without_links(request.text)):
                return "learn", {"links": links}
        intent = intents.understand(request.text, names, with_files=files)
        is_asked = intents.is_question(request.text)
        if not request.is_addressed and not files and not is_wanted(intent, request.text, names):
            return "", {}
        if request.attachments and not files and not is_asked:
            return "learn", {}  # which says what can be learned
        if intent.name == "summary":
            return "ask", {"question": about_whole(request.text), "document": intents.named(request.text, names)}
        if intent.name == "ask" and not is_asked:
            return intent.name, {**intent.arguments, "only_likely": True}
        return intent.name, intent.arguments

    async def suggest(self, option: Option, request: Request, typed: str) -> list[tuple[str, str]]:
        """Choices for an option being typed. Never fails."""
        try:
            return await option.suggest(self, request, typed) if option.suggest else []
        except Exception:
            log.exception("no suggestions")
            return []

    async def resume(self, reopen: Callable[[str], Awaitable[Live | None]]) -> None:
        """After a restart: follow unfinished jobs and tell the ends that were never told. `reopen` turns a
        `Job.reply_to` into its message, or None when it is another platform's."""
        for job in await self.service.pending_deliveries():
            await resume_job(self, job, reopen)
        if self.name:
            self.spawn(deliver_overdue(self, reopen))

    async def _guarded(
        self, permission: Permission, request: Request, reply: Reply, handler: Callable[[], Awaitable[None]]
    ) -> None:
        """Permission before, words for every failure after: the one place for both."""
        with bound_contextvars(**log_context(request.channel)):
            try:
                await self.quotas.command(request.user)
                require(permission, request)
                await handler()
            except Undelivered:
                log.warning("a reply could not be delivered")
            except Unfinished:
                raise
            except Exception as problem:
                if not isinstance(problem, Refused):
                    log.exception("a command failed")
                with contextlib.suppress(Undelivered):
                    await self.send(reply.say, render.error(problem), private=True)


def is_wanted(intent: intents.Intent, text: str, documents: Sequence[str]) -> bool:
    """Whether something said in a conversation with the bot, without addressing it, is meant for it: questions, thanks,
    a command's bare name, and an order to forget a document that it knows."""
    if intent.name == "ask":
        return intents.is_question(text)
    if intent.name == "forget" and intent.arguments:
        key = str(intent.arguments["document"]).casefold()
        return any(key in name.casefold() for name in documents)
    return intent.name in ("thanks", "summary") or intents.normal(text) == intent.name


def about_whole(text: str) -> str:
    """What is asked of a whole document: as typed, where that is understood; it may name the document."""
    asked = intents.question(text)
    return asked if asks_about_whole(asked) else "What is this document about?"


async def small_talk(bot: Bot, name: str, request: Request, reply: Reply) -> None:
    """An emoji or a short sentence; the model is not asked, and no quota is touched."""
    if emoji := render.REACTIONS.get(name):
        await reply.react(emoji)
        return
    known, coming = await bot.service.documents(request.channel), await bot.service.jobs(request.channel)
    await bot.send(reply.say, render.small_talk(name, known, coming, is_dm=request.is_dm))
