"""The SQLite index as files: versions, connections, full disks, and what an erase leaves of them."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage.index
from core.errors import DataTooNew, StorageFailed
from core.types import Page, Stage
from storage.channel_files import ChannelFile, ChannelFiles, path_in
from storage.folder import DataFolder
from storage.index import CHANNELS, Index
from tests.storage.samples import learn, make_answer, make_chunks, make_document, make_job, plant
from tests.timeouts import WAIT


@pytest.fixture
async def index(folder: DataFolder) -> AsyncIterator[Index]:
    async with Index(folder.index) as opened:
        yield opened


def query(path: Path, sql: str) -> list[tuple]:
    """As another program would see the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def file_of(folder: DataFolder, channel: str = "here") -> Path:
    return path_in(folder.path / CHANNELS, channel)


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_every_connection_is_set_to_lose_nothing(index: Index) -> None:
    for connection in (index._writer, index._reader):
        for pragma, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}.items():
            [[found]] = await connection.execute_fetchall("PRAGMA " + pragma)
            assert found == value


async def test_only_one_connection_can_write(index: Index) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await index._reader.execute("DELETE FROM jobs")


async def test_an_empty_file_of_version_0_becomes_this_version(tmp_path: Path) -> None:
    (tmp_path / "index").touch()
    async with Index(tmp_path / "index"):
        pass
    assert query(tmp_path / "index", "PRAGMA user_version") == [(len(storage.index.MIGRATIONS),)]


async def test_the_next_migration_runs_once_and_keeps_what_is_there(folder: DataFolder, monkeypatch) -> None:
    async with Index(folder.index) as index:
        await learn(index, "d1", ["The harbour opened."])
    script = folder.path / "next.sql"
    script.write_text(f"CREATE TABLE extra (x); PRAGMA user_version = {len(storage.index.MIGRATIONS) + 1};")
    monkeypatch.setattr(storage.index, "MIGRATIONS", (*storage.index.MIGRATIONS, script))
    for _ in range(2):
        async with Index(folder.index) as index:
            assert [document.id for document in await index.documents("here")] == ["d1"]
    assert query(folder.index, "SELECT count(*) FROM extra") == [(0,)]


async def test_a_migration_that_fails_leaves_the_old_version(folder: DataFolder, monkeypatch) -> None:
    async with Index(folder.index):
        pass
    script = folder.path / "next.sql"
    version = len(storage.index.MIGRATIONS)
    script.write_text(f"CREATE TABLE extra (x); SELECT nonsense; PRAGMA user_version = {version + 1};")
    monkeypatch.setattr(storage.index, "MIGRATIONS", (*storage.index.MIGRATIONS, script))
    with pytest.raises(StorageFailed):
        async with Index(folder.index):
            pass
    assert query(folder.index, "PRAGMA user_version") == [(version,)]
    assert query(folder.index, "SELECT name FROM sqlite_schema WHERE name = 'extra'") == []


async def test_what_was_received_waits_for_its_end_also_in_the_next_process(folder: DataFolder) -> None:
    async with Index(folder.index) as index:
        assert await index.receive("slack:event:1", "one") and await index.receive("slack:event:2", "two")
        assert not await index.receive("slack:event:1", "again")
        await index.handled("slack:event:1")
    async with Index(folder.index) as index:
        assert not await index.receive("slack:event:1", "again")
        assert await index.unhandled("slack:") == [("slack:event:2", "two")] and await index.unhandled("discord:") == []
    assert query(folder.index, "SELECT body FROM inbox WHERE key = 'slack:event:1'") == [("",)]


async def test_a_file_of_a_newer_version_is_refused_and_not_touched(folder: DataFolder) -> None:
    query(folder.index, "PRAGMA user_version = 99")
    with pytest.raises(DataTooNew):
        async with Index(folder.index):
            pass
    assert query(folder.index, "PRAGMA user_version") == [(99,)]
    assert query(folder.index, "SELECT count(*) FROM sqlite_schema") == [(0,)]


async def test_a_file_that_is_no_index_is_refused_without_its_path(folder: DataFolder) -> None:
    folder.index.write_bytes(b"not a database, but longer than a header of one " * 10)
    with pytest.raises(StorageFailed) as refusal:
        async with Index(folder.index):
            pass
    assert str(folder.path) not in str(refusal.value)


async def test_a_full_disk_is_said_to_be_full_and_changes_nothing(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    content = index._files._open["here"]._db
    [[pages]] = content.execute("PRAGMA page_count")
    content.execute("PRAGMA max_page_count = " + str(pages + 5))
    with pytest.raises(StorageFailed, match="disk is full"):
        await index.add_job(make_job("job2"), bytes(100_000))
    with pytest.raises(StorageFailed, match="disk is full"):
        await index.finish_job("job1", make_document("d1", job), [], make_chunks("word " * 20_000))
    assert await index.jobs(unfinished=False) == [job] and await index.documents("here") == []
    await index.job_stage("job1", Stage.CANCELLED)


async def test_two_workers_on_one_file_never_get_the_same_job(folder: DataFolder) -> None:
    """The lock of the data folder keeps a second process out; this would hold without it."""

    both_began = asyncio.Barrier(2)  # or the quicker one may be through before the other has its first job

    async def work_off(index: Index) -> list[str]:
        done = []
        while job := await index.next_job():
            done.append(job.id)
            if len(done) == 1:
                await both_began.wait()
            await index.job_stage(job.id, Stage.FAILED, error="x")
        return done

    async with Index(folder.index) as one, Index(folder.index) as two:
        for number in range(200):
            await one.add_job(make_job(f"j{number}", f"channel{number % 7}"), b"%PDF-")
        first, second = await asyncio.gather(work_off(one), work_off(two))
    assert first and second and len(first) + len(second) == len({*first, *second}) == 200


async def test_the_file_of_a_job_goes_with_its_end_from_the_disk_too(index: Index, folder: DataFolder) -> None:
    await index.add_job(make_job("job1"), b"%PDF-" + b"CANARY-IN-A-PDF" * 1_000)
    assert b"CANARY-IN-A-PDF" in bytes_of(folder.path)
    await index.job_stage("job1", Stage.FAILED, error="This PDF is damaged.")
    assert b"CANARY-IN-A-PDF" not in bytes_of(folder.path)
    assert (await index.job("job1")).error == "This PDF is damaged."


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.from_regex(r'([a-z"*^:(){}+-]| AND | OR | NOT |NEAR\()+', fullmatch=True))
def test_no_question_is_a_syntax_error(tmp_path_factory, question: str) -> None:
    async def ask() -> None:
        async with Index(tmp_path_factory.getbasetemp() / "fuzzed") as index:
            if not await index.documents("here"):
                await learn(index, "d1", ["and or not near text"])
            assert (await index.candidates("here", question))[0].document.id == "d1"

    asyncio.run(ask())


async def test_answers_and_what_people_think_of_them_are_kept(index: Index, folder: DataFolder) -> None:
    document = await learn(index, "d1", ["x"])
    answer = await index.add_answer("here", make_answer(document), asked_by="ada")
    await index.feedback("here", answer, by="bob", helpful=True)
    await index.feedback("here", answer, by="bob", helpful=False)
    kept = query(file_of(folder), "SELECT id, document_id, question, learned, base, asked_by FROM answers")
    assert kept == [(answer, "d1", "Who?", "Ada.", "Nobody.", "ada")]
    assert query(file_of(folder), "SELECT answer_id, given_by, helpful FROM feedback") == [(answer, "bob", 0)]


async def test_an_answer_without_a_document_is_kept_too(index: Index, folder: DataFolder) -> None:
    await index.add_answer("empty", make_answer(None), asked_by="ada")
    assert query(file_of(folder, "empty"), "SELECT document_id, learned FROM answers") == [(None, None)]


async def test_the_document_of_a_thread_is_found_without_reading_all_answers(index: Index, folder: DataFolder) -> None:
    await index.add_answer("here", make_answer(None), asked_by="ada")
    found = query(file_of(folder), "EXPLAIN QUERY PLAN SELECT document_id FROM answers WHERE thread = 1")
    assert "answers_by_thread (thread=?)" in found[0][-1]


def remains(folder: Path, words: list[str]) -> list[str]:
    """By their ends, since the search index leaves out what a word shares with the one before it."""
    data = bytes_of(folder)
    return [word for word in words if word[8:].encode() in data]


@pytest.mark.parametrize("erase", ["forget", "reset"])
async def test_nothing_of_an_erased_document_is_left_in_the_files(index: Index, folder: DataFolder, erase: str) -> None:
    gone, kept = await plant(index, "gone"), await plant(index, "kept", "there")
    assert len(remains(folder.path, gone)) == 100
    await (index.forget("here", "gone") if erase == "forget" else index.reset("here"))
    assert remains(folder.path, gone) == []
    assert remains(folder.path, kept) == kept
    assert [hit.document.id for hit in await index.candidates("there", kept[50])] == ["kept"]


async def test_of_many_documents_that_came_and_went_nothing_is_left(index: Index, folder: DataFolder) -> None:
    words = {name: await plant(index, name, f"channel{at % 3}") for at, name in enumerate("abcdefgh")}
    for at, name in enumerate("abcdefgh"):
        if at % 2:
            await index.forget(f"channel{at % 3}", name)
            assert remains(folder.path, words[name]) == []
    assert all(remains(folder.path, words[name]) == words[name] for name in "aceg")


async def test_an_erase_writes_both_files_anew(index: Index, folder: DataFolder) -> None:
    await plant(index, "gone")
    await index.forget("here", "gone")
    assert query(folder.index, "PRAGMA freelist_count") == query(file_of(folder), "PRAGMA freelist_count") == [(0,)]
    assert query(folder.index, "SELECT count(*) FROM erasing") == [(0,)]


async def test_an_erase_writes_no_other_channels_file(index: Index, folder: DataFolder) -> None:
    await plant(index, "gone")
    await plant(index, "kept", "there")
    before = file_of(folder, "there").stat()
    await index.forget("here", "gone")
    await index.reset("here")
    after = file_of(folder, "there").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


async def test_where_there_is_nothing_to_erase_nothing_is_written(index: Index, folder: DataFolder) -> None:
    await plant(index, "kept", "there")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.path.rglob("*.db*")}
    for _ in range(3):
        assert await index.reset("nobody was here") == []
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.path.rglob("*.db")}
    assert after.items() <= before.items()


async def test_a_reader_beside_an_erase_makes_no_log_grow(folder: DataFolder, monkeypatch) -> None:
    monkeypatch.setattr(storage.index, "PRAGMAS", storage.index.PRAGMAS.replace("5000", "50"))
    monkeypatch.setattr(storage.index, "ERASE_AGAIN", 0.05)
    async with Index(folder.index) as index:
        await plant(index, "gone")
        with closing(sqlite3.connect(folder.index, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchall()
            await index.reset("here")
            log = folder.index.with_name("engram.db-wal")
            before = log.stat().st_size
            await asyncio.sleep(0.5)
            assert log.stat().st_size <= before + 2 * 4096


async def test_what_a_crash_left_in_a_channels_file_is_not_found_and_goes_with_the_next_document(
    index: Index, folder: DataFolder
) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    async with index._channel("here") as content:  # killed before the commit in the index
        pages, chunks = [Page(1, "The harbour.")], make_chunks("The harbour.")
        await content(ChannelFile.add_document, "lost", "its sha256", pages, chunks, [])
    assert await index.candidates("here", "harbour") == [] and await index.pages("lost") == []
    await learn(index, "d1", ["The harbour opened."])
    assert [hit.document.id for hit in await index.candidates("here", "harbour")] == ["d1"]
    assert query(file_of(folder), "SELECT document_id FROM chunks") == [("d1",)]


async def test_what_is_to_be_erased_goes_before_anything_new_is_added(folder: DataFolder, monkeypatch) -> None:
    async def fails(self: ChannelFiles, channel: str) -> None:
        raise OSError("read-only")

    async with Index(folder.index) as index:
        gone = await plant(index, "gone")
        monkeypatch.setattr(ChannelFiles, "delete", fails)
        await index.reset("here")
        with pytest.raises(StorageFailed):
            await index.add_answer("here", make_answer(None), asked_by="ada")
        monkeypatch.undo()
        await index.add_answer("here", make_answer(None), asked_by="ada")
        assert query(file_of(folder), "SELECT count(*) FROM answers") == [(1,)]
        await index.finish_erase()
    assert remains(folder.path, gone) == []


async def test_one_file_that_cannot_be_erased_holds_up_no_other(index: Index, folder: DataFolder, monkeypatch) -> None:
    stuck, gone = await plant(index, "stuck", "stuck"), await plant(index, "gone")
    delete = ChannelFiles.delete

    async def fails(self: ChannelFiles, channel: str) -> None:
        if channel == "stuck":
            raise OSError("read-only")
        await delete(self, channel)

    monkeypatch.setattr(ChannelFiles, "delete", fails)
    await index.reset("stuck")
    await index.reset("here")
    assert remains(folder.path, gone) == [] and remains(folder.path, stuck)
    monkeypatch.undo()
    await index.finish_erase()
    assert remains(folder.path, stuck) == []


async def test_what_a_channel_handed_over_is_erased_with_it_and_not_handled_twice(folder: DataFolder) -> None:
    async with Index(folder.index) as index:
        await index.receive("slack:event:1", "CANARY-IN-AN-EVENT", "here")
        await index.receive("slack:event:2", "another", "there")
        await index.reset("here")
        assert b"CANARY-IN-AN-EVENT" not in bytes_of(folder.path)
    async with Index(folder.index) as index:
        assert await index.unhandled("slack:") == [("slack:event:2", "another")]
        assert not await index.receive("slack:event:1", "told again", "here")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 12 MB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def fill_up(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("erase", ["forget", "reset"])
async def test_a_full_disk_keeps_nothing_from_being_erased(small_disk: Path, erase: str, monkeypatch) -> None:
    monkeypatch.setattr(storage.index, "ERASE_AGAIN", 0.05)
    with DataFolder(small_disk / "data") as folder:
        async with Index(folder.index) as index:
            gone, kept = await plant(index, "gone"), await plant(index, "kept", "there")
            await learn(index, "large", ["word " * 200_000])
            fill_up(small_disk)
            with pytest.raises(StorageFailed, match="disk is full"):
                await index.add_job(make_job("new"), bytes(100_000))
            await (index.forget("here", "gone") if erase == "forget" else index.reset("here"))
            async with asyncio.timeout(WAIT):
                while remains(folder.path, gone):
                    await asyncio.sleep(0.05)
            assert remains(folder.path, kept) == kept
            assert (erase == "forget") == bool(await index.documents("here"))


async def test_forget_takes_one_document_with_its_jobs_and_answers_only(index: Index, folder: DataFolder) -> None:
    await plant(index, "gone")
    kept = await plant(index, "kept")
    record = await index.forget("here", "gone")
    assert record.document_id == "gone" and [record.document_id for record in await index.all_weights()] == ["kept"]
    assert query(folder.index, "SELECT count(*) FROM jobs") == [(2,)]
    counts = [query(file_of(folder), "SELECT count(*) FROM " + table)[0][0] for table in ("answers", "feedback")]
    assert counts == [1, 1]
    assert [document.id for document in await index.documents("here")] == ["kept"] and len(kept) == 100


async def test_reset_takes_everything_of_its_channel_and_nothing_of_another(index: Index, folder: DataFolder) -> None:
    await plant(index, "one")
    await plant(index, "two")
    await index.add_job(make_job("waiting"), b"%PDF-")
    await index.add_answer("here", make_answer(None), asked_by="ada")
    await plant(index, "kept", "there")
    before = [await index.documents("there"), await index.jobs(channel="there", unfinished=False)]
    assert [record.document_id for record in await index.reset("here")] == ["one", "two"]
    assert [await index.documents("there"), await index.jobs(channel="there", unfinished=False)] == before
    assert not file_of(folder).exists()
    for table in ("channels WHERE id", "jobs WHERE channel", "documents WHERE channel"):
        assert query(folder.index, f"SELECT count(*) FROM {table} = 'here'") == [(0,)]
    assert await index.reset("nowhere") == []


async def test_an_erase_that_a_crash_cut_short_is_finished_at_the_next_start(folder: DataFolder, monkeypatch) -> None:
    async def crash(self: Index) -> None:
        raise StorageFailed

    async with Index(folder.index) as index:
        gone = await plant(index, "gone")
        monkeypatch.setattr(Index, "finish_erase", crash)
        assert (await index.forget("here", "gone")).document_id == "gone"
        assert await index.documents("here") == [] and remains(folder.path, gone)
        monkeypatch.undo()
    assert remains(folder.path, gone)
    async with Index(folder.index):
        assert remains(folder.path, gone) == []


async def test_an_erase_waits_for_its_end_when_another_program_reads(folder: DataFolder, monkeypatch) -> None:
    monkeypatch.setattr(storage.index, "PRAGMAS", storage.index.PRAGMAS.replace("5000", "50"))
    async with Index(folder.index) as index:
        gone = await plant(index, "gone")
        with closing(sqlite3.connect(folder.index, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchall()
            assert (await index.forget("here", "gone")).document_id == "gone"
        await index.finish_erase()
        assert remains(folder.path, gone) == []


async def test_an_erase_that_a_reader_held_up_is_finished_without_being_asked(folder: DataFolder, monkeypatch) -> None:
    """A backup, for example."""
    monkeypatch.setattr(storage.index, "PRAGMAS", storage.index.PRAGMAS.replace("5000", "50"))
    monkeypatch.setattr(storage.index, "ERASE_AGAIN", 0.05)
    async with Index(folder.index) as index:
        gone = await plant(index, "gone")
        with closing(sqlite3.connect(folder.index, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchall()
            await index.forget("here", "gone")
            await asyncio.sleep(0.3)
            assert remains(folder.path, gone)
        async with asyncio.timeout(WAIT):
            while remains(folder.path, gone):
                await asyncio.sleep(0.05)


async def test_the_event_that_ordered_an_erase_leaves_no_trace_either(index: Index, folder: DataFolder) -> None:
    """It names the document, and is worked off when the erase is done."""
    gone = await plant(index, "gone")
    await index.receive("slack:Ev1", f"forget {' '.join(gone)}")
    await index.forget("here", "gone")
    await index.handled("slack:Ev1")
    assert remains(folder.path, gone) == []
