"""Front ends and workers on PostgreSQL: procrastinate's queues carry work there, NOTIFY carries news and replies back.

Jobs stay rows of the index, where channels take turns. A ticket in the queue says that there is one more to work on:
whoever gets it claims the next job, and the job names the ticket. When a worker dies, its ticket is found by the
worker's last heartbeat and queued again, and the job with it, as a new attempt.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import procrastinate
import psycopg
from procrastinate.exceptions import ConnectorException
from procrastinate.job_context import AbortReason
from pydantic import TypeAdapter

from core import errors
from core.answerer import Answerer
from core.errors import EngramError, KeyLost, NotFound, StorageFailed, StorageUnavailable
from core.feed import Feeds
from core.ports import AboutEngine
from core.runner import Runner
from core.types import Answer, Job, Progress, Stage, Step
from storage.connections import Connection, pool
from storage.keys import key_id
from storage.postgres import PostgresIndex

log = logging.getLogger(__name__)
logging.getLogger("procrastinate").setLevel(logging.WARNING)  # a line for each question otherwise

LEARNING, CALLS, MENDING = "learning", "calls", "mending"  # queues
NEWS_CHANNEL = "engram_news"  # channel of NOTIFY
MAX_CONNECTIONS = 4  # of one process, beside those of the index
HEARTBEAT_SECONDS = 5.0  # seconds between a worker's signs of life
DEAD_AFTER = 20.0  # seconds without one
EVERY_5_SECONDS = "* * * * * */5"
POLL_SECONDS = 1.0  # seconds; a ticket that is queued again is not notified
ANSWER_TIMEOUT = 120.0  # seconds for a reply
LOOK_UP_AFTER = 10.0  # seconds without news until what is awaited is looked up
ENDS_EARLY = (  # the server ends a session whose process hangs, or whose machine is gone
    "-c idle_session_timeout=20s -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS won"
MAX_CALLS = 16  # of one worker; the device answers those that wait in one batch


@dataclass
class EngineName:
    """Implements core.ports.AboutEngine, for an engine that is elsewhere."""

    name: str
    fingerprint: str
    device: str
    dtype: str
    learner: str


ABOUT = "about"  # the engine
# What can be called, and what comes back; all but ABOUT are methods of core.ports.Answerer.
REPLIES: dict[str, TypeAdapter[Any]] = {
    ABOUT: TypeAdapter(EngineName),
    "ask": TypeAdapter(Answer),
    "likely": TypeAdapter(list[str]),
    "is_usable": TypeAdapter(bool),
}


class Queues:
    """`async with Queues(url) as queues`: procrastinate's, and connections beside those of the index."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool = pool(url, MAX_CONNECTIONS)
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector())

    async def __aenter__(self) -> Queues:
        await self._pool.open()
        await self.app.open_async(self._pool)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Raises: StorageFailed."""
        with _queue_errors():
            async with self._pool.connection() as connection, connection.transaction():
                yield connection

    async def execute(self, sql: str, *values: Any) -> list[Any]:
        """One statement; returns its rows, which know their columns by name. Raises: StorageFailed."""
        with _queue_errors():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(sql.encode(), values)
                return await cursor.fetchall() if cursor.description else []

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """Hold the PostgreSQL advisory lock `name`; wait until it is free. The server ends a session that is silent
        for 20 s.

        Raises: ExceptionGroup, when the database is lost: another process may be in it from then on.
        """
        async with await Connection.connect(self.url, autocommit=True, options=ENDS_EARLY) as connection:
            while True:
                cursor = await connection.execute(TRY_LOCK, (name,))
                [row] = await cursor.fetchall()
                if row["won"]:
                    break
                await asyncio.sleep(1.0)
            async with asyncio.TaskGroup() as group:
                holding = group.create_task(_keep_open(connection))
                yield
                holding.cancel()

    async def add(self, queue: str, connection: Connection, *, pause: float = 0.0, **arguments: Any) -> None:
        """pause: seconds until a worker may take it."""
        later: dict[str, Any] = {"schedule_in": {"seconds": pause}} if pause else {}
        await self.app.configure_task(queue, queue=queue, connection=connection, **later).defer_async(**arguments)

    async def notify(self, news: Mapping[str, Any]) -> None:
        await self.execute("SELECT pg_notify(%s, %s)", NEWS_CHANNEL, json.dumps(news))


@contextmanager
def _queue_errors() -> Iterator[None]:
    """Raises: StorageFailed."""
    try:
        yield
    except (psycopg.Error, ConnectorException) as error:
        raise StorageFailed from error


async def _keep_open(connection: Connection) -> None:
    while True:
        await connection.check(10.0)
        await asyncio.sleep(5.0)


# The front end's side


class Workers:
    """Implements core.ports.Runner and core.ports.Answerer: whoever has an engine does the work.

    `async with Workers(queues, index) as workers`.
    """

    def __init__(self, queues: Queues, index: PostgresIndex, own: Runner | None = None) -> None:
        """own: of the worker in this process, if there is one."""
        self._own = own
        self._queues = queues
        self._index = index
        self._feeds = Feeds(index)
        self._waiting: dict[str, asyncio.Future[bytes]] = {}  # by call
        self._about: EngineName | None = None

    async def __aenter__(self) -> Workers:
        self._listening = asyncio.create_task(self._listen(), name="news of the workers")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        stopping = EngramError("Engram is stopping; ask again in a moment.")
        self._feeds.fail(stopping)
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(stopping)

    # Questions

    @property
    def engine(self) -> AboutEngine | None:
        return self._own.engine if self._own else self._about

    @property
    def load_error(self) -> BaseException | None:
        return self._own.load_error if self._own else None

    async def ready(self) -> None:
        """Returns once a worker has loaded its engine: the one in this process, or any."""
        if self._own:
            await self._own.ready()
        while not self.engine:
            with suppress(EngramError):  # there is no worker, or no database, yet
                self._about = await self._call(ABOUT)
            await asyncio.sleep(0 if self.engine else 1.0)

    async def ask(self, channel: str, question: str, named: str = "", thread: str = "") -> Answer:
        return await self._call("ask", channel, question, named, thread)

    async def likely(self, channel: str, document_id: str, questions: Sequence[str]) -> list[str]:
        return await self._call("likely", channel, document_id, list(questions))

    async def is_usable(self, channel: str, document_id: str) -> bool:
        return await self._call("is_usable", channel, document_id)

    async def _call(self, method: str, channel: str = "", *arguments: Any) -> Any:
        """Have a worker do it. Raises: what it raised; EngramError, when none replies."""
        id, key = secrets.token_hex(8), await self._index.key(channel)
        body = key.seal_value(json.dumps([method, [channel, *arguments] if channel else []]))
        reply = self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            async with self._queues.transaction() as connection:
                await connection.execute(
                    "INSERT INTO calls (id, channel, body) VALUES (%s, %s, %s)", (id, channel, body)
                )
                await self._queues.add(CALLS, connection, call=id)
            async with asyncio.timeout(ANSWER_TIMEOUT):
                [outcome] = map(json.loads, await self._index.open([await reply]))
        except TimeoutError:
            raise EngramError("No worker has answered; ask again in a moment.") from None
        finally:
            del self._waiting[id]
            if not reply.done() or reply.cancelled():
                with suppress(StorageFailed):
                    await self._queues.execute("DELETE FROM calls WHERE id = %s", id)
        if "error" in outcome:
            name, sentence = outcome["error"]
            raise getattr(errors, name)(sentence)
        return REPLIES[method].validate_python(outcome["result"])

    # Jobs

    async def store_ends(self) -> None:
        """The workers do."""

    async def wake(self) -> None:
        with suppress(StorageFailed):  # the job is stored; a worker will see that it has no ticket
            async with self._queues.transaction() as connection:
                await self._queues.add(LEARNING, connection)
        await self._feeds.publish_places()

    async def watch(self, job_id: str) -> AsyncIterator[Progress]:
        async for progress in await self._feeds.watch(job_id):
            yield progress

    async def cancel(self, job_id: str) -> Job:
        """At once, whether its worker hears of it or not: it can't store anything any more."""
        await self._index.job_stage(job_id, Stage.CANCELLED)
        job, ticket = await self._index.job(job_id), await self._index.ticket(job_id)
        with suppress(StorageFailed):
            await self._queues.notify({"job": job_id, "stage": job.stage})
            if ticket is not None:
                await self._queues.execute("SELECT procrastinate_cancel_job_v1(%s, true, false)", ticket)
        return job

    # News

    async def _listen(self) -> None:
        while True:
            try:
                async with await Connection.connect(self._queues.url, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {NEWS_CHANNEL}")
                    while True:
                        await self._take_replies([*self._waiting])  # also those from before LISTEN
                        for job_id in self._feeds.watched():
                            await self._feeds.look_up(job_id)
                        async for notification in connection.notifies(timeout=LOOK_UP_AFTER):
                            await self._on_notification(json.loads(notification.payload))
                        await connection.check()
            except Exception as problem:
                log.warning("the workers' news are not heard (%r); trying again", problem)
                await asyncio.sleep(1.0)

    async def _on_notification(self, news: Mapping[str, Any]) -> None:
        if call := news.get("call"):
            await self._take_replies([call] if call in self._waiting else [])
            return
        stage, latest = Stage(news["stage"]), self._feeds.latest(news["job"])
        if stage.final:
            await self._feeds.look_up(news["job"])
        elif latest:
            self._feeds.put(_later(latest, stage, news))
        if stage.final or stage is Stage.READING:
            await self._feeds.publish_places()

    async def _take_replies(self, calls: Sequence[str]) -> None:
        if not calls:
            return
        taken = "DELETE FROM calls WHERE id = ANY(%s) AND reply != '' RETURNING id, reply"
        for row in await self._queues.execute(taken, list(calls)):
            if (waiting := self._waiting.get(row["id"])) and not waiting.done():
                waiting.set_result(row["reply"])


def _later(latest: Progress, stage: Stage, news: Mapping[str, Any]) -> Progress:
    """What a watcher saw, and what has come since."""
    step, losses = latest.step, latest.losses
    if stage is Stage.READING:
        step, losses = None, ()  # it begins, perhaps anew
    if news["step"]:
        done, total, loss, phase = news["step"]
        step = Step(done, total, loss, Stage(phase))
        if done and step != latest.step and step.stage is Stage.LEARNING:
            losses = (*losses, loss)
    job = replace(latest.job, stage=stage)
    counts = {name: news[name] for name in ("pages", "tokens", "seconds")}
    return replace(latest, job=job, step=step, losses=losses, place=0, **counts)


# The worker's side


class PublishingFeeds(Feeds):
    """Progress goes to the front ends."""

    def __init__(self, index: PostgresIndex) -> None:
        super().__init__(index)
        self.news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def put(self, progress: Progress) -> None:
        super().put(progress)
        step = progress.step
        self.news.put_nowait(
            {
                "job": progress.job.id,
                "stage": progress.job.stage,
                "step": step and [step.done, step.total, step.loss, step.stage],
                "pages": progress.pages,
                "tokens": progress.tokens,
                "seconds": progress.seconds,
            }
        )


class Worker:
    """Works off the queues with this process's engine."""

    def __init__(
        self,
        queues: Queues,
        index: PostgresIndex,
        runner: Runner,
        answerer: Answerer,
        feeds: PublishingFeeds,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        dead_after: float = DEAD_AFTER,
    ) -> None:
        """
        Args:
            feeds: where the runner shows progress.
            heartbeat: seconds between its signs of life.
            dead_after: seconds without one after which another worker is taken for dead.
        """
        self._heartbeat = heartbeat
        self._dead_after = dead_after
        self._queues = queues
        self._index = index
        self._runner = runner
        self._answerer = answerer
        self._feeds = feeds
        app = queues.app
        again = procrastinate.RetryStrategy(wait=1)
        app.task(name=LEARNING, queue=LEARNING, pass_context=True, retry=again)(self._learn)
        app.task(name=CALLS, queue=CALLS, retry=again)(self._answer)
        mend = app.task(name=MENDING, queue=MENDING, queueing_lock=MENDING)(self._mend)
        app.periodic(cron=EVERY_5_SECONDS)(mend)

    async def run(self) -> None:
        """Until cancelled; then what is unfinished is given back. Raises: SetupError, when there is no engine."""
        await self._runner.ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work([LEARNING], 1, 0.0))
            group.create_task(self._work([CALLS, MENDING], MAX_CALLS + 1, 10.0))
            group.create_task(self._publish_progress())

    async def _work(self, queues: list[str], at_once: int, finish_within: float) -> None:
        task = asyncio.current_task()
        while not (task and task.cancelling()):  # its end at a queue that can't be reached is another error
            try:
                await self._runner.store_ends()
                await self._queues.app.run_worker_async(
                    queues=queues,
                    concurrency=at_once,
                    fetch_job_polling_interval=POLL_SECONDS,
                    shutdown_graceful_timeout=finish_within,
                    delete_jobs="always",
                    install_signal_handlers=False,
                    update_heartbeat_interval=self._heartbeat,
                    stalled_worker_timeout=self._dead_after,
                )
            except (ConnectorException, psycopg.Error, StorageFailed):
                log.exception("the queue can't be reached; trying again")
                if (task := asyncio.current_task()) and task.cancelling():
                    raise asyncio.CancelledError from None  # it came while the queue was left, and was lost on the way
            await asyncio.sleep(1.0)

    async def _publish_progress(self) -> None:
        while True:
            news = await self._feeds.news.get()
            with suppress(StorageFailed):  # the rows say it, too
                await self._queues.notify(news)

    async def _learn(self, context: procrastinate.JobContext) -> None:
        assert context.job.id is not None
        await self._runner.store_ends()
        job = await self._index.next_job_for(context.job.id)
        if job is None:
            return
        learning = asyncio.ensure_future(self._runner.learn(job))
        while not learning.done():
            try:
                await asyncio.shield(learning)
            except asyncio.CancelledError:
                if context.abort_reason() is AbortReason.SHUTDOWN:
                    await self._runner.interrupt()
                    raise
                if await self._has_ended(job):
                    with suppress(NotFound):
                        await self._runner.cancel(job.id)
        await self._end_ticket(learning.result())

    async def _end_ticket(self, pause: float) -> None:
        """When the job's end is stored: a job that has begun and has no ticket counts as interrupted.

        Args:
            pause: seconds until the next attempt; 0: there is none.
        """
        while True:
            try:
                await self._runner.store_ends()
                if pause:
                    async with self._queues.transaction() as connection:
                        await self._queues.add(LEARNING, connection, pause=pause)
                return
            except StorageFailed:
                await asyncio.sleep(POLL_SECONDS)

    async def _has_ended(self, job: Job) -> bool:
        try:
            return (await self._index.job(job.id)).stage.final
        except NotFound:
            return True
        except StorageFailed:  # its next statement will say so
            return False

    async def _answer(self, call: str) -> None:
        """Raises: StorageUnavailable; then it is tried again, as long as somebody waits for it."""
        for row in await self._queues.execute("SELECT body FROM calls WHERE id = %s AND reply = ''", call):
            outcome = json.dumps(await self._outcome(row["body"]))
            with suppress(KeyLost):  # erased meanwhile, and the call with it
                key = await self._index.key_of(key_id(row["body"]))
                await self._store_reply(call, key.seal_value(outcome))

    async def _store_reply(self, call: str, reply: bytes) -> None:
        await self._queues.execute(
            "WITH replied AS (UPDATE calls SET reply = %s WHERE id = %s RETURNING id) "
            "SELECT pg_notify(%s, %s) FROM replied",
            *(reply, call, NEWS_CHANNEL, json.dumps({"call": call})),
        )

    async def _outcome(self, sealed: bytes) -> dict[str, Any]:
        """What came of a call: its result, or its error. Raises: StorageUnavailable."""
        try:
            [(method, arguments)] = map(json.loads, await self._index.open([sealed]))
            kind = REPLIES[method]
            call = self._about if method == ABOUT else getattr(self._answerer, method)
            return {"result": kind.dump_python(await call(*arguments), mode="json")}
        except StorageUnavailable:
            raise
        except EngramError as error:
            return {"error": [type(error).__name__, str(error)]}
        except Exception:
            log.exception("a call failed")
            return {"error": [EngramError.__name__, ""]}

    async def _about(self) -> EngineName:
        engine = await self._runner.ready()
        return EngineName(engine.name, engine.fingerprint, engine.device, engine.dtype, engine.learner)

    async def _mend(self, timestamp: int) -> None:
        """Queue again what dead workers had, jobs without a ticket, and forget calls that nobody waits for."""
        manager = self._queues.app.job_manager
        for ticket in await manager.get_stalled_jobs(seconds_since_heartbeat=self._dead_after):
            with suppress(ConnectorException):  # another worker was faster
                await manager.retry_job(ticket)
        for job in await self._index.requeue_interrupted():
            log.warning("job %s was interrupted in attempt %d and is now %s", job.id, job.attempts, job.stage)
        await self._queues.execute("DELETE FROM calls WHERE made_at < now() - interval '1 hour'")
        await self._index.drop_old_usage()
        [row] = await self._queues.execute(
            """
            SELECT (SELECT count(*) FROM jobs WHERE NOT final)
                - (SELECT count(*) FROM procrastinate_jobs WHERE queue_name = %s AND status IN ('todo', 'doing'))
                AS missing
            """,
            LEARNING,
        )
        async with self._queues.transaction() as connection:
            for _ in range(max(0, row["missing"])):
                await self._queues.add(LEARNING, connection)
