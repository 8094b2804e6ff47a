"""Files that every released version wrote are read by this one; a newer one's are refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from core.errors import DataTooNew, StorageFailed
from core.types import ALL_PAGES, Certainty, JobKind, Stage
from storage.channel_files import ChannelFile, path_in
from storage.check import check_folder
from storage.folder import DataFolder
from storage.index import MIGRATIONS, Index

RELEASED = Path(__file__).with_name("released")
VERSIONS = range(1, len(MIGRATIONS) + 1)


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, folder: DataFolder) -> DataFolder:
    """A data folder of an earlier version: a learned document, an answer, and a failed, a running and a waiting job."""
    folder.channels.mkdir()
    scripts = {RELEASED / f"v{request.param}.sql": folder.index}
    for path in (RELEASED / f"v{request.param}").glob("*.sql"):  # from version 6 on a file for each channel
        scripts[path] = folder.channels / f"{path.stem}.db"
    for script, file in scripts.items():
        with closing(sqlite3.connect(file)) as connection:
            connection.executescript(script.read_text())
    return folder


def test_there_is_a_file_of_every_version() -> None:
    """A new migration comes with a file that the version before it wrote, and one of its own."""
    assert sorted(path.name for path in RELEASED.glob("*.sql")) == [f"v{version}.sql" for version in VERSIONS]


async def test_a_file_of_every_version_is_brought_forward_with_all_that_is_in_it(old: DataFolder) -> None:
    with closing(sqlite3.connect(old.index)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    with closing(sqlite3.connect(old.index if version < 6 else path_in(old.channels, "discord:1:2"))) as connection:
        [(answer,)] = connection.execute("SELECT id FROM answers")
    async with Index(old.index) as index:
        [document] = await index.documents("discord:1:2")
        assert (document.name, document.pages, document.metrics.final_loss) == ("Lighthouse.pdf", 2, 1.5)
        assert document.weights.sections == (0, 1) and document.questions == ("Who keeps the lighthouse?",)
        assert [hit.chunk for hit in await index.candidates("discord:1:2", "What burns in the lamp?")] == [1]
        assert "Ada Quill" in (await index.pages("learned"))[0].text
        async with index._channel("discord:1:2") as file:
            chunks = await file(ChannelFile.chunks, [("learned", 0), ("learned", 1)])
        assert [len(code) for _, code in chunks] == ([56, 56] if version > 3 else [0, 0])
        assert [(job.id, job.stage) for job in await index.requeue_interrupted()] == [("running", Stage.QUEUED)]
        assert [job.id for job in await index.jobs()] == ["waiting", "running"]
        assert await index.job_file("running") == (b"%PDF- running", ALL_PAGES)
        assert [job.error for job in await index.undelivered()] == ["It failed."]
        assert await index.receive("slack:Ev9", "{}")
        assert await index.thread_document("discord:1:2", "11") == ("learned" if version > 2 else None)
        await index.place_answer("discord:1:2", answer, "12")
        assert await index.thread_document("discord:1:2", "12") == "learned"
        if version > 4:
            assert (await index.answer("discord:1:2", answer)).certainty is Certainty.LIKELY
        assert await index.channel_settings("discord:1:2") == {}
    with closing(sqlite3.connect(old.index)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_what_an_older_version_wrote_is_erased_without_a_trace(old: DataFolder) -> None:
    async with Index(old.index) as index:
        await index.forget("discord:1:2", "learned")
    assert b"Ada Quill" not in b"".join(path.read_bytes() for path in old.path.rglob("*") if path.is_file())


async def test_an_upgrade_that_a_crash_cut_short_begins_anew(old: DataFolder, monkeypatch) -> None:
    async def dies(self: Index) -> None:
        await split_up(self)
        raise StorageFailed

    split_up = Index._split_up
    monkeypatch.setattr(Index, "_split_up", dies)
    with suppress(StorageFailed):
        async with Index(old.index):
            pass
    monkeypatch.undo()
    async with Index(old.index) as index:
        assert "Ada Quill" in (await index.pages("learned"))[0].text and await index.job_file("running")
    assert check_folder(old.path).problems == ("document learned: its weights can't be read",)


def test_a_file_of_every_version_is_known_as_engrams_own(old: DataFolder) -> None:
    """A restore refuses any other."""
    assert check_folder(old.path).problems == ("document learned: its weights can't be read",)


async def test_the_schema_is_the_same_whichever_version_it_began_with(old: DataFolder, tmp_path: Path) -> None:
    async with Index(old.index), Index(tmp_path / "new.db"):
        pass
    assert schema(old.index) == schema(tmp_path / "new.db")


def schema(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        return {(name, " ".join(sql.split())) for name, sql in rows}


async def test_a_newer_versions_file_is_refused_and_stays_as_it_is(old: DataFolder) -> None:
    with closing(sqlite3.connect(old.index)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = old.index.read_bytes()
    with pytest.raises(DataTooNew, match="newer Engram; upgrade"):
        async with Index(old.index):
            pass
    assert old.index.read_bytes() == before


@pytest.fixture
def waiting_since_version_6(folder: DataFolder) -> DataFolder:
    """Jobs as version 6 kept them: marks before the first byte say that a file is only a part, or is no file at all."""
    folder.channels.mkdir()
    text = b'engram: documents as one\n{"share": 1, "documents": [["Lighthouse.pdf", ["One.", "Two."]]]}'
    files = {"part": b"engram: pages 3-12\n%PDF- part", "again": text, "several": text, "whole": b"%PDF- whole\n"}
    with closing(sqlite3.connect(folder.index)) as connection:
        connection.executescript((RELEASED / "v6.sql").read_text())
        connection.execute("DELETE FROM jobs WHERE stage = 'queued'")
        for job in files:
            connection.execute(
                "INSERT INTO jobs (id, channel, name, sha256, requested_by, reply_to, created_at, stage, attempts, "
                "error, delivered) VALUES (?, 'discord:1:2', ?, ?, '', '', 1.5, 'queued', 0, '', 0)",
                (job, f"{job}.pdf", job),
            )
        connection.execute("UPDATE jobs SET sha256 = (SELECT sha256 FROM documents) WHERE id = 'again'")
        connection.commit()
    name = path_in(folder.channels, "discord:1:2")
    with closing(sqlite3.connect(name)) as connection:
        connection.executescript((RELEASED / "v6" / f"{name.stem}.sql").read_text())
        connection.executemany("INSERT INTO job_files VALUES (?, ?)", files.items())
        connection.commit()
    return folder


async def test_marks_in_files_become_kinds_of_jobs(waiting_since_version_6: DataFolder) -> None:
    async with Index(waiting_since_version_6.index) as index:
        jobs = {job.id: job for job in await index.jobs(channel="discord:1:2", unfinished=False)}
        assert {job: jobs[job].kind for job in ("part", "whole", "again")} == {
            "part": JobKind.LEARN,
            "whole": JobKind.LEARN,
            "again": JobKind.RELEARN,
        }
        assert await index.job_file("part") == (b"%PDF- part", (3, 12))
        assert await index.job_file("whole") == (b"%PDF- whole\n", ALL_PAGES)
        assert jobs["again"].sources == ("learned",)
        assert (jobs["several"].stage, jobs["several"].error) == (
            Stage.FAILED,
            "An older version was asked to do this; ask again.",
        )
