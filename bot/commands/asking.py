"""Questions, their answers, and what people say about those."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from bot import metrics, render
from bot.chat import Reply, Request
from bot.commands.base import BotBase, owns, require_own
from bot.commands.channel import document_by_id, documents_by_id, one_document, settings_of
from bot.commands.following import follow
from core.document.language import ENGLISH, language_of
from core.errors import EngramError, NotFound, Refused, StorageFailed
from core.types import Certainty, Job, Stage

log = logging.getLogger(__name__)


async def ask(bot: BotBase, request: Request, reply: Reply) -> None:
    question = str(request.arguments.get("question") or "").strip()
    document = str(request.arguments.get("document") or "") or None
    private, only_likely = bool(request.arguments.get("private")), bool(request.arguments.get("only_likely"))
    await answer_question(bot, question, document, private, request, reply, only_likely=only_likely)


async def press_example(bot: BotBase, value: str, request: Request, reply: Reply) -> None:
    """One of a document's example questions: "DOCUMENT/NUMBER"."""
    key, _, number = value.partition("/")
    document = await document_by_id(bot, request.channel, key)
    if not number.isdecimal() or int(number) >= len(document.questions):
        raise NotFound("I no longer know this question.")
    await answer_question(bot, document.questions[int(number)], document.id, False, request, reply)


async def answer_question(
    bot: BotBase,
    question: str,
    key: str | None,
    private: bool,
    request: Request,
    reply: Reply,
    *,
    only_likely: bool = False,
) -> None:
    """`only_likely`: the words may be no question at all, so only a good answer is worth giving."""
    if not question:
        raise Refused("What would you like to know?")
    known = await bot.service.documents(request.channel)
    if not known:
        await _nothing_known(bot, question, private, request, reply)
        return
    document = one_document(known, key).id if key else None
    await bot.quotas.question(request.user, request.channel)
    chosen = await settings_of(bot, request.channel)
    async with reply.thinking():
        with metrics.answering():
            answer = await bot.service.ask(
                request.channel, question, document=document, by=request.user, thread=request.thread
            )
    if only_likely and answer.certainty is not Certainty.LIKELY:
        await bot.send(reply.say, render.not_understood(known))
        return
    language = await asyncio.to_thread(language_of, question)
    message = render.answer(
        answer,
        compare=chosen["compare"],
        private=private,
        asked="" if reply.shows_question else render.asked_by("You" if private else request.user_name, question),
        coming=[] if answer.learned else await bot.service.jobs(request.channel),
        hint=_hints(bot, request, language),
    )
    opens_thread = chosen["threads"] == "always" or (chosen["threads"] == "follow-ups" and request.thread)
    await bot.send(reply.say, message, private=private, thread=question if opens_thread else "")
    await _note_thread(bot, answer.id, request, reply)


async def _nothing_known(bot: BotBase, question: str, private: bool, request: Request, reply: Reply) -> None:
    """The base model is not asked. What is being learned will answer."""
    coming = await bot.service.jobs(request.channel)
    message = render.nothing_known(coming, is_dm=request.is_dm, upload=reply.takes_forms)
    await bot.send(reply.say, message, private=private or bool(coming))
    if coming:
        await answer_when_learned(bot, coming[:1], question, request, reply)


async def answer_when_learned(bot: BotBase, jobs: Sequence[Job], question: str, request: Request, reply: Reply) -> None:
    """Waits for the ends of jobs. What asked is handled only then, so that the next process asks again."""
    learned, has_failed = [], False
    for job in jobs:
        if end := await bot.end_of(job):
            has_failed |= end.job.stage is Stage.FAILED
            if end.document:
                learned.append(end.document.id)
    if learned:
        await answer_question(bot, question, learned[0] if len(jobs) == 1 else None, False, request, reply)
    elif has_failed:
        await bot.send(reply.say, render.not_learned_after_all(jobs[0].name))


def _hints(bot: BotBase, request: Request, language: str) -> str:
    """What can't be heard, and what is read less well, is said once in a channel."""
    hints = []
    if not (bot.hears_follow_ups or request.is_dm):
        hints.append("To go on, mention me again or reply to this.")
    if language != ENGLISH:
        hints.append("I read English best.")
    due = [hint for hint in hints if (request.channel, hint) not in bot.hinted]
    bot.hinted.update((request.channel, hint) for hint in due)
    return " ".join(due)


async def _note_thread(bot: BotBase, answer_id: str, request: Request, reply: Reply) -> None:
    """Where the answer stands, when that is not the thread that it was asked in."""
    if reply.thread not in ("", request.thread):
        try:
            await bot.service.placed(request.channel, answer_id, reply.thread)
        except StorageFailed:
            log.exception("the thread of an answer could not be stored; a follow-up there is asked as in the channel")


async def press_details(bot: BotBase, answer_id: str, request: Request, reply: Reply) -> None:
    answer = await bot.service.answer(request.channel, answer_id)
    await bot.send(reply.say, render.answer_details(answer), private=True)


async def press_share(bot: BotBase, answer_id: str, request: Request, reply: Reply) -> None:
    """Once, by the person who asked."""
    answer = await bot.service.share(request.channel, answer_id, by=request.user)
    if answer is None:
        raise Refused("You have shared this answer already.")
    compare = (await settings_of(bot, request.channel))["compare"]
    asked = render.asked_by(request.user_name, answer.question)
    await bot.send(reply.say, render.answer(answer, compare=compare, asked=asked))
    await _note_thread(bot, answer_id, request, reply)
    await bot.send(reply.say, render.note("Shared."), private=True)


async def press_helpful(bot: BotBase, answer_id: str, request: Request, reply: Reply) -> None:
    await bot.service.feedback(request.channel, answer_id, by=request.user, helpful=True)
    await bot.send(reply.say, render.thanks(), private=True)


async def press_wrong(bot: BotBase, answer_id: str, request: Request, reply: Reply) -> None:
    """With what is right, where the person knows it. Whoever brought the document decides whether that is learned."""
    right = request.text.strip()
    await bot.service.feedback(request.channel, answer_id, by=request.user, helpful=False, correction=right)
    given = document = None
    for correction in await bot.service.corrections(request.channel):
        if correction.is_of(answer_id, request.user):
            given = correction
            document = (await documents_by_id(bot, request.channel)).get(given.document_id)
    if not right or given is None or document is None:
        await bot.send(reply.say, render.noted(), private=True)
        return
    may_learn = owns(document.learned_by, request) and not request.is_guest
    passed_on = not may_learn and not request.is_whispered
    await bot.send(reply.say, render.noted(given, may_learn=may_learn, passed_on=passed_on), private=True)
    if passed_on:
        await bot.send(reply.say, render.correction_offered(given, document, request.user_name or "Somebody"))


async def corrections(bot: BotBase, request: Request, reply: Reply) -> None:
    """What people said is right, about the documents that one may decide on; the newest first."""
    known = await documents_by_id(bot, request.channel)
    own = []
    for given in await bot.service.corrections(request.channel):
        document = known.get(given.document_id)
        if given.correction and document and owns(document.learned_by, request):
            own.append(given)
    await bot.send(reply.say, render.corrections(own[::-1]), private=True)


async def press_correction(bot: BotBase, value: str, request: Request, reply: Reply) -> None:
    """ "learn/ID" or "undo/ID", by whoever brought the document."""
    order, _, correction_id = value.partition("/")
    undo = order == "undo"
    given = await bot.service.correction(request.channel, correction_id)
    document = await document_by_id(bot, request.channel, given.document_id)
    require_own(document.learned_by, request)
    if given.learned != undo:
        raise Refused("I don't know that any more." if undo else "I have learned that already.")
    live = await bot.send(reply.post, render.correcting(document.name))
    try:
        job = await bot.service.learn_correction(
            request.channel, correction_id, by=request.user, reply_to=live.address, undo=undo
        )
    except EngramError as problem:
        await bot.send(live.finish, render.error(problem))
        return
    follow(bot, job, live)
