"""The index: jobs, documents, questions, and what is left of them when they are erased."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage.index
from core.errors import AlreadyKnown, Cancelled, DataTooNew, NotFound, StorageFailed
from core.ports import Index as Port
from core.search.ranking import Hit
from core.types import ALL_PAGES, Document, Page, Stage
from storage.channel_files import ChannelFile, ChannelFiles, path_in
from storage.folder import DataFolder
from storage.index import CHANNELS, Index
from tests.storage.samples import learn, make_answer, make_chunks, make_document, make_job

HOSTILE = [
    "'; DROP TABLE documents; --",
    "' OR 1=1--",
    '"); DROP TABLE jobs',
    '"',
    "'",
    '""',
    "*",
    "^",
    "a*",
    "NEAR(",
    "NEAR(a b, 2)",
    "AND",
    "OR",
    "NOT",
    "a AND",
    "-a",
    "+",
    "text:",
    "{a b}:c",
    "(",
    ")",
    "\\",
    "%",
    "_",
    "?1",
    ":id",
    "\x00",
    "a\x00b",
    "\ud800",
    "🙂",
    "x" * 20_000,
    "a b " * 5_000,
]


def query(path: Path, sql: str) -> list[tuple]:
    """As another program would see the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def file_of(folder: DataFolder, channel: str = "here") -> Path:
    return path_in(folder.path / CHANNELS, channel)


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def claim(index: Index, *stages: Stage) -> str:
    """Claim the next job and move it on; returns its id."""
    job = await index.next_job()
    assert job
    for stage in stages:
        await index.job_stage(job.id, stage)
    return job.id


# The file


def test_the_index_has_every_method_of_the_port() -> None:
    assert [name for name in vars(Port) if not name.startswith("_") and not hasattr(Index, name)] == []


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, storage.index, storage.weights, storage.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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


async def test_a_claim_belongs_to_the_first_who_makes_it(index: Index) -> None:
    assert [await index.claim("slack:file:F1", owner) for owner in "aba"] == [True, False, True]
    assert await index.claim("slack:file:F1", "b", seconds=-1.0) and not await index.claim("slack:file:F1", "a")


async def test_what_was_worked_off_is_forgotten_after_a_day_and_what_was_not_is_kept(index: Index, monkeypatch) -> None:
    monkeypatch.setattr(storage.index, "INBOX_SECONDS", -1.0)
    await index.receive("slack:event:1", "one")
    await index.receive("slack:event:2", "two")
    await index.handled("slack:event:1")
    assert await index.receive("slack:event:1", "one") and not await index.receive("slack:event:2", "two")


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


async def test_a_cancelled_writer_blocks_nobody_and_leaves_nothing_half_done(index: Index) -> None:
    for at in range(20):
        writing = asyncio.create_task(index.add_job(make_job(f"job{at}"), b"%PDF-"))
        await asyncio.sleep(at / 10_000)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await index.add_job(make_job("last"), b"%PDF-")
    jobs = await index.jobs()
    assert jobs[-1].id == "last" and [await index.job_file(job.id) for job in jobs] == [(b"%PDF-", ALL_PAGES)] * len(
        jobs
    )


async def test_eight_writers_at_once_never_see_a_locked_file(index: Index) -> None:
    document = await learn(index, "d1", ["The harbour opened."])

    async def write(writer: int) -> None:
        for at in range(25):
            await index.add_job(make_job(f"{writer}-{at}", f"channel {writer}"), b"%PDF-")
            answer = await index.add_answer("here", make_answer(document), asked_by="ada")
            await index.feedback("here", answer, by="bob", helpful=True)
            await index.jobs()

    await asyncio.gather(*(write(writer) for writer in range(8)))
    assert len(await index.jobs()) == 200
    assert len({job.id for job in [await index.next_job() for _ in range(200)] if job}) == 200


async def test_a_file_of_50_mb_does_not_hold_up_the_event_loop(index: Index) -> None:
    longest, stop = 0.0, asyncio.Event()

    async def tick() -> None:
        nonlocal longest
        while not stop.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            longest = max(longest, time.perf_counter() - before)

    ticking = asyncio.create_task(tick())
    await index.add_job(make_job("big"), bytes(50 * 2**20))
    assert len((await index.job_file("big"))[0]) == 50 * 2**20
    await index.job_stage("big", Stage.CANCELLED)
    stop.set()
    await ticking
    assert longest < 0.25


# Jobs


async def test_a_job_comes_back_as_it_went_in(index: Index) -> None:
    job = make_job("job1", reply_to="C1/2.3")
    assert await index.add_job(job, b"%PDF-1.4") == job
    assert await index.job("job1") == job
    assert await index.jobs(channel="here") == [job] and await index.jobs(channel="there") == []
    assert await index.job_file("job1") == (b"%PDF-1.4", ALL_PAGES)


async def test_a_job_that_is_not_there_is_not_found(index: Index) -> None:
    for call in (index.job, index.job_file):
        with pytest.raises(NotFound):
            await call("nothing")


async def test_the_same_file_twenty_times_at_once_is_one_job(index: Index) -> None:
    jobs = [make_job(f"job{at}", data=b"same") for at in range(20)]
    results = await asyncio.gather(*(index.add_job(job, b"same") for job in jobs), return_exceptions=True)
    assert sum(isinstance(result, AlreadyKnown) for result in results) == 19
    assert len(await index.jobs()) == 1


async def test_a_learned_file_is_already_known_and_named_but_only_in_its_channel(index: Index) -> None:
    await learn(index, "d1", ["The harbour opened."], data=b"same")
    with pytest.raises(AlreadyKnown) as refusal:
        await index.add_job(make_job("again", data=b"same"), b"same")
    assert refusal.value.document_id == "d1"
    await index.add_job(make_job("elsewhere", "there", data=b"same"), b"same")


@pytest.mark.parametrize("end", [Stage.FAILED, Stage.CANCELLED])
async def test_a_file_may_be_tried_again_after_it_failed(index: Index, end: Stage) -> None:
    await index.add_job(make_job("first", data=b"same"), b"same")
    await index.job_stage("first", end)
    await index.add_job(make_job("second", data=b"same"), b"same")


async def test_a_claimed_job_is_read_and_its_attempt_counted(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    claimed = await index.next_job()
    assert claimed == replace(make_job("job1"), stage=Stage.READING, attempts=1) == await index.job("job1")
    assert await index.next_job() is None


async def test_a_flood_in_one_channel_delays_another_by_one_job_at_most(index: Index) -> None:
    for at in range(50):
        await index.add_job(make_job(f"flood{at}", "flood"), b"%PDF-")
    assert await claim(index, Stage.CANCELLED) == "flood0"
    for at in range(3):
        await index.add_job(make_job(f"calm{at}", "calm"), b"%PDF-")
    order = [await claim(index, Stage.CANCELLED) for _ in range(6)]
    assert order == ["calm0", "flood1", "calm1", "flood2", "calm2", "flood3"]


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


async def test_the_list_of_jobs_is_the_order_in_which_they_are_begun(index: Index) -> None:
    for channel, count in {"a": 4, "b": 1, "c": 2}.items():
        for at in range(count):
            await index.add_job(make_job(f"{channel}{at}", channel), b"%PDF-")
    await claim(index)
    running, *queued = [job.id for job in await index.jobs()]
    assert (running, queued) == ("a0", [await claim(index) for _ in range(6)])
    assert queued == ["b0", "c0", "a1", "c1", "a2", "a3"]


async def test_the_file_of_a_job_goes_with_its_end_from_the_disk_too(index: Index, folder: DataFolder) -> None:
    await index.add_job(make_job("job1"), b"%PDF-" + b"CANARY-IN-A-PDF" * 1_000)
    assert b"CANARY-IN-A-PDF" in bytes_of(folder.path)
    await index.job_stage("job1", Stage.FAILED, error="This PDF is damaged.")
    assert b"CANARY-IN-A-PDF" not in bytes_of(folder.path)
    assert (await index.job("job1")).error == "This PDF is damaged."


async def test_a_job_that_has_ended_stays_as_it_ended(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    await index.job_stage("job1", Stage.CANCELLED)
    await index.job_stage("job1", Stage.FAILED, error="Too late.")
    with pytest.raises(Cancelled):
        await index.job_stage("job1", Stage.LEARNING)
    with pytest.raises(Cancelled):
        await index.finish_job("job1", make_document("d1", job), [], make_chunks("x"))
    assert await index.job("job1") == replace(job, stage=Stage.CANCELLED)
    assert await index.documents("here") == [] and await index.all_weights() == []


async def test_an_attempt_whose_job_was_begun_again_changes_nothing(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    first = await index.next_job()
    await index.requeue_interrupted()
    second = None
    for _ in range(2):  # while the job is queued; while it is in its second attempt
        await index.job_stage("job1", Stage.FAILED, error="Too late.", attempt=first.attempts)
        with pytest.raises(Cancelled):
            await index.job_stage("job1", Stage.LEARNING, attempt=first.attempts)
        with pytest.raises(Cancelled):
            await index.finish_job("job1", make_document("d1", first), [], make_chunks("x"), attempt=first.attempts)
        second = await index.next_job() or second
    assert second.attempts == 2 and await index.documents("here") == []
    await index.job_stage("job1", Stage.LEARNING, attempt=2)
    await index.finish_job("job1", make_document("d1", second), [], make_chunks("x"), attempt=2)
    assert (await index.job("job1")).stage is Stage.DONE


async def test_the_index_and_the_stages_agree_on_what_is_final(index: Index) -> None:
    for stage in Stage:
        await index.add_job(make_job(stage), b"%PDF-")
        await index.job_stage(stage, stage)
    assert {job.stage for job in await index.jobs()} == {stage for stage in Stage if not stage.final}
    assert {job.stage for job in await index.jobs(unfinished=False)} == set(Stage)


async def test_an_interrupted_job_is_queued_again_twice_and_then_given_up(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    for attempt in (1, 2, 3):
        await claim(index, Stage.LEARNING)
        [job] = await index.requeue_interrupted()
        assert (job.attempts, job.stage) == (attempt, Stage.QUEUED if attempt < 3 else Stage.FAILED)
    assert "3 times" in job.error and await index.next_job() is None
    with pytest.raises(NotFound):
        await index.job_file("job1")
    assert await index.undelivered() == [job]


async def test_a_queued_job_is_not_interrupted(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    assert await index.requeue_interrupted() == []


async def test_an_attempt_that_was_given_back_does_not_count(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    for _ in range(5):
        await claim(index, Stage.LEARNING, Stage.QUEUED)
    assert (await index.job("job1")).attempts == 0


async def test_an_end_is_undelivered_until_the_channel_was_told(index: Index) -> None:
    await learn(index, "d1", ["The harbour opened."])
    [job] = await index.undelivered()
    assert (job.stage, job.document_id, job.delivered) == (Stage.DONE, "d1", False)
    await index.mark_delivered(job.id)
    assert await index.undelivered() == [] and (await index.job(job.id)).delivered


# Documents


async def test_a_document_comes_back_as_it_went_in(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    document = make_document("d1", job, questions=("Who?", "When?"))
    await index.finish_job("job1", document, [], make_chunks("One.", "Two."))
    assert await index.documents("here") == [document]
    assert await index.all_weights() == [document.weights]
    async with index._channel("here") as content:
        chunks = await content(ChannelFile.chunks, [("d1", 1), ("d1", 0), ("d1", 2)])
    assert chunks == [("Two.", b""), ("One.", b""), ("", b"")]


async def test_a_document_is_stored_whole_or_not_at_all(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    with pytest.raises(StorageFailed):
        await index.finish_job("job1", make_document("d1", job), [], [*make_chunks("One."), *make_chunks("One.")])
    assert await index.documents("here") == [] and await index.candidates("here", "One") == []
    assert (await index.job("job1")).stage is Stage.QUEUED and await index.job_file("job1") == (b"%PDF-", ALL_PAGES)


async def test_documents_are_listed_newest_first_and_by_channel(index: Index) -> None:
    for id, channel in [("d1", "here"), ("d2", "here"), ("d3", "there")]:
        await learn(index, id, ["The harbour opened."], channel)
    assert [document.id for document in await index.documents("here")] == ["d2", "d1"]


async def test_a_document_is_found_by_id_name_or_the_beginning_of_either(index: Index) -> None:
    await learn(index, "k3x9", ["x"], name="Harbour Report.pdf")
    await learn(index, "m7", ["x"], name="harbour report 2.pdf")
    for key in ("k3x9", "K3", "harbour report.pdf", " Harbour Report.PDF "):
        assert (await index.find_document("here", key)).id == "k3x9"
    assert (await index.find_document("here", "harbour report 2")).id == "m7"


@pytest.mark.parametrize("key", ["", " ", "harbour", "none", "%", "*"])
async def test_what_names_no_document_or_several_is_not_found(index: Index, key: str) -> None:
    await learn(index, "k3x9", ["x"], name="Harbour Report.pdf")
    await learn(index, "m7", ["x"], name="harbour report 2.pdf")
    with pytest.raises(NotFound):
        await index.find_document("here", key)


async def test_an_empty_key_does_not_name_the_only_document(index: Index) -> None:
    await learn(index, "d1", ["x"])
    with pytest.raises(NotFound):
        await index.find_document("here", " ")


async def test_another_channels_document_is_not_found(index: Index) -> None:
    await learn(index, "d1", ["x"])
    for call in (index.find_document, index.forget):
        with pytest.raises(NotFound):
            await call("there", "d1")
    assert len(await index.documents("here")) == 1


# Questions


async def test_a_question_is_led_to_the_chunk_that_shares_its_rare_words(index: Index) -> None:
    await learn(index, "ships", ["The ships sail at dawn.", "Captain Mara commands the Velarium."])
    await learn(index, "food", ["The ship's cook bakes bread.", "The captain eats fish."])
    hits = await index.candidates("here", "Who is the captain of the Velarium?")
    assert [(hit.document.id, hit.chunk) for hit in hits] == [("ships", 1), ("food", 1)]
    assert hits[0].score > hits[1].score > 0


async def test_a_hit_tells_how_much_of_the_question_stands_in_it_rare_words_first(index: Index) -> None:
    await learn(index, "ships", ["The ships sail at dawn.", "Captain Mara commands the Velarium."])
    await learn(index, "food", ["The ship's cook bakes bread.", "The captain eats fish."])
    await learn(index, "other", ["The Velarium sank with all zebras."], "there")
    asked = "Who is the captain of the Velarium?"
    assert await shares(index, asked) == [1.0, pytest.approx(0.435, abs=0.01)]
    assert await shares(index, asked, document_id="food") == [pytest.approx(0.39, abs=0.01)]
    assert await shares(index, "Has the captain any zebras?") == [pytest.approx(0.34, abs=0.01)] * 2
    assert await shares(index, "zebra") == [0.0]


async def test_a_hit_tells_among_how_many_chunks_it_was_found(index: Index) -> None:
    await learn(index, "ships", ["The ships sail at dawn.", "Captain Mara commands the Velarium."])
    await learn(index, "food", ["The ship's cook bakes bread."])
    await learn(index, "other", ["The Velarium sank."], "there")

    async def among(question: str, **scope: str) -> set[int]:
        return {hit.searched for hit in await index.candidates("here", question, **scope)}

    assert await among("Which ships sail?") == {3}
    assert await among("Which ships sail?", document_id="ships") == {2}
    assert await among("zebra") == {1}  # nothing was found


async def shares(index: Index, question: str, **scope: str) -> list[float]:
    return [hit.share for hit in await index.candidates("here", question, **scope)]


TEXTS = [
    "The ships of the harbour sail at dawn, and ships return at night.",
    "Captain Mara of the harbour commands the Velarium.",
    "The harbour feeds a cook who bakes bread for ships.",
]
ASKED = ["Who is the captain of the harbour?", "Which ships of the harbour sail?", "bread", "Velarium ships"]


async def test_other_channels_words_change_no_hit(index: Index) -> None:
    await learn(index, "d1", TEXTS)
    before = [await index.candidates("here", question) for question in ASKED]
    await learn(index, "other", [f"The captain sails {n} ships without bread." for n in range(40)], "there")
    for question, hits in zip(ASKED, before, strict=True):
        again = await index.candidates("here", question)
        assert [hit.chunk for hit in again] == [hit.chunk for hit in hits]
        assert [hit.score for hit in again] == pytest.approx([hit.score for hit in hits], rel=0.2)  # mean lengths
        assert [(hit.share, hit.searched) for hit in again] == [(hit.share, hit.searched) for hit in hits]


async def test_another_channels_upload_shifts_no_score(index: Index) -> None:
    await learn(index, "d1", ["The harbour opened in May.", "The harbour has a crane and a long pier."])
    before = [(hit.chunk, hit.score, hit.share) for hit in await index.candidates("here", "When did the harbour open?")]
    await learn(index, "d2", ["harbour " * 5_000, "open " * 5_000], "there")
    after = [(hit.chunk, hit.score, hit.share) for hit in await index.candidates("here", "When did the harbour open?")]
    assert after == before and before


async def test_a_candidate_comes_with_its_text_and_code(index: Index) -> None:
    await learn(index, "d1", ["The captain sails.", "No word of it."], codes=[b"first", b"second"])
    [hit] = await index.candidates("here", "captain")
    assert (hit.text, hit.code) == ("The captain sails.", b"first")
    [newest] = await index.candidates("here", "zebra")
    assert (newest.text, newest.code) == ("The captain sails.", b""), "what no word found is compared with nothing"


async def test_another_form_of_a_word_is_found(index: Index) -> None:
    await learn(index, "d1", ["Nothing here.", "The café was FOUNDED by harbours."])
    await learn(index, "d2", ["Of no use."])
    for question in ("founding?", "cafe", "Harbour"):
        assert [(hit.document.id, hit.chunk) for hit in await index.candidates("here", question)] == [("d1", 1)]


async def test_stop_words_lead_nowhere_unless_there_is_nothing_else(index: Index) -> None:
    await learn(index, "d1", ["Who is who: the list."])
    await learn(index, "d2", ["Captain Mara."])
    assert (await index.candidates("here", "Who is the captain?"))[0].document.id == "d2"
    assert (await index.candidates("here", "Who is who?"))[0].document.id == "d1"


async def test_without_a_matching_word_the_newest_document_is_asked(index: Index) -> None:
    assert await index.candidates("here", "anything") == []
    await learn(index, "d1", ["One.", "Two."])
    newest = await learn(index, "d2", ["Three.", "Four."])
    for question in ("zebra", "", "?!", "_"):
        assert await index.candidates("here", question) == [without_words(newest, "Three.")]


async def test_a_question_may_be_for_one_document(index: Index) -> None:
    first = await learn(index, "d1", ["The captain.", "The cook."])
    await learn(index, "d2", ["The cook."])
    [hit] = await index.candidates("here", "cook", document_id="d1")
    assert (hit.document, hit.chunk, hit.share, hit.searched) == (first, 1, 1.0, 2) and hit.score > 0
    assert await index.candidates("here", "zebra", document_id="d1") == [without_words(first, "The captain.")]
    assert await index.candidates("there", "cook", document_id="d1") == []


async def test_a_question_never_leaves_its_channel(index: Index) -> None:
    await learn(index, "secret", ["The code of the vault is velarium."], "there")
    mine = await learn(index, "mine", ["Nothing."])
    assert await index.candidates("here", "velarium") == [without_words(mine, "Nothing.")]


def without_words(document: Document, text: str) -> Hit:
    """The first chunk of a document in which no word of a question stands."""
    return Hit(document=document, chunk=0, score=0.0, share=0.0, searched=1, text=text)


async def test_no_more_hits_than_asked_for(index: Index) -> None:
    await learn(index, "d1", [f"captain number {at}" for at in range(12)])
    assert len(await index.candidates("here", "captain")) == 10
    assert len(await index.candidates("here", "captain", limit=2)) == 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.from_regex(r'([a-z"*^:(){}+-]| AND | OR | NOT |NEAR\()+', fullmatch=True))
def test_no_question_is_a_syntax_error(tmp_path_factory, question: str) -> None:
    async def ask() -> None:
        async with Index(tmp_path_factory.getbasetemp() / "fuzzed") as index:
            if not await index.documents("here"):
                await learn(index, "d1", ["and or not near text"])
            assert (await index.candidates("here", question))[0].document.id == "d1"

    asyncio.run(ask())


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_is_text(index: Index, folder: DataFolder, text: str) -> None:
    before = query(folder.index, "SELECT * FROM sqlite_schema")
    document = await learn(index, "d1", [text, "The harbour."], text, name=text, requested_by=text, reply_to=text)
    await index.candidates(text, text, document_id=text)
    answer = await index.add_answer(text, make_answer(document, text, text), asked_by=text, thread=text)
    await index.feedback(text, answer, by=text, helpful=True)
    for call in (index.find_document, index.forget):
        with pytest.raises(NotFound):
            await call("other " + text, text)
    assert [document.id for document in await index.documents(text)] == ["d1"]
    assert query(folder.index, "SELECT * FROM sqlite_schema") == before
    await index.reset(text)
    assert await index.documents(text) == []


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


async def test_the_document_of_a_thread_is_the_one_that_answered_there_last(index: Index) -> None:
    first, second = await learn(index, "d1", ["x"]), await learn(index, "d2", ["y"])
    assert await index.thread_document("here", "1") is None
    for document in (first, second):
        await index.add_answer("here", make_answer(document), asked_by="ada", thread="1")
        assert await index.thread_document("here", "1") == document.id
    for nothing in (make_answer(None), make_answer(first, learned="not in the text")):
        await index.add_answer("here", nothing, asked_by="ada", thread="1")
    assert await index.thread_document("here", "1") == "d2"
    assert [await index.thread_document(*place) for place in (("there", "1"), ("here", "2"))] == [None, None]
    await index.forget("here", "d2")
    assert await index.thread_document("here", "1") == "d1"


async def test_an_answer_moves_to_the_thread_that_it_opened(index: Index) -> None:
    answer = await index.add_answer("here", make_answer(await learn(index, "d1", ["x"])), asked_by="ada", thread="1")
    await index.place_answer("there", answer, "2")
    assert await index.thread_document("here", "1") == "d1"
    await index.place_answer("here", answer, "2")
    assert [await index.thread_document("here", thread) for thread in "12"] == [None, "d1"]
    await index.reset("here")
    await index.place_answer("here", answer, "3")
    assert await index.thread_document("here", "3") is None


async def test_the_document_of_a_thread_is_found_without_reading_all_answers(index: Index, folder: DataFolder) -> None:
    await index.add_answer("here", make_answer(None), asked_by="ada")
    found = query(file_of(folder), "EXPLAIN QUERY PLAN SELECT document_id FROM answers WHERE thread = 1")
    assert "answers_by_thread (thread=?)" in found[0][-1]


async def test_feedback_on_another_channels_answer_is_refused(index: Index) -> None:
    answer = await index.add_answer("here", make_answer(None), asked_by="ada")
    with pytest.raises(NotFound):
        await index.feedback("there", answer, by="bob", helpful=True)


async def test_an_answer_from_a_document_that_was_forgotten_meanwhile_is_not_kept(index: Index) -> None:
    document = await learn(index, "d1", ["x"])
    await index.forget("here", "d1")
    with pytest.raises(NotFound):
        await index.add_answer("here", make_answer(document), asked_by="ada")


# Erase


def canaries(name: str) -> list[str]:
    """Words that occur nowhere else."""
    chance = random.Random(name)
    return [chance.randbytes(10).hex() for _ in range(100)]


async def plant(index: Index, name: str, channel: str = "here") -> list[str]:
    """A document with a code, a failed job, an answer and feedback, 100 canaries in them."""
    words = canaries(name)
    texts = [f"{word} " + "filling " * (at * 8) for at, word in enumerate(words[:94])]
    await index.add_job(make_job(f"failed-{name}", channel, name=words[95], data=name.encode()), words[95].encode())
    await index.job_stage(f"failed-{name}", Stage.FAILED, error=words[95])
    given = {"name": words[96], "requested_by": words[97], "data": name.encode()}
    document = await learn(index, name, texts, channel, codes=[words[94].encode()], **given)
    answer = await index.add_answer(channel, make_answer(document, words[98], words[99]), asked_by=words[97])
    await index.place_answer(channel, answer, words[97])
    await index.feedback(channel, answer, by=words[97], helpful=True)
    return words


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
        await content(ChannelFile.add_document, "lost", [Page(1, "The harbour.")], make_chunks("The harbour."), [])
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
            async with asyncio.timeout(10):
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


async def test_a_job_that_was_erased_while_it_ran_stores_nothing(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    await claim(index, Stage.LEARNING)
    await index.reset("here")
    with pytest.raises(Cancelled):
        await index.job_stage("job1", Stage.CHECKING)
    with pytest.raises(Cancelled):
        await index.finish_job("job1", make_document("d1", job), [], make_chunks("x"))
    await index.job_stage("job1", Stage.CANCELLED)
    assert await index.all_weights() == []


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
        async with asyncio.timeout(5):
            while remains(folder.path, gone):
                await asyncio.sleep(0.05)


async def test_the_event_that_ordered_an_erase_leaves_no_trace_either(index: Index, folder: DataFolder) -> None:
    """It names the document, and is worked off when the erase is done."""
    gone = await plant(index, "gone")
    await index.receive("slack:Ev1", f"forget {' '.join(gone)}")
    await index.forget("here", "gone")
    await index.handled("slack:Ev1")
    assert remains(folder.path, gone) == []
