"""A network that is cut between bot, database and object store; no server closes anything."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

import storage.connections
from core.errors import StorageFailed, StorageUnavailable
from core.runner import Runner
from core.service import Service
from core.types import Job, Progress, Stage
from storage.connections import Connection
from storage.index import Index
from storage.keys import Keys
from storage.objects import Objects
from storage.postgres import PostgresIndex
from storage.weights import Weights
from storage.workers import Queues, Workers
from tests.conftest import Environment
from tests.fakes import read_plain
from tests.network import Cut, Network
from tests.objects import BUCKET
from tests.postgres import Server
from tests.storage.samples import learn, make_job
from tests.storage.test_weights import load, save
from tests.storage.worker import LIMITS, worker
from tests.timeouts import WAIT
from tests.torture.by_heart import ByHeart

TEXT = "The lighthouse of Vessin was built in 1874. Its keeper is Orla Quint. A berth costs forty crowns a night."


@pytest.fixture
async def network(server: Server) -> AsyncIterator[Network]:
    async with Network(server.socket) as network:
        yield network


def through(network: Network, database: str) -> str:
    return f"postgresql://postgres@127.0.0.1:{network.port}/postgres?{database.partition('&')[2]}"


@pytest.mark.parametrize("how", [*Cut])
async def test_a_cut_is_waited_for(network: Network, database: str, keys: Keys, how: Cut) -> None:
    async with PostgresIndex(through(network, database), keys) as index:
        document = await learn(index, "d1", ["The harbour opened."])
        cut = asyncio.create_task(network.cut(how, 2.0))
        await asyncio.sleep(0)
        assert await index.documents("here") == [document]
        assert cut.done()
        assert await index.documents("here") == [document]


async def test_a_server_that_says_nothing_is_given_up_and_its_locks_are_free(
    network: Network, database: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a statement waited for the operating system, and the next change in that channel for as long."""
    monkeypatch.setattr(Connection, "reply_timeout", 4.0)
    monkeypatch.setattr(storage.connections, "REPLY_TIMEOUT", 4.0)
    monkeypatch.setattr(storage.connections, "SESSION", storage.connections.SESSION.replace(b"30s", b"2s"))
    async with PostgresIndex(through(network, database), keys) as lost, PostgresIndex(database, keys) as other:
        document = await learn(other, "d1", ["The harbour opened."])
        began = time.monotonic()
        with pytest.raises(StorageFailed):
            async with lost._channel("here"), lost._transaction() as execute:
                await execute("DELETE FROM documents")
                await network.cut(Cut.LOST, 0.1)
                cancelling = asyncio.create_task(other.forget("here", "d1"))
                await execute("SELECT 1")
        assert time.monotonic() - began < 20
        assert (await cancelling).document_id == document.id and await lost.documents("here") == []


async def test_a_statement_that_is_given_up_does_not_wait_on_at_the_server(
    database: str, keys: Keys, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
    monkeypatch.setattr(storage.connections, "SESSION", storage.connections.SESSION.replace(b"40s", b"2s"))
    async with PostgresIndex(database, keys) as index, PostgresIndex(database, keys) as other:
        document = await learn(index, "d1", ["The harbour opened."])
        async with index._channel("here"):
            forgetting = asyncio.create_task(other.forget("here", "d1"))
            await asyncio.sleep(1)
            assert server.sql(waiting) == "1"
            with pytest.raises(StorageFailed):
                await forgetting
            assert server.sql(waiting) == "0"
        assert await other.documents("here") == [document]


async def test_an_event_loop_that_is_late_loses_no_connection(database: str, keys: Keys) -> None:
    async with PostgresIndex(database, keys) as index, index._pool.connection() as connection:
        checking = asyncio.create_task(connection.check(0.3))
        await asyncio.sleep(0)
        time.sleep(1)  # the reply and the end of the time for it are seen at once
        await checking
        await connection.execute("SELECT 1")


async def test_a_question_is_answered_after_its_front_ends_connections_are_lost(
    network: Network, database: str, tmp_path: Path
) -> None:
    url = through(network, database)
    async with (
        PostgresIndex(url, Keys(tmp_path / "keys")) as index,
        Queues(url) as queues,
        Workers(queues, index) as workers,
    ):
        service = Service(index, Weights(tmp_path, index.id), workers, workers, LIMITS)
        with worker(database, tmp_path, answer_seconds=1.0):
            job = await service.submit("here", "a.txt", TEXT.encode(), by="local")
            assert [progress.job.stage async for progress in service.watch(job.id)][-1] is Stage.DONE
            asking = asyncio.create_task(service.ask("here", "Who is the keeper?"))
            await asyncio.sleep(0.5)
            await network.cut(Cut.LOST, 0.1)
            async with asyncio.timeout(WAIT):
                answer = await asking
    assert answer.learned and answer.learned.text == "Its keeper is Orla Quint"


async def test_weights_whose_row_is_committed_late_stay(
    database: str, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost while the last statement of the transaction is on its way."""
    begun, arrives, finish, replace = asyncio.Event(), asyncio.Event(), PostgresIndex.finish_job, PostgresIndex._replace
    committing: list[asyncio.Task] = []

    async def late(*arguments) -> object:
        begun.set()
        await arrives.wait()
        return await replace(*arguments)

    async def lost(*arguments, **options) -> None:
        committing.append(asyncio.create_task(finish(*arguments, **options)))
        await begun.wait()
        asyncio.get_running_loop().call_later(1.0, arrives.set)
        raise StorageUnavailable

    monkeypatch.setattr(PostgresIndex, "_replace", late)
    monkeypatch.setattr(PostgresIndex, "finish_job", lost)
    async with PostgresIndex(database, keys) as index:
        weights = Weights(tmp_path, index.id)
        async with Runner(ByHeart, index, weights, LIMITS, read=read_plain) as runner:
            job = await index.add_job(make_job("j1"), TEXT.encode())
            await runner.wake()
            async for _ in runner.watch(job.id):
                pass
            [document] = await asyncio.gather(*committing)
        assert (await index.job("j1")).stage is Stage.DONE and await index.documents("here") == [document]
        assert weights.load(document.weights, "here", base=ByHeart.fingerprint, section=0)


async def test_a_document_whose_save_loses_the_database_is_learned_by_another_attempt(
    network: Network, database: str, tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys")
    async with (
        PostgresIndex(database, keys) as index,
        Queues(database) as queues,
        Workers(queues, index) as workers,
    ):
        service = Service(index, Weights(tmp_path, index.id), workers, workers, LIMITS)
        with worker(through(network, database), tmp_path, step_seconds=0.2):
            job = await service.submit("here", "a.txt", (f"{TEXT} " * 4).encode(), by="local")
            following = asyncio.create_task(follow(service, job))
            await until(index, job, Stage.LEARNING)
            async with index._channel("here"):  # the save waits for it
                await until(index, job, Stage.SAVING)
                await asyncio.sleep(0.5)
                await network.cut(Cut.RESET, 0.1)
            seen = await following
        assert Stage.FAILED not in {progress.job.stage for progress in seen}
        last = seen[-1].job
        assert (last.stage, last.attempts, last.retries) == (Stage.DONE, 2, 1)
        assert [document.id for document in await service.documents("here")] == [last.document_id]
        assert [path.stem for path in tmp_path.glob("*.safetensors")] == [last.document_id]


async def test_what_is_handed_in_while_a_connection_is_lost_is_stored_once(
    network: Network, database: str, keys: Keys
) -> None:
    async with PostgresIndex(through(network, database), keys) as index, PostgresIndex(database, keys) as other:
        async with other._channel("here"):
            adding = asyncio.create_task(index.add_job(make_job("j1"), TEXT.encode()))
            await asyncio.sleep(0.5)
            await network.cut(Cut.RESET, 0.1)
        job = await adding
        assert await other.jobs() == [job] and (await other.job_file("j1"))[0] == TEXT.encode()


async def test_a_read_is_sent_again_when_its_connection_is_lost(network: Network, database: str, keys: Keys) -> None:
    async with PostgresIndex(through(network, database), keys) as index:
        reading = asyncio.create_task(index._read("SELECT pg_sleep(1), 7 AS seven"))
        await asyncio.sleep(0.5)
        await network.cut(Cut.RESET, 0.1)
        assert [row["seven"] for row in await reading] == [7]


async def test_a_question_is_answered_when_its_worker_lost_the_database(
    network: Network, database: str, tmp_path: Path
) -> None:
    async with (
        PostgresIndex(database, Keys(tmp_path / "keys")) as index,
        Queues(database) as queues,
        Workers(queues, index) as workers,
    ):
        service = Service(index, Weights(tmp_path, index.id), workers, workers, LIMITS)
        with worker(through(network, database), tmp_path):
            await follow(service, await service.submit("here", "a.txt", TEXT.encode(), by="local"))
            async with index._channel("here"):  # the search waits for it
                asking = asyncio.create_task(workers.ask("here", "Who is the keeper?"))
                await asyncio.sleep(1.0)
                await network.cut(Cut.RESET, 0.1)
            async with asyncio.timeout(WAIT):
                answer = await asking
    assert answer.learned and answer.learned.text == "Its keeper is Orla Quint"


async def follow(service: Service, job: Job) -> list[Progress]:
    async with asyncio.timeout(WAIT):
        return [progress async for progress in service.watch(job.id)]


async def until(index: PostgresIndex, job: Job, stage: Stage) -> None:
    async with asyncio.timeout(WAIT):
        while (await index.job(job.id)).stage is not stage:
            await asyncio.sleep(0.02)


@pytest.fixture
async def store_network(store: dict[str, str], environment: Environment) -> AsyncIterator[Network]:
    """To an object store that is given up after a second."""
    async with Network(("127.0.0.1", int(store["AWS_ENDPOINT_URL"].rpartition(":")[2]))) as network:
        environment |= store | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{network.port}"}
        yield network


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.bucket.RETRY_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr("core.runner.RETRY_PAUSES", (0.5, 1.0, 2.0))


async def test_a_document_whose_save_loses_the_store_is_learned_by_another_attempt(
    store_network: Network, impatient: None, index: Index, keys: Keys
) -> None:
    weights = Objects(f"s3://{BUCKET}/{secrets.token_hex(8)}", index.id, keys)
    async with Runner(ByHeart, index, weights, LIMITS, read=read_plain) as runner:
        job = await index.add_job(make_job("j1"), TEXT.encode())
        await runner.wake()
        stages, cutting = [], None
        async for progress in runner.watch(job.id):
            stages.append(progress.job.stage)
            if progress.job.stage is Stage.SAVING and not cutting:
                cutting = asyncio.create_task(store_network.cut(Cut.RESET, 2.5))
        await cutting
    [document] = await index.documents("here")
    job = await index.job("j1")
    assert stages[-1] is job.stage is Stage.DONE and Stage.FAILED not in stages
    assert job.retries >= 1 and job.attempts == job.retries + 1
    assert await asyncio.to_thread(weights.load_all, document.weights, "here")


async def test_a_store_that_stays_away_is_told_after_the_last_attempt(
    store_network: Network, impatient: None, index: Index, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.runner.RETRY_PAUSES", (0.1,))
    weights = Objects(f"s3://{BUCKET}/{secrets.token_hex(8)}", index.id, keys)
    cutting = asyncio.create_task(store_network.cut(Cut.RESET, 600.0))
    async with Runner(ByHeart, index, weights, LIMITS, read=read_plain) as runner:
        job = await index.add_job(make_job("j1"), TEXT.encode())
        await runner.wake()
        seen = [progress.job.stage async for progress in runner.watch(job.id)]
    cutting.cancel()
    job = await index.job("j1")
    assert (job.stage, job.attempts, job.retries) == (Stage.FAILED, 2, 1) and seen.count(Stage.FAILED) == 1
    assert job.error == "The learned weights can't be reached; nothing was changed."
    assert await index.documents("here") == []


@pytest.mark.parametrize("how", [*Cut])
async def test_weights_come_after_a_cut(bucket: str, keys: Keys, environment: Environment, how: Cut) -> None:
    port = int(environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
    async with Network(("127.0.0.1", port)) as network:
        environment |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{network.port}", "AWS_TIMEOUT": "3 seconds"}
        weights = Objects(bucket, "index", keys)
        record = await asyncio.to_thread(save, weights)
        cut = asyncio.create_task(network.cut(how, 2.0))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(load, weights, record)
        await cut
