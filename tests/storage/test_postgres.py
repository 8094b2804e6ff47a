"""What only the index on PostgreSQL has to do: several processes at once, and a server that goes away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

import storage.connections
from core.errors import AlreadyKnown, Cancelled, DataTooNew, NotFound, StorageFailed
from core.types import ALL_PAGES, Stage
from storage.channel_files import ChannelFile
from storage.keys import Keys
from storage.postgres import ChannelRows, PostgresIndex
from tests.postgres import FAST, Server, running
from tests.storage.samples import claim, learn, make_answer, make_chunks, make_document, make_job, plant

FILE_ONLY = {"close", "take_over", "forget_person"}  # the last: in all channels at once


def test_a_channels_rows_have_every_method_of_its_file() -> None:
    names = {name for name in vars(ChannelFile) if not name.startswith("_")} - FILE_ONLY
    assert {name for name in names if not hasattr(ChannelRows, name)} == set()


def test_a_bot_on_sqlite_imports_nothing_of_it() -> None:
    code = "import sys, bot.app; sys.exit(bool({'psycopg', 'psycopg_pool', 'obstore'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


async def test_the_schema_is_made_once_however_many_start_at_once(database: str, keys: Keys) -> None:
    async def start() -> str:
        async with PostgresIndex(database, keys) as index:
            return index.id

    assert len(set(await asyncio.gather(*(start() for _ in range(6))))) == 1


async def test_a_newer_schema_is_refused(database: str, keys: Keys) -> None:
    async with PostgresIndex(database, keys) as index:
        await index._execute("UPDATE folder SET version = 99")
    with pytest.raises(DataTooNew):
        async with PostgresIndex(database, keys):
            pass


async def test_a_migration_that_fails_leaves_the_old_version(database: str, keys: Keys, tmp_path, monkeypatch) -> None:
    script = tmp_path / "next.sql"
    script.write_text("CREATE TABLE extra (x TEXT); SELECT nonsense;")
    async with PostgresIndex(database, keys) as index:
        await learn(index, "d1", ["The harbour opened."])
    monkeypatch.setattr(storage.postgres, "MIGRATIONS", (*storage.postgres.MIGRATIONS, script))
    with pytest.raises(StorageFailed):
        async with PostgresIndex(database, keys):
            pass
    monkeypatch.undo()
    async with PostgresIndex(database, keys) as index:
        assert [document.id for document in await index.documents("here")] == ["d1"]


async def test_two_workers_never_get_the_same_job(database: str, keys: Keys) -> None:
    async def work_off(index: PostgresIndex) -> list[str]:
        done = []
        while job := await index.next_job():
            done.append(job.id)
            await index.job_stage(job.id, Stage.FAILED, error="x")
        return done

    async with PostgresIndex(database, keys) as one, PostgresIndex(database, keys) as two:
        for number in range(60):
            await one.add_job(make_job(f"j{number}", f"channel{number % 7}"), b"%PDF-")
        first, second = await asyncio.gather(work_off(one), work_off(two))
    assert first and second and len(first) + len(second) == len({*first, *second}) == 60


async def test_one_file_handed_to_two_front_ends_is_one_job(database: str, keys: Keys) -> None:
    async with PostgresIndex(database, keys) as one, PostgresIndex(database, keys) as two:
        adding = [index.add_job(make_job(name, data=b"x"), b"x") for name, index in {"a": one, "b": two}.items()]
        results = await asyncio.gather(*adding, return_exceptions=True)
        assert sum(isinstance(result, AlreadyKnown) for result in results) == 1
        assert len(await one.jobs()) == 1


async def test_what_is_reset_elsewhere_while_it_is_learned_stores_nothing(database: str, keys: Keys) -> None:
    async with PostgresIndex(database, keys) as worker, PostgresIndex(database, keys) as front:
        for at in range(10):
            job = await front.add_job(make_job(f"job{at}"), b"%PDF-")
            await claim(worker, Stage.LEARNING)
            document = make_document(f"d{at}", job)
            stored, _ = await asyncio.gather(
                worker.finish_job(job.id, document, [], make_chunks("The harbour.")),
                front.reset("here"),
                return_exceptions=True,
            )
            assert isinstance(stored, Cancelled) or stored == document
            await front.reset("here")
            for table in ("channels", "documents", "weights", "jobs", "job_files", "chunks", "words", "word_counts"):
                assert await front._read("SELECT 1 FROM " + table) == [], table


async def test_forget_takes_one_document_with_its_jobs_and_answers_only(database: str, keys: Keys) -> None:
    async with PostgresIndex(database, keys) as index:
        await plant(index, "gone")
        kept = await plant(index, "kept")
        await index.forget("here", "gone")
        assert len(await index.jobs(channel="here", unfinished=False)) == 2
        for table in ("answers", "feedback", "word_counts"):
            assert len(await index._read("SELECT 1 FROM " + table)) == 1, table
        assert [hit.document.id for hit in await index.candidates("here", kept[50])] == ["kept"]
        assert [record.document_id for record in await index.all_weights()] == ["kept"]


async def test_a_server_that_restarts_is_waited_for_and_nothing_is_lost(keys: Keys) -> None:
    with running(FAST.replace("fsync=off", "fsync=on").replace("synchronous_commit=off", "fsync=on")) as server:
        async with PostgresIndex(server.url(), keys) as index:
            await learn(index, "d1", ["The harbour opened."])
            await index.add_job(make_job("job1"), b"%PDF-")
            server.stop("immediate")
            asking = asyncio.create_task(index.job_file("job1"))
            await asyncio.sleep(0.5)
            server.start()
            assert await asking == (b"%PDF-", ALL_PAGES)
            assert [hit.document.id for hit in await index.candidates("here", "harbour")] == ["d1"]


async def test_a_change_on_a_connection_that_is_cut_is_not_half_done(server: Server, database: str, keys: Keys) -> None:
    async with PostgresIndex(database, keys) as index:
        document = await learn(index, "d1", ["The harbour opened."])
        with pytest.raises(StorageFailed):
            async with index._channel("here"), index._transaction() as execute:
                await execute("DELETE FROM documents")
                [row] = await execute("SELECT pg_backend_pid() AS pid")
                server.sql(f"SELECT pg_terminate_backend({row['pid']})")
                await execute("SELECT 1")
        assert await index.documents("here") == [document]
        assert await index.add_answer("here", make_answer(document), asked_by="ada")


async def test_a_server_that_is_not_there_is_an_error_and_no_hang(keys: Keys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(storage.connections, "POOL_TIMEOUT", 0.5)
    with pytest.raises(StorageFailed, match="can't be reached"):
        async with PostgresIndex(f"postgresql://postgres:SECRET@/postgres?host={tmp_path}", keys):
            pass


def test_a_killed_test_leaves_no_server_behind() -> None:
    block = "with running() as server: print(server.data, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", f"import time; from tests.postgres import running\n{block}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as test:
        data = Path(test.stdout.readline().strip())
        pid = int((data / "postmaster.pid").read_text().split()[0])
        test.kill()
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists() and not data.exists():
            return
        time.sleep(0.1)
    raise AssertionError("the server still runs")


async def test_what_a_person_said_is_erased_in_every_channel(database: str, keys: Keys) -> None:
    async with PostgresIndex(database, keys) as index:
        for channel in ("here", "there"):
            answer = await index.add_answer(channel, make_answer(None), asked_by="ada")
            await index.feedback(channel, answer, by="bob", helpful=True)
            await index.feedback(channel, answer, by="ada", helpful=True)
        assert await index.forget_person("bob") == 2 and await index.forget_person("ada") == 4
        with pytest.raises(NotFound):
            await index.answer("here", answer)
