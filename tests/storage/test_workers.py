"""Front ends and workers as processes of their own, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from core.errors import NotFound
from core.service import Service
from core.types import Job, Progress, Stage
from storage.keys import Keys
from storage.postgres import PostgresIndex
from storage.weights import Weights
from storage.workers import Queues, Workers
from tests.postgres import Server
from tests.storage.worker import LIMITS, worker
from tests.timeouts import WAIT

TEXT = "The lighthouse of Vessin was built in 1874. Its keeper is Orla Quint. A berth costs forty crowns a night."
Start = Callable[..., BaseProcess]
Front = Callable[[], AbstractAsyncContextManager[Service]]


@pytest.fixture
def start(database: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Start a worker."""
    with ExitStack() as stack:
        yield lambda **engine: stack.enter_context(worker(database, tmp_path, **engine))


@pytest.fixture
def front_end(database: str, tmp_path: Path) -> Front:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Service]:
        async with (
            PostgresIndex(database, Keys(tmp_path / "keys")) as index,
            Queues(database) as queues,
            Workers(queues, index) as workers,
        ):
            yield Service(index, Weights(tmp_path, index.id), workers, workers, LIMITS)

    return opened


async def submit(service: Service, text: str = TEXT, channel: str = "here") -> Job:
    return await service.submit(channel, "a.txt", text.encode(), by="local")


async def follow(service: Service, job: Job, seconds: float = WAIT) -> list[Progress]:
    async with asyncio.timeout(seconds):
        return [progress async for progress in service.watch(job.id)]


async def until_learning(service: Service, job: Job, attempt: int = 1) -> None:
    async with asyncio.timeout(WAIT):
        while not any(
            now.stage is Stage.LEARNING and now.attempts == attempt for now in await service.jobs(job.channel)
        ):
            await asyncio.sleep(0.02)


async def test_a_worker_learns_and_answers_for_a_front_end(front_end: Front, start: Start) -> None:
    async with front_end() as service:
        start(step_seconds=0.01)
        *_, last = seen = await follow(service, await submit(service))
        assert last.job.stage is Stage.DONE and last.document and last.document.name == "a.txt"
        stages = [progress.job.stage for progress in seen]
        assert Stage.LEARNING in stages and stages == sorted(stages, key=[*Stage].index)
        assert last.losses and last.step and last.step.done == last.step.total == len(last.losses)
        answer = await service.ask("here", "Who is the keeper?")
        assert answer.learned and answer.learned.text == "Its keeper is Orla Quint"
        assert await service.answer("here", answer.id) == answer
        with pytest.raises(NotFound):
            await service.ask("here", "Who?", document="other.txt")


async def test_questions_are_answered_while_a_worker_learns(front_end: Front, start: Start) -> None:
    async with front_end() as service:
        start(step_seconds=0.5)
        await follow(service, await submit(service))
        job = await submit(service, f"{TEXT} " * 30)
        await until_learning(service, job)
        answers = await asyncio.gather(*(service.ask("here", "Who is the keeper?") for _ in range(20)))
        assert {answer.learned and answer.learned.text for answer in answers} == {"Its keeper is Orla Quint"}
        assert [ended.stage for ended in await service.cancel("here", job.id)] == [Stage.CANCELLED]


async def test_two_workers_take_the_channels_in_turn(front_end: Front, start: Start) -> None:
    """The only document of a quiet channel does not wait for all of a busy one's."""
    async with front_end() as service:
        busy = [await submit(service, f"{TEXT} {n}.", "busy") for n in range(6)]
        quiet = await submit(service, TEXT, "quiet")
        for _ in range(2):
            start(step_seconds=0.2)
        for job in (*busy, quiet):
            await follow(service, job)
        (only,) = await service.documents("quiet")
        assert sum(document.learned_at > only.learned_at for document in await service.documents("busy")) >= 2


async def test_the_job_of_a_killed_worker_is_done_by_another_one(front_end: Front, start: Start) -> None:
    async with front_end() as service:
        killed = start(step_seconds=0.5)
        job = await submit(service)
        await until_learning(service, job)
        start(step_seconds=0.01)
        killed.kill()
        last = (await follow(service, job))[-1]
        assert last.job.stage is Stage.DONE and last.job.attempts == 2
        assert [document.id for document in await service.documents("here")] == [last.job.document_id]


async def test_a_worker_that_comes_back_stores_nothing(front_end: Front, start: Start, tmp_path: Path) -> None:
    async with front_end() as service:
        asleep = start(step_seconds=0.5)
        job = await submit(service)
        await until_learning(service, job)
        os.kill(asleep.pid, signal.SIGSTOP)
        start(step_seconds=0.01)
        last = (await follow(service, job))[-1]
        assert last.job.stage is Stage.DONE and last.job.attempts == 2
        os.kill(asleep.pid, signal.SIGCONT)
        second = await submit(service, f"{TEXT} Again.", "elsewhere")
        await follow(service, second)
        await asyncio.sleep(3)  # the first worker goes on with what it believes to have
        (document,) = await service.documents("here")
        assert document.id == last.job.document_id
        assert sorted(path.stem for path in tmp_path.glob("*.safetensors")) == sorted(
            [document.id, (await service.documents("elsewhere"))[0].id]
        )
        answer = await service.ask("here", "Who is the keeper?")
        assert answer.learned and answer.learned.text == "Its keeper is Orla Quint"


async def test_a_job_is_cancelled_from_another_front_end(front_end: Front, start: Start) -> None:
    async with front_end() as one, front_end() as other:
        start(step_seconds=0.5)
        job = await submit(one, f"{TEXT} " * 40)  # half a minute of learning
        following = asyncio.create_task(follow(one, job))
        await until_learning(other, job)
        began = time.monotonic()
        assert [ended.stage for ended in await other.cancel("here", job.id)] == [Stage.CANCELLED]
        assert (await following)[-1].job.stage is Stage.CANCELLED
        assert time.monotonic() - began < 10
        assert (await follow(one, await submit(one, "The ferry leaves at six in the morning.")))[-1].document
        assert len(await one.documents("here")) == 1


async def test_a_worker_that_is_told_to_stop_gives_its_job_back(front_end: Front, start: Start) -> None:
    async with front_end() as service:
        stopped = start(step_seconds=0.3)
        job = await submit(service)
        await until_learning(service, job)
        stopped.terminate()
        await asyncio.to_thread(stopped.join, 20)
        assert stopped.exitcode == 0
        start(step_seconds=0.01)
        last = (await follow(service, job))[-1]
        assert last.job.stage is Stage.DONE and last.job.attempts == 1


async def test_a_worker_stops_also_while_the_database_is_away(front_end: Front, start: Start, server: Server) -> None:
    async with front_end() as service:
        stopped = start()
        await follow(service, await submit(service))
    await asyncio.to_thread(server.stop)
    try:
        await asyncio.sleep(1)
        stopped.terminate()
        await asyncio.to_thread(stopped.join, 90)
        assert stopped.exitcode == 0
    finally:
        await asyncio.to_thread(server.start)


async def test_a_job_whose_worker_always_dies_is_given_up(front_end: Front, start: Start) -> None:
    async with front_end() as service:
        job = await submit(service)
        for attempt in range(1, 4):
            dying = start(step_seconds=0.5)
            await until_learning(service, job, attempt)
            dying.kill()
            dying.join()
        start()
        last = (await follow(service, job))[-1]
        assert last.job.stage is Stage.FAILED and "interrupted 3 times" in last.job.error


async def test_a_question_of_a_killed_worker_is_answered_by_another_one(front_end: Front, start: Start) -> None:
    async with front_end() as service:
        killed = start(answer_seconds=5.0)
        await follow(service, await submit(service))
        asking = asyncio.create_task(service.ask("here", "Who is the keeper?"))
        await asyncio.sleep(1)
        killed.kill()
        start()
        async with asyncio.timeout(WAIT):
            answer = await asking
        assert answer.learned and answer.learned.text == "Its keeper is Orla Quint"


async def test_a_server_that_restarts_costs_no_job_and_no_answer(
    front_end: Front, start: Start, server: Server
) -> None:
    async with front_end() as service:
        start(step_seconds=0.3)
        await follow(service, await submit(service))
        job = await submit(service, f"{TEXT} " * 8)
        following = asyncio.create_task(follow(service, job))
        await until_learning(service, job)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        assert (await following)[-1].job.stage is Stage.DONE
        answer = await service.ask("here", "Who is the keeper?")
        assert answer.learned and answer.learned.text == "Its keeper is Orla Quint"
        assert len(await service.documents("here")) == 2


async def test_one_process_is_alone_and_the_next_takes_over(database: str) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()

    async def be_alone(queues: Queues, name: str) -> None:
        async with queues.exclusive("discord"):
            begun.put_nowait(name)
            await asyncio.Event().wait()

    async with Queues(database) as queues:
        first = asyncio.create_task(be_alone(queues, "first"))
        assert await begun.get() == "first"
        second = asyncio.create_task(be_alone(queues, "second"))
        await asyncio.sleep(2)
        assert begun.empty()
        async with queues.transaction() as connection:  # its connection is lost
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            )
        async with asyncio.timeout(WAIT):
            assert await begun.get() == "second"
            with pytest.raises(ExceptionGroup):
                await first
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
