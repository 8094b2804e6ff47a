"""What people can ask of the bot: COMMANDS and ACTIONS (buttons), written once for every platform.

`Bot.run`, `Bot.press` and `Bot.hear` are the only ways in. They check the permission, call the handler and turn every
failure into words; a platform only translates.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from structlog.contextvars import bound_contextvars

from bot import metrics, render
from bot.chat import Attachment, Live, Message, Reply, Request, Undelivered, Unreachable
from bot.quotas import QuotaConfig, Quotas
from core.errors import EngramError, NotAllowed, NotAPdf, NotFound, PdfTooBig, Refused, StorageFailed
from core.service import harmless_name
from core.types import Document, Job, Limits, Progress

if TYPE_CHECKING:
    from core.service import Service

log = logging.getLogger(__name__)

Handler = Callable[["Bot", Request, Reply], Awaitable[None]]
Press = Callable[["Bot", str, Request, Reply], Awaitable[None]]
Suggest = Callable[["Bot", Request, str], Awaitable[list[tuple[str, str]]]]  # (label, value), best first

FETCHES = 4  # files in memory at once
FETCH_TIMEOUT = 120.0  # seconds for one attachment
RETRY_AFTER = (1, 5, 15, 30, 60, 120)  # seconds between tries to hand a message to the platform


class Permission(StrEnum):
    """Who may use a command. Direct messages: everyone manages their own."""

    EVERYONE = "everyone"
    MEMBER = "member"  # everyone but guests and people of other workspaces
    MANAGER = "manager"  # who may manage the channel on the platform


class Kind(StrEnum):
    """What an option takes."""

    TEXT = "text"
    FILE = "file"
    YES_NO = "yes or no"


@dataclass(frozen=True)
class Option:
    name: str
    description: str
    kind: Kind = Kind.TEXT
    required: bool = False
    suggest: Suggest | None = None


@dataclass(frozen=True)
class Command:
    name: str
    description: str
    run: Handler
    options: tuple[Option, ...] = ()
    permission: Permission = Permission.EVERYONE
    private: bool = False  # by default only the asker sees the answer

    def is_private(self, request: Request) -> bool:
        """Platforms have to know before the handler runs."""
        return bool(request.arguments.get("private", self.private))


@dataclass(frozen=True)
class Action:
    run: Press
    permission: Permission = Permission.EVERYONE
    public: bool = False  # the answer is a message of its own, for all


class Bot:
    """The commands' common ground: the service, the quotas, and the background work of following jobs.

    Use as `async with`: leaving stops following; jobs go on and are picked up by `resume` in the next process.
    """

    def __init__(
        self,
        service: Service,
        *,
        limits: Limits | None = None,
        quotas: QuotaConfig | None = None,
        source: str = "",
        commands: Sequence[Command] = (),
    ) -> None:
        self.service = service
        self.commands = commands or tuple(COMMANDS.values())  # as /help shows them
        self.limits = limits or Limits()
        self.quotas = Quotas(quotas or QuotaConfig())
        self.source = source  # where this bot's source is; shown by /about
        self.private_answers: OrderedDict[str, tuple[Request, Message]] = (
            OrderedDict()
        )  # by answer's id: who asked, where
        self._fetches = asyncio.Semaphore(FETCHES)
        self._fetch_of: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by user
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed: set[str] = set()  # job ids

    async def __aenter__(self) -> Bot:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self, name: str, request: Request, reply: Reply) -> None:
        """A command."""
        command = COMMANDS[name]
        await self._guarded(command.permission, request, reply, lambda: command.run(self, request, reply))

    async def press(self, action: str, value: str, request: Request, reply: Reply) -> None:
        """A button. Unknown ones are from an older version."""
        if row := ACTIONS.get(action):
            await self._guarded(row.permission, request, reply, lambda: row.run(self, value, request, reply))
        else:
            await insist(reply.say, render.note("This button no longer works."), private=True)

    async def hear(self, request: Request, reply: Reply) -> None:
        """A message meant for the bot: attachments are learned, a command's name is a command, all else a question."""
        name, arguments = understand(request)
        await self.run(name, _with(request, arguments), reply)

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
            if job.reply_to and (live := await reopen(job.reply_to)):
                self.follow(job, live)

    def follow(self, job: Job, live: Live) -> None:
        """Keep a message up to date with a job, once: a job may be new and found by `resume` at the same time."""
        if job.id not in self._followed:
            self._followed.add(job.id)
            with bound_contextvars(**place_of(job.channel), job=job.id):  # the task takes them along
                self.spawn(follow(self, job, live))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @contextlib.asynccontextmanager
    async def fetching(self, user: str) -> AsyncIterator[None]:
        """One file of a person in memory at once, and few of all: a file may have 50 MB."""
        async with self._fetch_of[user], self._fetches:
            yield

    async def _guarded(
        self, permission: Permission, request: Request, reply: Reply, handler: Callable[[], Awaitable[None]]
    ) -> None:
        """Permission before, words for every failure after: the one place for both."""
        with bound_contextvars(**place_of(request.channel)):
            try:
                self.quotas.command(request.user)
                require(permission, request)
                await handler()
            except Undelivered:
                log.warning("a reply could not be delivered")
            except Exception as problem:
                if not isinstance(problem, Refused):
                    log.exception("a command failed")
                with contextlib.suppress(Undelivered):
                    await insist(reply.say, render.error(problem), private=True)


def place_of(channel: str) -> dict[str, str]:
    """For the log: "discord:GUILD" or "slack:TEAM", and the channel."""
    return {"guild": channel.rpartition(":")[0], "channel": channel}


def require(permission: Permission, request: Request) -> None:
    """Raises: NotAllowed."""
    if permission is not Permission.EVERYONE and request.is_unknown:
        raise NotAllowed("I can't find out at the moment whether you may do that; try again in a minute.")
    if permission is not Permission.EVERYONE and request.is_guest:
        raise NotAllowed("Guests can ask me questions here, but not change what I know.")
    if permission is Permission.MANAGER and not (request.is_manager or request.is_dm):
        raise NotAllowed()


def owns(owner: str, request: Request) -> bool:
    """What somebody brought is that person's and the managers'."""
    return owner == request.user or request.is_manager or request.is_dm


def require_own(owner: str, request: Request) -> None:
    """Raises: NotAllowed."""
    if not owns(owner, request):
        raise NotAllowed("Only the person who brought it, or somebody who manages this channel, can do that.")


def understand(request: Request) -> tuple[str, dict[str, object]]:
    """Free text -> command and arguments. Only a lone command name, `forget NAME` and `ask QUESTION` count as
    commands, so that a question may begin with any other word."""
    words = request.text.split(maxsplit=1)
    first, rest = (words[0].lower().removeprefix("/") if words else ""), (words[1] if len(words) > 1 else "")
    if request.attachments:
        return "learn", {}
    if not first:
        return "help", {}
    if first in COMMANDS and not rest:
        return first, {}
    if first == "forget":
        return "forget", {"document": rest}
    if first == "ask":
        return "ask", {"question": rest}
    return "ask", {"question": request.text.strip()}


def _with(request: Request, arguments: dict[str, object]) -> Request:
    return replace(request, arguments={**request.arguments, **arguments})


async def insist(send: Callable[..., Awaitable[Any]], *args: object, **kwargs: object) -> Any:
    """Try until the platform takes it, for some minutes. Raises: Undelivered."""
    for wait in RETRY_AFTER:
        try:
            return await send(*args, **kwargs)
        except Unreachable:
            raise
        except Undelivered as problem:
            log.warning("a message was not taken (%r); trying again in %d s", problem.__cause__, wait)
            await asyncio.sleep(wait)
    return await send(*args, **kwargs)


# Learning ------------------------------------------------------------------------------------------------------------


async def learn(bot: Bot, request: Request, reply: Reply) -> None:
    """Every attachment gets its own message and its own job."""
    if not request.attachments:
        raise Refused("Attach a PDF to your message, and I will learn it.")
    for attachment in request.attachments:
        await _learn_one(bot, attachment, request, reply)


async def _learn_one(bot: Bot, attachment: Attachment, request: Request, reply: Reply) -> None:
    name = harmless_name(attachment.name)
    try:
        await _admit(bot, attachment, request)
    except Refused as problem:
        await insist(reply.say, render.refused(problem, name))
        return
    live = await insist(reply.post, render.received(name))
    try:
        async with bot.fetching(request.user):
            data = await _fetch(bot, attachment)
            job = await bot.service.submit(request.channel, name, data, by=request.user, reply_to=live.address)
            del data
    except Exception as problem:
        if not isinstance(problem, Refused):
            log.exception("a document could not be taken in")
        await insist(live.finish, render.refused(problem, name))
        return
    bot.follow(job, live)


async def _fetch(bot: Bot, attachment: Attachment) -> bytes:
    """Raises: Refused."""
    try:
        data = await asyncio.wait_for(attachment.read(), FETCH_TIMEOUT)
    except Refused:
        raise
    except Exception as problem:
        log.warning("an attachment could not be fetched", exc_info=problem)
        raise Refused("I could not download it; please send it again.") from None
    _check_size(bot, len(data))  # what the platform said may be wrong
    return data


async def _admit(bot: Bot, attachment: Attachment, request: Request) -> None:
    """What can be refused before the file is fetched. The content is judged later, by `core.pdf`."""
    if not attachment.name.lower().endswith(".pdf") and attachment.content_type.split(";")[0] != "application/pdf":
        raise NotAPdf("I can only learn PDF files.")
    _check_size(bot, attachment.size)
    known = len(await bot.service.documents(request.channel)) + len(await bot.service.jobs(request.channel))
    bot.quotas.upload(request.user, request.channel, known)


def _check_size(bot: Bot, size: int) -> None:
    if size > bot.limits.max_bytes:
        raise PdfTooBig(f"It has {_megabytes(size)} MB; the limit is {_megabytes(bot.limits.max_bytes)} MB.")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f}".removesuffix(".0")


async def follow(bot: Bot, job: Job, live: Live) -> None:
    """Show a job's progress until its end, and mark the end as told. Told twice is possible, never is not."""
    try:
        last = await _watch(bot, job, live)
        losses = last.document.metrics.loss_history if last.document else ()
        picture = await asyncio.to_thread(render.loss_curve, losses)
        with contextlib.suppress(Unreachable):  # nobody is left to be told
            await insist(live.finish, render.finished(last, picture))
        metrics.job_ended(last)
        await _note_told(bot, job)
    except NotFound:  # erased together with its channel
        with contextlib.suppress(Undelivered):
            await insist(live.finish, render.vanished(job.name))
    except EngramError as problem:  # this process stops, or has no model: the job waits for the next start
        await live.edit(render.waits(job.name, problem))
    except Exception:
        log.exception("the end of a job was not told; the next start tries again")
    finally:
        bot._followed.discard(job.id)


async def _note_told(bot: Bot, job: Job) -> None:
    try:
        await bot.service.delivered(job.id)
    except StorageFailed:
        log.exception("that an end was told could not be stored; the next start tells it again")


async def _watch(bot: Bot, job: Job, live: Live) -> Progress:
    """The last news, which is final. Raises: NotFound."""
    clock = asyncio.get_running_loop().time
    began, next_edit, pages = clock(), 0.0, 0
    async for news in bot.service.watch(job.id):
        pages = _charge(bot, news, pages)
        if news.job.stage.final:
            return news
        if clock() >= next_edit:
            await live.edit(render.progress(news))
            next_edit = clock() + edit_interval(clock() - began)
    raise NotFound()


def _charge(bot: Bot, news: Progress, charged: int) -> int:
    """Count a document's pages against the quota as soon as they are known, once."""
    if news.pages and not charged:
        bot.quotas.pages(news.job.requested_by, news.job.channel, news.pages)
    return charged or news.pages


def edit_interval(age: float) -> float:
    """Seconds between two edits of a message of that age: 3 s in the first minute, then rarer, at most one a minute."""
    return min(60.0, max(3.0, age / 20))


async def cancel(bot: Bot, request: Request, reply: Reply) -> None:
    """Managers stop whatever the channel learns; others their own."""
    jobs = await bot.service.jobs(request.channel)
    own = [job for job in jobs if owns(job.requested_by, request)]
    if not own:
        raise NotFound(
            "Somebody else's document is being learned." if jobs else "I am learning nothing here right now."
        )
    for job in own:
        await bot.service.cancel(request.channel, job.id)
    await insist(reply.say, render.cancelling([job.name for job in own]), private=True)


async def press_cancel(bot: Bot, job_id: str, request: Request, reply: Reply) -> None:
    job = next((job for job in await bot.service.jobs(request.channel) if job.id == job_id), None)
    if job is None:
        raise NotFound("This is already over.")
    require_own(job.requested_by, request)
    await bot.service.cancel(request.channel, job_id)
    await insist(reply.say, render.cancelling([job.name]), private=True)


# Asking --------------------------------------------------------------------------------------------------------------


async def ask(bot: Bot, request: Request, reply: Reply) -> None:
    question = str(request.arguments.get("question") or "").strip()
    document = str(request.arguments.get("document") or "") or None
    await _answer(bot, question, document, COMMANDS["ask"].is_private(request), request, reply)


async def press_example(bot: Bot, value: str, request: Request, reply: Reply) -> None:
    """One of a document's example questions: "DOCUMENT/NUMBER"."""
    key, _, number = value.partition("/")
    known = {document.id: document for document in await bot.service.documents(request.channel)}
    if key not in known or not number.isdecimal() or int(number) >= len(known[key].questions):
        raise NotFound("I no longer know the document that this question is about.")
    await _answer(bot, known[key].questions[int(number)], key, False, request, reply)


async def _answer(bot: Bot, question: str, document: str | None, private: bool, request: Request, reply: Reply) -> None:
    if not question:
        raise Refused("What would you like to know?")
    bot.quotas.question(request.user, request.channel)
    thread = "" if private else question
    async with reply.thinking(thread):
        with metrics.answering():
            answer = await bot.service.ask(
                request.channel, question, document=document, by=request.user, thread=request.thread
            )
    coming = [] if answer.learned else await bot.service.jobs(request.channel)
    message = render.answer(answer, private=private, coming=coming)
    if private:
        _remember(bot, answer.id, request, message)
    await insist(reply.say, message, private=private, thread=thread)
    await _note_thread(bot, answer.id, request, reply)


async def _note_thread(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    """Where the answer stands, when that is not the thread that it was asked in."""
    if reply.thread not in ("", request.thread):
        try:
            await bot.service.placed(request.channel, answer_id, reply.thread)
        except StorageFailed:
            log.exception("the thread of an answer could not be stored; a follow-up there is asked as in the channel")


def _remember(bot: Bot, answer_id: str, asked: Request, message: Message, keep: int = 500) -> None:
    """Private answers can be shared for a while; after a restart, one asks again."""
    bot.private_answers[answer_id] = (replace(asked, attachments=()), message)
    while len(bot.private_answers) > keep:
        bot.private_answers.popitem(last=False)


async def press_share(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    asked, message = bot.private_answers.get(answer_id, (None, Message()))
    its_own = asked is not None and (asked.user, asked.channel) == (request.user, request.channel)
    if not its_own or not await bot.service.has_answer(request.channel, answer_id):  # it may be erased since
        raise NotFound("I no longer have that answer; ask again to share it.")
    await insist(reply.say, render.shared(message, request.user_name))
    await _note_thread(bot, answer_id, request, reply)
    await insist(reply.say, render.note("Shared."), private=True)


async def press_helpful(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    await _feedback(bot, answer_id, True, request, reply)


async def press_wrong(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    await _feedback(bot, answer_id, False, request, reply)


async def _feedback(bot: Bot, answer_id: str, helpful: bool, request: Request, reply: Reply) -> None:
    await bot.service.feedback(request.channel, answer_id, by=request.user, helpful=helpful)
    await insist(reply.say, render.thanks(helpful), private=True)


# Managing ------------------------------------------------------------------------------------------------------------


async def docs(bot: Bot, request: Request, reply: Reply) -> None:
    known = await bot.service.documents(request.channel)
    coming = await bot.service.jobs(request.channel)
    names = {user: await reply.name_of(user) for user in {document.learned_by for document in known}}
    await insist(reply.say, render.documents(known, coming, names=names), private=True)


async def forget(bot: Bot, request: Request, reply: Reply) -> None:
    """One's own documents; managers any. Without a name, buttons show what there is."""
    key = str(request.arguments.get("document") or "").strip()
    if key:
        await _forget(bot, await _find(bot, request.channel, key), request, reply)
        return
    own = [document for document in await bot.service.documents(request.channel) if owns(document.learned_by, request)]
    await insist(reply.say, render.forget_question(own), private=True)


async def press_forget(bot: Bot, document_id: str, request: Request, reply: Reply) -> None:
    await _forget(bot, await _find(bot, request.channel, document_id), request, reply)


async def _forget(bot: Bot, document: Document, request: Request, reply: Reply) -> None:
    require_own(document.learned_by, request)
    await insist(reply.say, render.forgotten(await bot.service.forget(request.channel, document.id)))


async def _find(bot: Bot, channel: str, key: str) -> Document:
    """By id, name, or the beginning of one name. Raises: NotFound."""
    known = await bot.service.documents(channel)
    exact = [document for document in known if key == document.id or key.lower() == document.name.lower()]
    found = exact or [document for document in known if document.name.lower().startswith(key.lower())]
    if not found:
        raise NotFound(f"I know no document called {harmless_name(key)} here; /docs lists what I know.")
    if len(found) > 1:
        raise NotFound(f"{len(found)} documents are called that; give the id that /docs shows.")
    return found[0]


async def suggest_documents(bot: Bot, request: Request, typed: str) -> list[tuple[str, str]]:
    known = await bot.service.documents(request.channel)
    return [(document.name, document.id) for document in known if typed.lower() in document.name.lower()]


async def reset(bot: Bot, request: Request, reply: Reply) -> None:
    """Asks first; the button does it."""
    known = await bot.service.documents(request.channel)
    await insist(reply.say, render.reset_question(len(known)), private=True)


async def press_reset(bot: Bot, _: str, request: Request, reply: Reply) -> None:
    await insist(reply.say, render.reset_done(await bot.service.reset(request.channel)), replace=True)


async def press_keep(bot: Bot, _: str, request: Request, reply: Reply) -> None:
    await insist(reply.say, render.note("Kept. Nothing was changed."), replace=True)


async def status(bot: Bot, request: Request, reply: Reply) -> None:
    await insist(reply.say, render.status(await bot.service.status(request.channel), request.channel), private=True)


async def help(bot: Bot, request: Request, reply: Reply) -> None:
    await insist(reply.say, render.help(bot.commands), private=True)


async def about(bot: Bot, request: Request, reply: Reply) -> None:
    model = (await bot.service.status(request.channel)).model
    await insist(reply.say, render.about(model, bot.source), private=True)


# The tables ----------------------------------------------------------------------------------------------------------

_DOCUMENT = Option("document", "Which document; I choose when you leave it out", suggest=suggest_documents)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "learn",
            "Learn a PDF into this channel's own weights",
            learn,
            options=(Option("file", "The PDF to learn", Kind.FILE, required=True),),
            permission=Permission.MEMBER,
        ),
        Command(
            "ask",
            "Ask about what this channel has taught me",
            ask,
            options=(
                Option("question", "What you want to know", required=True),
                _DOCUMENT,
                Option("private", "Only you see the answer", Kind.YES_NO),
            ),
        ),
        Command("docs", "List what I know here", docs, private=True),
        Command(
            "forget",
            "Erase one document: your own, or any if you manage the channel",
            forget,
            options=(Option("document", "Which document", required=True, suggest=suggest_documents),),
            permission=Permission.MEMBER,
        ),
        Command("reset", "Erase everything I know here (managers)", reset, permission=Permission.MANAGER, private=True),
        Command("status", "Show the queue, the model and the device", status, private=True),
        Command("cancel", "Stop learning: your own, or all if you manage the channel", cancel, private=True),
        Command("help", "Show what I can do", help, private=True),
        Command("about", "Show source, licence, model, and what I keep", about, private=True),
    )
}

ACTIONS: dict[str, Action] = {
    "cancel": Action(press_cancel),
    "example": Action(press_example, public=True),
    "forget": Action(press_forget, Permission.MEMBER, public=True),
    "share": Action(press_share),
    "helpful": Action(press_helpful),
    "wrong": Action(press_wrong),
    "reset": Action(press_reset, Permission.MANAGER),
    "keep": Action(press_keep),
}
