"""What people can ask of the bot: COMMANDS and ACTIONS (buttons), written once for every platform.

`Bot.run`, `Bot.press` and `Bot.hear` are the only ways in. They check the permission, call the handler and turn every
failure into words; a platform only translates.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from structlog.contextvars import bound_contextvars

from bot import intents, metrics, render
from bot.chat import Attachment, Live, Message, Reply, Request, Speaker, Undelivered, Unfinished, Unreachable
from bot.links import linked, links_in, without_links
from bot.quotas import QuotaConfig, Quotas
from core.document.formats import KINDS, check_size, is_named_as_document, may_be_document, pages_in, parse_pages
from core.document.language import ENGLISH, language_of
from core.errors import EngramError, NotAllowed, NotAPdf, NotFound, Refused, StorageFailed
from core.ports import Usage
from core.search.finder import has_id, is_named, matching
from core.search.whole import asks_about_whole
from core.service import harmless_name
from core.types import ALL_PAGES, Certainty, Document, Job, JobKind, Limits, Progress, Stage

if TYPE_CHECKING:
    from core.service import Service

log = logging.getLogger(__name__)

Handler = Callable[["Bot", Request, Reply], Awaitable[None]]
Press = Callable[["Bot", str, Request, Reply], Awaitable[None]]
Suggest = Callable[["Bot", Request, str], Awaitable[list[tuple[str, str]]]]  # (label, value), best first

FETCHES = 4  # files in memory at once
FETCH_TIMEOUT = 120.0  # seconds for one attachment
RETRY_AFTER = (1, 5, 15, 30, 60, 120)  # seconds between tries to hand a message to the platform
LATE = 30.0  # seconds after which an end that another front end has not told is told by this one
TRIED = 4  # example questions that are tried before some are offered
THREADS = {"slack": "always"}  # by platform: its habit; elsewhere an answer is a reply, and a follow-up opens a thread


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
    asks_by: str = ""  # the action whose form asks for files where none came

    def is_private(self, request: Request) -> bool:
        """Platforms have to know before the handler runs."""
        return bool(request.arguments.get("private", self.private))


@dataclass(frozen=True)
class Form:
    """What a button asks before it is handled: a text, as `Request.text`, or files, as its attachments."""

    title: str  # at most 24 characters (Slack)
    label: str  # at most 45 (Discord)
    files: bool = False


@dataclass(frozen=True)
class Action:
    run: Press
    form: Form | None = None
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
        name: str = "",
        limits: Limits | None = None,
        quotas: QuotaConfig | None = None,
        usage: Usage | None = None,
        source: str = "",
        commands: Sequence[Command] = (),
        hears_follow_ups: bool = True,
        opens_links: bool = False,
        edit_every: Callable[[float], float] | None = None,
    ) -> None:
        self.service = service
        self.name = name  # of this front end, where there are several; "": it is alone
        self.commands = commands or tuple(COMMANDS.values())  # as /help shows them
        self.limits = limits or Limits()
        self.quotas = Quotas(quotas or QuotaConfig(), usage)
        self.source = source  # where this bot's source is; shown by /about
        self.opens_links = opens_links  # that people send to have learned what is there
        self.hears_follow_ups = hears_follow_ups  # in threads, without a mention
        self.retry_after: Sequence[float] = RETRY_AFTER
        self.edit_every = edit_every or edit_interval  # age of a progress message -> seconds until its next edit
        self.hinted: set[tuple[str, str]] = set()  # channels, and what they were told once
        self.pace = dict(render.PACE)  # shares of the time that the stages of the last documents took
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
        """A button. Unknown ones are from an older version. Raises: Unfinished, as `run` and `hear` do."""
        if row := ACTIONS.get(action):
            await self._guarded(row.permission, request, reply, lambda: row.run(self, value, request, reply))
        else:
            await self.send(reply.say, render.note("This button no longer works."), private=True)

    async def hear(self, request: Request, reply: Reply) -> None:
        """A message: documents are learned, `bot.intents` knows commands and small talk, and the rest is a question."""
        name, arguments = await self._understand(request)
        if name in COMMANDS:
            await self.run(name, _with(request, arguments), reply)
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
            await self._resume(job, reopen)
        if self.name:
            self.spawn(self._tell_late(reopen))

    async def _resume(self, job: Job, reopen: Callable[[str], Awaitable[Live | None]]) -> None:
        if job.reply_to and (live := await reopen(job.reply_to)):
            self.follow(job, live)

    async def _tell_late(self, reopen: Callable[[str], Awaitable[Live | None]]) -> None:
        """Ends that another front end did not live to tell."""
        late: set[str] = set()  # ids of jobs that had ended, and were not told, at the last look
        while True:
            await asyncio.sleep(LATE)
            with contextlib.suppress(StorageFailed):
                ended = [job for job in await self.service.pending_deliveries() if job.stage.final]
                for job in ended:
                    if job.id in late:
                        await self._resume(job, reopen)
                late = {job.id for job in ended}

    def follow(self, job: Job, live: Live) -> None:
        """Keep a message up to date with a job, once: a job may be new and found by `resume` at the same time."""
        if job.id not in self._followed:
            self._followed.add(job.id)
            with bound_contextvars(**log_context(job.channel), job=job.id):  # the task takes them along
                self.spawn(follow(self, job, live))

    async def end_of(self, job: Job) -> Progress | None:
        """Waits for the end of a job; None when it was erased. Raises: Unfinished, when this process ends first."""
        try:
            async for news in self.service.watch(job.id):
                if news.job.stage.final:
                    return news
        except NotFound:
            return None
        except EngramError:
            raise Unfinished from None
        raise Unfinished

    async def send(self, send: Callable[..., Awaitable[Any]], *args: object, **kwargs: object) -> Any:
        """Try until the platform takes it, for some minutes. Raises: Undelivered."""
        for wait in self.retry_after:
            try:
                return await send(*args, **kwargs)
            except Unreachable:
                raise
            except Undelivered as problem:
                log.warning("a message was not taken (%r); trying again in %d s", problem.__cause__, wait)
                await asyncio.sleep(wait)
        return await send(*args, **kwargs)

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


def log_context(channel: str) -> dict[str, str]:
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


def _with(request: Request, arguments: Mapping[str, object]) -> Request:
    return replace(request, arguments={**request.arguments, **arguments})


# Learning ------------------------------------------------------------------------------------------------------------


async def learn(bot: Bot, request: Request, reply: Reply) -> None:
    """Every attachment gets its own message and its own job. A question beside them is answered when they are known."""
    if links := request.arguments.get("links"):
        more = linked(cast(Sequence[str], links), bot.limits, allowed=bot.opens_links)
        request = replace(request, attachments=(*request.attachments, *more))
    if not request.attachments:
        raise Refused("I see no file there. Attach a document to your message, and I will learn it.")
    asked = str(request.arguments.get("pages") or "")
    pages = parse_pages(asked) if asked else pages_in(without_links(request.text)) or ALL_PAGES
    begun = [await _learn_one(bot, attachment, request, reply, pages) for attachment in request.attachments]
    question, jobs = str(request.arguments.get("question") or ""), [job for job in begun if job]
    if question and jobs:
        await _answer_when_learned(bot, jobs, question, request, reply)


async def _answer_when_learned(bot: Bot, jobs: Sequence[Job], question: str, request: Request, reply: Reply) -> None:
    """Waits for the ends of jobs. What asked is handled only then, so that the next process asks again."""
    ends = [await bot.end_of(job) for job in jobs]
    known = [end.document for end in ends if end and end.document]
    if known:
        await _answer(bot, question, known[0].id if len(jobs) == 1 else None, False, request, reply)
    elif any(end and end.job.stage is Stage.FAILED for end in ends):
        await bot.send(reply.say, render.not_learned_after_all(jobs[0].name))


async def _learn_one(
    bot: Bot, attachment: Attachment, request: Request, reply: Reply, pages: tuple[int, int]
) -> Job | None:
    name = harmless_name(attachment.name)
    try:
        await _admit(bot, attachment, request)
    except Refused as problem:
        await bot.send(reply.say, render.refused(problem, name), private=True)
        return None
    live = await bot.send(reply.post, render.received(name))
    try:
        async with bot.fetching(request.user):
            data = await _fetch(attachment)
            given = {"by": request.user, "reply_to": live.address, "pages": pages}
            job = await bot.service.submit(request.channel, name, data, **given)
            del data
    except Exception as problem:
        if not isinstance(problem, Refused):
            log.exception("a document could not be taken in")
        await bot.send(live.finish, render.refused(problem, name))
        return None
    bot.follow(job, live)
    return job


async def _fetch(attachment: Attachment) -> bytes:
    """Raises: Refused."""
    try:
        return await asyncio.wait_for(attachment.read(), FETCH_TIMEOUT)
    except Refused:
        raise
    except Exception as problem:
        log.warning("an attachment could not be fetched", exc_info=problem)
        raise Refused("I could not download it; please send it again.") from None


async def _admit(bot: Bot, attachment: Attachment, request: Request) -> None:
    """What can be refused before the file is fetched. The content is judged later, by `core.document.formats`."""
    if not may_be_document(attachment.name, attachment.content_type):
        raise NotAPdf(f"I can't read such a file; send me {KINDS}.")
    check_size(attachment.size, bot.limits)
    known = await bot.service.documents(request.channel)
    coming = await bot.service.jobs(request.channel)
    await bot.quotas.upload(request.user, request.channel, len(known) + len(coming))


async def follow(bot: Bot, job: Job, live: Live) -> None:
    """Show a job's progress until its end, and mark the end as told. Told twice is possible, never is not."""
    try:
        last = await _watch(bot, job, live)
        if bot.name and not await bot.service.inbox.claim(f"told:{job.id}", bot.name, LATE):
            return  # another front end tells it
        message = await _ending(bot, last)
        with contextlib.suppress(Unreachable):  # nobody is left to be told
            await bot.send(live.finish, message)
        metrics.job_ended(last)
        await _note_told(bot, job)
    except NotFound:  # erased together with its channel
        with contextlib.suppress(Undelivered):
            await bot.send(live.finish, render.vanished(job.name))
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


async def _ending(bot: Bot, last: Progress) -> Message:
    if last.job.kind is JobKind.CORRECT:
        given = {one.id: one for one in await bot.service.corrections(last.job.channel)}
        return render.corrected(last, given.get(last.job.sources[1]))
    if not last.document:
        return render.finished(last)
    return render.finished(last, await _older(bot, last.document), await _examples(bot, last.document))


async def _older(bot: Bot, document: Document) -> Document | None:
    """The one that the channel knows by the same name."""
    known = await bot.service.documents(document.channel)
    return next((other for other in known if other.name == document.name and other.id != document.id), None)


async def _examples(bot: Bot, document: Document) -> list[tuple[int, str]]:
    """Questions to try, each with its number: they read well, and their answers are supported."""
    good = [(number, text) for number, text in enumerate(document.questions) if render.reads_well(text)][:TRIED]
    try:
        likely = await bot.service.likely(document, [text for _, text in good])
    except EngramError:  # forgotten meanwhile, or this process stops
        return []
    return [(number, text) for number, text in good if text in likely][: render.EXAMPLES]


async def _watch(bot: Bot, job: Job, live: Live) -> Progress:
    """The last news, which is final. Raises: NotFound."""
    shown = ProgressMessage(bot, live)
    ticking = bot.spawn(shown.tick())
    try:
        async for news in bot.service.watch(job.id):
            await shown.take(news)
            if news.job.stage.final:
                if news.document and news.job.kind is JobKind.LEARN:
                    bot.pace = _pace(bot.pace, shown.spent)
                return news
            await shown.edit()
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)  # an edit must not come after the end
    raise NotFound()


class ProgressMessage:
    """A job's progress as its message shows it: with each piece of news and in between, so that it always moves."""

    def __init__(self, bot: Bot, live: Live) -> None:
        self.spent: dict[Stage, float] = {}  # seconds in each stage
        self._bot, self._live = bot, live
        self._clock = asyncio.get_running_loop().time
        self._began, self._next_edit = self._clock(), 0.0
        self._news: Progress | None = None
        self._came = 0.0  # when the news did
        self._pages = 0

    async def take(self, news: Progress) -> None:
        self._note_time()
        self._news, self._came = news, self._clock()
        self._pages = await _charge(self._bot, news, self._pages)

    async def edit(self) -> None:
        """If it is time to."""
        if self._news and self._clock() >= self._next_edit:
            self._next_edit = self._clock() + self._bot.edit_every(self._clock() - self._began)
            seconds = self._news.seconds + self._clock() - self._came
            await self._live.edit(render.progress(replace(self._news, seconds=seconds), self._bot.pace))

    async def tick(self, every: float = 1.0) -> None:
        while True:
            await asyncio.sleep(every)
            await self.edit()

    def _note_time(self) -> None:
        """Up to now, in the stage that the last news told."""
        if self._news and (stage := self._news.job.stage) in render.STAGES:
            self.spent[stage] = self.spent.get(stage, 0.0) + self._clock() - self._came


def _pace(known: Mapping[Stage, float], spent: Mapping[Stage, float]) -> dict[Stage, float]:
    """Half of what was measured before, half of this document's shares."""
    total = sum(spent.values()) or 1.0
    return {stage: (share + spent.get(stage, 0.0) / total) / 2 for stage, share in known.items()}


async def _charge(bot: Bot, news: Progress, charged: int) -> int:
    """Count a document's pages against the quota as soon as they are known, once."""
    if news.pages and not charged:
        with contextlib.suppress(StorageFailed):
            await bot.quotas.pages(news.job.requested_by, news.job.channel, news.pages)
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
    await bot.send(reply.say, render.cancelling([job.name for job in own]), private=True)


async def press_cancel(bot: Bot, job_id: str, request: Request, reply: Reply) -> None:
    job = next((job for job in await bot.service.jobs(request.channel) if job.id == job_id), None)
    if job is None:
        raise NotFound("This is already over.")
    require_own(job.requested_by, request)
    await bot.service.cancel(request.channel, job_id)
    await bot.send(reply.say, render.cancelling([job.name]), private=True)


# Asking --------------------------------------------------------------------------------------------------------------


async def ask(bot: Bot, request: Request, reply: Reply) -> None:
    question = str(request.arguments.get("question") or "").strip()
    document = str(request.arguments.get("document") or "") or None
    private, only_likely = COMMANDS["ask"].is_private(request), bool(request.arguments.get("only_likely"))
    await _answer(bot, question, document, private, request, reply, only_likely=only_likely)


async def press_example(bot: Bot, value: str, request: Request, reply: Reply) -> None:
    """One of a document's example questions: "DOCUMENT/NUMBER"."""
    key, _, number = value.partition("/")
    document = _by_id(await bot.service.documents(request.channel), key)
    if not number.isdecimal() or int(number) >= len(document.questions):
        raise NotFound("I no longer know this question.")
    await _answer(bot, document.questions[int(number)], document.id, False, request, reply)


async def _answer(
    bot: Bot,
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
    document = _one(known, key).id if key else None
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


async def _nothing_known(bot: Bot, question: str, private: bool, request: Request, reply: Reply) -> None:
    """The base model is not asked. What is being learned will answer."""
    coming = await bot.service.jobs(request.channel)
    message = render.nothing_known(coming, is_dm=request.is_dm, upload=reply.takes_forms)
    await bot.send(reply.say, message, private=private or bool(coming))
    if coming:
        await _answer_when_learned(bot, coming[:1], question, request, reply)


def _hints(bot: Bot, request: Request, language: str) -> str:
    """What can't be heard, and what is read less well, is said once in a channel."""
    hints = {
        "To go on, mention me again or reply to this.": not (bot.hears_follow_ups or request.is_dm),
        "I read English best.": language != ENGLISH,
    }
    due = [hint for hint, applies in hints.items() if applies and (request.channel, hint) not in bot.hinted]
    bot.hinted.update((request.channel, hint) for hint in due)
    return " ".join(due)


async def _note_thread(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    """Where the answer stands, when that is not the thread that it was asked in."""
    if reply.thread not in ("", request.thread):
        try:
            await bot.service.placed(request.channel, answer_id, reply.thread)
        except StorageFailed:
            log.exception("the thread of an answer could not be stored; a follow-up there is asked as in the channel")


async def press_details(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    answer = await bot.service.answer(request.channel, answer_id)
    await bot.send(reply.say, render.answer_details(answer), private=True)


async def press_share(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    """Once, by the person who asked."""
    answer = await bot.service.share(request.channel, answer_id, by=request.user)
    if answer is None:
        raise Refused("You have shared this answer already.")
    compare = (await settings_of(bot, request.channel))["compare"]
    asked = render.asked_by(request.user_name, answer.question)
    await bot.send(reply.say, render.answer(answer, compare=compare, asked=asked))
    await _note_thread(bot, answer_id, request, reply)
    await bot.send(reply.say, render.note("Shared."), private=True)


async def press_upload(bot: Bot, _: str, request: Request, reply: Reply) -> None:
    await learn(bot, request, reply)


async def press_helpful(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    await bot.service.feedback(request.channel, answer_id, by=request.user, helpful=True)
    await bot.send(reply.say, render.thanks(), private=True)


async def press_wrong(bot: Bot, answer_id: str, request: Request, reply: Reply) -> None:
    """With what is right, where the person knows it. Whoever brought the document decides whether that is learned."""
    right = request.text.strip()
    await bot.service.feedback(request.channel, answer_id, by=request.user, helpful=False, correction=right)
    given = next((c for c in await bot.service.corrections(request.channel) if c.is_of(answer_id, request.user)), None)
    known = {document.id: document for document in await bot.service.documents(request.channel)}
    document = known.get(given.document_id) if given else None
    if not right or given is None or document is None:
        await bot.send(reply.say, render.noted(), private=True)
        return
    may_learn = owns(document.learned_by, request) and not request.is_guest
    await bot.send(reply.say, render.noted(given, may_learn=may_learn), private=True)
    if not may_learn and not request.is_whispered:
        await bot.send(reply.say, render.correction_offered(given, document, request.user_name or "Somebody"))


async def corrections(bot: Bot, request: Request, reply: Reply) -> None:
    """What people said is right, about the documents that one may decide on; the newest first."""
    known = {document.id: document for document in await bot.service.documents(request.channel)}
    given = [one for one in await bot.service.corrections(request.channel) if one.correction]
    own = [one for one in given if one.document_id in known and owns(known[one.document_id].learned_by, request)]
    await bot.send(reply.say, render.corrections(own[::-1]), private=True)


async def press_correction(bot: Bot, value: str, request: Request, reply: Reply) -> None:
    """ "learn/ID" or "undo/ID", by whoever brought the document."""
    order, _, correction_id = value.partition("/")
    undo = order == "undo"
    given = await bot.service.correction(request.channel, correction_id)
    document = _by_id(await bot.service.documents(request.channel), given.document_id)
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
    bot.follow(job, live)


async def small_talk(bot: Bot, name: str, request: Request, reply: Reply) -> None:
    """An emoji or a short sentence; the model is not asked, and no quota is touched."""
    if emoji := render.REACTIONS.get(name):
        await reply.react(emoji)
        return
    known, coming = await bot.service.documents(request.channel), await bot.service.jobs(request.channel)
    await bot.send(reply.say, render.small_talk(name, known, coming, is_dm=request.is_dm))


# Managing ------------------------------------------------------------------------------------------------------------


async def docs(bot: Bot, request: Request, reply: Reply) -> None:
    known = await bot.service.documents(request.channel)
    coming = await bot.service.jobs(request.channel)
    names = {user: await reply.name_of(user) for user in {document.learned_by for document in known}}
    own = [document.id for document in known if owns(document.learned_by, request)]
    message = render.documents(known, coming, names=names, is_dm=request.is_dm, own=own)
    await bot.send(reply.say, message, private=True)


async def press_learning(bot: Bot, document_id: str, request: Request, reply: Reply) -> None:
    """How learning a document went."""
    document = _by_id(await bot.service.documents(request.channel), document_id)
    picture = await asyncio.to_thread(render.loss_curve, document.metrics.loss_history)
    await bot.send(reply.say, render.learning_details(document, picture), private=True)


async def upload_deleted(bot: Bot, channel: str, posted: Callable[[str], bool], reply: Speaker) -> None:
    """Somebody removed a message with files: what is not learned yet is stopped, the rest may be forgotten.

    Args:
        posted: whether a `Job.reply_to` answers that message.
    """
    jobs = [job for job in await bot.service.jobs(channel, unfinished=False) if posted(job.reply_to)]
    known = {document.id: document for document in await bot.service.documents(channel)}
    for job in jobs:
        if not job.stage.final:
            await bot.service.cancel(channel, job.id)
        elif job.document_id in known:
            with contextlib.suppress(Undelivered):
                await bot.send(reply.say, render.upload_deleted(known[job.document_id]))


async def forget(bot: Bot, request: Request, reply: Reply) -> None:
    """One's own documents; managers any. Only a whole name or an id is an order; all else is asked about."""
    key = str(request.arguments.get("document") or "").strip()
    known = await bot.service.documents(request.channel)
    similar = matching(known, key)
    exact = [document for document in similar if is_named(document, key)]
    if len(exact) == 1:
        await _forget(bot, exact[0], request, reply)
        return
    if key and not similar:
        raise NotFound(f"I know no document called {harmless_name(key)} here; /docs lists what I know.")
    own = [document for document in similar if owns(document.learned_by, request)]
    if key and not own:
        require_own(similar[0].learned_by, request)
    await bot.send(reply.say, render.forget_question(own, key), private=True)


async def press_ask_forget(bot: Bot, document_id: str, request: Request, reply: Reply) -> None:
    """A list's button asks first."""
    document = _by_id(await bot.service.documents(request.channel), document_id)
    require_own(document.learned_by, request)
    await bot.send(reply.say, render.forget_question([document], document.name), private=True)


async def press_forget(bot: Bot, document_id: str, request: Request, reply: Reply) -> None:
    await _forget(bot, _by_id(await bot.service.documents(request.channel), document_id), request, reply)


async def _forget(bot: Bot, document: Document, request: Request, reply: Reply) -> None:
    require_own(document.learned_by, request)
    await bot.send(reply.say, render.forgotten(await bot.service.forget(request.channel, document.id)))


def _one(known: Sequence[Document], key: str) -> Document:
    """The document that is meant, the newest of several versions. Raises: NotFound."""
    similar = matching(known, key)
    if not similar:
        raise NotFound(f"I know no document called {harmless_name(key)} here; /docs lists what I know.")
    if len({document.name for document in similar}) > 1:
        names = ", ".join(document.name for document in similar[: render.OFFERED])
        raise NotFound(f"Which one do you mean: {names}?")
    return similar[0]


def _by_id(known: Sequence[Document], document_id: str) -> Document:
    """Raises: NotFound."""
    for document in known:
        if has_id(document, document_id):
            return document
    raise NotFound("I no longer know this document.")


async def suggest_documents(bot: Bot, request: Request, typed: str) -> list[tuple[str, str]]:
    known = await bot.service.documents(request.channel)
    return [(document.name, document.id) for document in known if typed.lower() in document.name.lower()]


async def reset(bot: Bot, request: Request, reply: Reply) -> None:
    """Asks first; the button does it."""
    known = await bot.service.documents(request.channel)
    await bot.send(reply.say, render.reset_question(len(known)), private=True)


async def press_reset(bot: Bot, _: str, request: Request, reply: Reply) -> None:
    await bot.send(reply.say, render.reset_done(await bot.service.reset(request.channel)), replace=True)


async def press_keep(bot: Bot, _: str, request: Request, reply: Reply) -> None:
    await bot.send(reply.say, render.note("Kept. Nothing was changed."), replace=True)


async def settings_of(bot: Bot, channel: str) -> dict[str, str]:
    """How a channel wants to be answered: what was chosen, else the habit of its platform."""
    chosen = await bot.service.settings(channel)
    habit = {"compare": "line", "threads": THREADS.get(channel.partition(":")[0], "follow-ups")}
    return {name: chosen.get(name, value) for name, value in habit.items()}


async def settings(bot: Bot, request: Request, reply: Reply) -> None:
    await bot.send(reply.say, render.settings(await settings_of(bot, request.channel)), private=True)


async def press_set(bot: Bot, value: str, request: Request, reply: Reply) -> None:
    """ "NAME=VALUE" """
    name, _, choice = value.partition("=")
    if choice not in {"compare": render.COMPARE, "threads": render.THREADS}.get(name, ()):
        raise Refused("This button no longer works.")
    await bot.service.change_setting(request.channel, name, choice)
    await bot.send(reply.say, render.settings(await settings_of(bot, request.channel)), replace=True)


async def status(bot: Bot, request: Request, reply: Reply) -> None:
    await bot.send(reply.say, render.status(await bot.service.status(request.channel), request.channel), private=True)


async def help(bot: Bot, request: Request, reply: Reply) -> None:
    commands = {command.name: command.description for command in bot.commands}
    await bot.send(reply.say, render.help(commands, hears_follow_ups=bot.hears_follow_ups), private=True)


async def about(bot: Bot, request: Request, reply: Reply) -> None:
    model = (await bot.service.status(request.channel)).model
    await bot.send(reply.say, render.about(model, bot.source), private=True)


# The tables ----------------------------------------------------------------------------------------------------------

_DOCUMENT = Option("document", "Which document; I choose when you leave it out", suggest=suggest_documents)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "learn",
            "Learn a document, for this channel alone",
            learn,
            options=(
                Option("file", "The document to learn; I ask for it when you leave it out", Kind.FILE),
                Option("pages", "Only these pages, for example 1-100"),
            ),
            permission=Permission.MEMBER,
            asks_by="upload",
        ),
        Command(
            "ask",
            "Ask about what I have learned here",
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
        Command("status", "Show what I am doing", status, private=True),
        Command("cancel", "Stop learning: your own, or all if you manage the channel", cancel, private=True),
        Command(
            "settings",
            "Choose how I answer in this channel (managers)",
            settings,
            permission=Permission.MANAGER,
            private=True,
        ),
        Command("corrections", "Look at what people say is right, to learn or undo it", corrections, private=True),
        Command("help", "Show what I can do", help, private=True),
        Command("about", "Show what I keep, and where I come from", about, private=True),
    )
}

ACTIONS: dict[str, Action] = {
    "cancel": Action(press_cancel),
    "example": Action(press_example, public=True),
    "forget": Action(press_forget, permission=Permission.MEMBER),
    "forget?": Action(press_ask_forget, permission=Permission.MEMBER),
    "details": Action(press_details),
    "learning": Action(press_learning),
    "set": Action(press_set, permission=Permission.MANAGER),
    "share": Action(press_share),
    "helpful": Action(press_helpful),
    "correction": Action(press_correction, permission=Permission.MEMBER, public=True),
    "wrong": Action(press_wrong, Form("That was wrong", "What is right, if you know it?")),
    "upload": Action(
        press_upload,
        Form("Hand me a document", "I learn it for this channel alone.", files=True),
        permission=Permission.MEMBER,
        public=True,
    ),
    "reset": Action(press_reset, permission=Permission.MANAGER),
    "keep": Action(press_keep),
}
