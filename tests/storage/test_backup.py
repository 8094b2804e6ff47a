"""One file with everything in it, and back again."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import random
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import storage.backup
from core.errors import BackupDamaged, DataFolderBusy, DataTooNew, NotFound, StorageFailed
from core.types import ALL_PAGES, Document
from storage.backup import back_up, restore
from storage.channel_files import path_in
from storage.check import check_folder
from storage.folder import RESTORED, DataFolder
from storage.index import MIGRATIONS, Index
from storage.weights import Weights
from tests.storage.samples import learn, make_chunks, make_document, make_job, make_learned

Change = Callable[[dict], object]


async def learn_with_weights(index: Index, folder: DataFolder, id: str, channel: str = "here") -> Document:
    job = await index.add_job(make_job(f"job-{id}", channel), b"%PDF-")
    record = Weights(folder.weights).save(id, channel, make_learned(1.0, 2.0), base="base", learner="lora")
    document = make_document(id, job, replace(record, sections=(0, 1)))
    await index.finish_job(job.id, document, [], make_chunks(f"The secret of {id}.", "More."))
    return document


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "engram.backup"


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """A data folder with two documents, and something prepared."""
    with DataFolder(tmp_path / "source") as folder:
        async with Index(folder.index) as index:
            for id in ("d1", "d2"):
                await learn_with_weights(index, folder, id)
        (folder.path / "prepared" / "abc").mkdir(parents=True)
        (folder.path / "prepared" / "abc" / "prepared.json").write_text("{}")
    return tmp_path / "source"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rewrite(file: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """The archive with its files changed."""
    with zipfile.ZipFile(file) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


async def test_what_was_backed_up_comes_back(source: Path, file: Path, tmp_path: Path) -> None:
    assert back_up(source, file).documents == 2
    assert restore(tmp_path / "new", file).documents == 2
    assert check_folder(tmp_path / "new") == check_folder(source)
    assert (tmp_path / "new" / "prepared" / "abc" / "prepared.json").read_text() == "{}"
    async with Index(tmp_path / "new" / "engram.db") as index:
        [document, _] = await index.documents("here")
        assert Weights(tmp_path / "new" / "weights").load(document.weights, "here", base="base", section=1)
        assert await index.candidates("here", f"secret of {document.id}")


async def test_a_restore_takes_the_place_of_everything(source: Path, file: Path) -> None:
    back_up(source, file)
    with DataFolder(source) as folder:
        async with Index(folder.index) as index:
            await index.forget("here", "d1")
            await learn_with_weights(index, folder, "later")
    (source / "weights" / "stray.tmp").touch()
    restore(source, file)
    assert set(check_folder(source).documents) == {"d1", "d2"}
    assert sorted(path.name for path in source.rglob("*")) == sorted(
        [
            *("abc", "channels", "d1.safetensors", "d2.safetensors", "engram.db", "lock", "prepared", "prepared.json"),
            *("reserve", "weights", path_in(Path(), "here").name),
        ]
    )


async def test_a_backup_is_made_beside_a_running_bot_and_is_one_moment(file: Path, folder: DataFolder) -> None:
    async with Index(folder.index) as index:
        await learn_with_weights(index, folder, "first")
        busy = asyncio.create_task(come_and_go(index, folder))
        for _ in range(5):
            manifest = await asyncio.to_thread(back_up, folder.path, file)
            assert manifest.documents >= 1
            restored = folder.path.parent / "restored"
            await asyncio.to_thread(restore, restored, file)
            assert check_folder(restored).problems == () and "first" in check_folder(restored).documents
        busy.cancel()


async def come_and_go(index: Index, folder: DataFolder) -> None:
    number = 0
    while True:
        number += 1
        document = await learn_with_weights(index, folder, f"n{number}")
        if number % 2:
            Weights(folder.weights).delete((await index.forget("here", document.id)).document_id)


async def test_nothing_half_made_is_left_and_an_older_backup_stays(source: Path, file: Path, monkeypatch) -> None:
    back_up(source, file)
    before = file.read_bytes()
    (source / "weights" / "d1.safetensors").write_bytes(b"changed")
    with pytest.raises(StorageFailed, match="damaged"):
        back_up(source, file)
    (source / "weights" / "d1.safetensors").unlink()
    with pytest.raises(StorageFailed, match="missing"):
        back_up(source, file)
    assert file.read_bytes() == before and [path.name for path in file.parent.glob(".*")] == []


def test_what_a_killed_backup_left_goes_with_the_next_one(source: Path, file: Path) -> None:
    left, busy = (file.with_name(f".{file.name}-{'0123456' + end}.part") for end in "78")
    left.write_bytes(b"half")
    with busy.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        back_up(source, file)
        assert sorted(path.name for path in file.parent.glob(".*")) == [busy.name]


@pytest.mark.parametrize("name", ["engram.db", "weights/d1.safetensors", "new.backup"])
def test_a_backup_replaces_nothing_in_the_data_folder(source: Path, name: str) -> None:
    before = bytes_of(source)
    with pytest.raises(StorageFailed, match="another place"):
        back_up(source, source / name)
    assert bytes_of(source) == before


def test_the_tokens_of_workspaces_come_along(source: Path, file: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(source / "slack.db")) as tokens:
        tokens.executescript("CREATE TABLE slack_bots (token); INSERT INTO slack_bots VALUES ('xoxb');")
    back_up(source, file)
    restore(tmp_path / "new", file)
    with closing(sqlite3.connect(tmp_path / "new" / "slack.db")) as tokens:
        assert tokens.execute("SELECT token FROM slack_bots").fetchall() == [("xoxb",)]
    with closing(sqlite3.connect(source / "slack.db")) as tokens:
        tokens.executescript("CREATE TRIGGER evil AFTER INSERT ON slack_bots BEGIN DELETE FROM slack_bots; END")
    back_up(source, file)
    with pytest.raises(BackupDamaged):
        restore(tmp_path / "new", file)


async def test_a_backup_is_for_its_owner_only(source: Path, file: Path) -> None:
    back_up(source, file)
    assert file.stat().st_mode & 0o777 == 0o600


async def test_without_data_there_is_no_backup(tmp_path: Path, file: Path) -> None:
    with pytest.raises(NotFound):
        back_up(tmp_path / "nowhere", file)
    assert not (tmp_path / "nowhere").exists() and not file.exists()


async def test_while_the_bot_runs_nothing_is_restored(source: Path, file: Path) -> None:
    back_up(source, file)
    with DataFolder(source), pytest.raises(DataFolderBusy):
        restore(source, file)


async def test_every_damage_is_noticed_and_nothing_is_changed(source: Path, file: Path) -> None:
    back_up(source, file)
    whole, before, chance = file.read_bytes(), bytes_of(source), random.Random(5)
    for at in range(30):
        damaged = bytearray(whole)
        if at % 3:
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(whole)) :]
        file.write_bytes(damaged)
        try:
            restore(source, file)
        except BackupDamaged:
            assert bytes_of(source) == before
    file.write_bytes(whole)
    restore(source, file)
    assert set(check_folder(source).documents) == {"d1", "d2"}


def drop_a_document(files: dict[str, bytes]) -> None:
    del files["weights/d1.safetensors"]


def swap_two(files: dict[str, bytes]) -> None:
    one, two = "weights/d1.safetensors", "weights/d2.safetensors"
    files[one], files[two] = files[two], files[one]


def change_the_manifest(change: Change) -> Callable[[dict[str, bytes]], None]:
    def changed(files: dict[str, bytes]) -> None:
        manifest = json.loads(files["manifest.json"])
        change(manifest)
        files["manifest.json"] = json.dumps(manifest).encode()

    return changed


HOSTILE = [
    drop_a_document,
    swap_two,
    lambda files: files.pop("manifest.json"),
    lambda files: files.update({"manifest.json": b"[]"}),
    lambda files: files.update({"engram.db": b"no database"}),
    change_the_manifest(lambda manifest: manifest["files"].update({"../outside": [0, ""]})),
    change_the_manifest(lambda manifest: manifest["files"].update({"weights/../../x": [0, ""]})),
    change_the_manifest(lambda manifest: manifest["files"].update({"weights/d3.safetensors": [0, ""]})),
    change_the_manifest(lambda manifest: manifest["files"].pop("weights/d1.safetensors")),
    change_the_manifest(lambda manifest: manifest["files"]["engram.db"].__setitem__(0, 1)),
    change_the_manifest(lambda manifest: manifest.pop("version")),
    change_the_manifest(lambda manifest: manifest.update(version=1)),
]


def crafted(path: str, sql: str) -> Callable[[dict[str, bytes]], None]:
    """An archive whose database does something of its own, with a manifest that fits."""

    def changed(files: dict[str, bytes]) -> None:
        name = next(name for name in files if name.startswith(path))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file.db"
            file.write_bytes(files[name])
            with closing(sqlite3.connect(file)) as connection:
                connection.executescript(sql)
            files[name] = file.read_bytes()
        manifest = json.loads(files["manifest.json"])
        manifest["files"][name] = [len(files[name]), hashlib.sha256(files[name]).hexdigest()]
        files["manifest.json"] = json.dumps(manifest).encode()

    return changed


TRIGGER = "CREATE TRIGGER evil AFTER INSERT ON {} BEGIN DELETE FROM {}; END"
HOSTILE += [
    crafted("engram.db", TRIGGER.format("jobs", "documents")),
    crafted("channels/", TRIGGER.format("answers", "chunks")),
    crafted("channels/", "DELETE FROM chunks"),
    crafted("channels/", "UPDATE chunk_words_data SET block = zeroblob(8) WHERE id > 10"),
    crafted("engram.db", "INSERT INTO unused_weights VALUES ('../../engram')"),
    crafted("engram.db", "UPDATE weights SET path = 'weights/d3.safetensors' WHERE document_id = 'd2'"),
    lambda files: files.update({"manifest.json": b"[" * 100_000}),
]


def test_what_is_packed_is_not_unpacked(source: Path, file: Path) -> None:
    back_up(source, file)
    rewrite(
        file, change_the_manifest(lambda manifest: manifest["files"].update({"weights/x.safetensors": [2**31, ""]}))
    )
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/x.safetensors", bytes(50 * 2**20))
    with pytest.raises(BackupDamaged):
        restore(source, file)


def test_files_that_lie_in_one_another_are_not_unpacked(source: Path, file: Path) -> None:
    """Twenty files of a megabyte in an archive of one."""
    back_up(source, file)
    names = [f"prepared/{number:x}/weights.bin" for number in range(20)]
    rest = bytes(1 << 20)
    infos, listed = [], {}
    for name in reversed(names):  # each holds the headers of those behind it
        info = zipfile.ZipInfo(name)
        info.file_size = info.compress_size = len(rest)
        info.CRC = zlib.crc32(rest)
        listed[name] = [len(rest), hashlib.sha256(rest).hexdigest()]
        rest = info.FileHeader(zip64=False) + rest
        infos.append((info, len(rest)))
    rewrite(file, change_the_manifest(lambda manifest: manifest["files"].update(listed)))
    with zipfile.ZipFile(file, "a") as archive:
        archive.fp.seek(archive.start_dir)
        archive.fp.write(rest)
        end = archive.fp.tell()
        for info, length in infos:
            info.header_offset = end - length
            archive.filelist.append(info)
        archive.start_dir, archive._didModify = end, True
    with zipfile.ZipFile(file) as archive:
        assert {*names} <= {*archive.namelist()}
    with pytest.raises(BackupDamaged):
        restore(source, file)
    assert not (source / "prepared" / "0").exists()


@pytest.mark.parametrize("change", HOSTILE, ids=range(len(HOSTILE)))
async def test_an_archive_that_was_tampered_with_is_refused(source: Path, file: Path, change) -> None:
    back_up(source, file)
    rewrite(file, change)
    before = bytes_of(source)
    with pytest.raises(BackupDamaged):
        restore(source, file)
    assert bytes_of(source) == before and sorted(os.listdir(source.parent)) == ["engram.backup", "source"]


@pytest.mark.parametrize("key", ["version", "format"])
async def test_a_backup_of_a_newer_version_is_refused(source: Path, file: Path, key: str) -> None:
    back_up(source, file)
    rewrite(file, change_the_manifest(lambda manifest: manifest.update({key: 99})))
    before = bytes_of(source)
    with pytest.raises(DataTooNew, match="upgrade"):
        restore(source, file)
    assert bytes_of(source) == before


async def test_what_is_no_backup_is_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(NotFound):
        restore(tmp_path / "new", file)
    file.write_bytes(b"%PDF-1.7")
    with pytest.raises(BackupDamaged):
        restore(tmp_path / "new", file)


async def test_an_older_versions_backup_is_brought_forward(file: Path, tmp_path: Path) -> None:
    with DataFolder(tmp_path / "source") as folder:
        record = Weights(folder.weights).save(
            "learned", "discord:1:2", make_learned(1.0), base="b" * 64, learner="lora"
        )
        with closing(sqlite3.connect(folder.index)) as index:
            index.executescript((Path(__file__).parent / "released" / "v4.sql").read_text())
            index.execute("UPDATE weights SET sha256 = ?, bytes = ?", (record.sha256, record.bytes))
            index.commit()
    assert back_up(tmp_path / "source", file).version == 4
    restore(tmp_path / "new", file)
    async with Index(tmp_path / "new" / "engram.db") as index:
        assert "Ada Quill" in (await index.pages("learned"))[0].text
    assert check_folder(tmp_path / "new").version == len(MIGRATIONS) and check_folder(tmp_path / "new").problems == ()


@pytest.mark.parametrize("at", range(7))
async def test_a_restore_that_a_crash_cut_short_is_finished_at_the_next_start(
    source: Path, file: Path, monkeypatch, at: int
) -> None:
    """Killed before the `at`-th rename or removal of the replacement."""
    back_up(source, file)
    with DataFolder(source) as folder:
        async with Index(folder.index) as index:
            await learn_with_weights(index, folder, "later")
    calls = iter(range(100))

    def dies(function: Callable) -> Callable:
        def called(*arguments: object, **options: object) -> object:
            if next(calls) == at:
                raise SystemExit
            return function(*arguments, **options)

        return called

    replace_file = os.replace
    monkeypatch.setattr(storage.backup.os, "replace", lambda old, new: put(old, new))
    monkeypatch.setattr(storage.folder.shutil, "rmtree", dies(storage.folder.shutil.rmtree))

    def put(old: Path, new: Path) -> None:
        replace_file(old, new)
        if Path(new).name != RESTORED and next(calls) == at:
            raise SystemExit

    with pytest.raises(SystemExit):
        restore(source, file)
        raise SystemExit
    monkeypatch.undo()
    with DataFolder(source):
        pass
    assert set(check_folder(source).documents) == {"d1", "d2"} and check_folder(source).problems == ()
    assert not (source / RESTORED).exists()


async def test_text_and_jobs_come_along(tmp_path: Path, file: Path) -> None:
    with DataFolder(tmp_path / "source") as folder:
        async with Index(folder.index) as index:
            await index.add_job(make_job("waiting"), b"%PDF- waiting")
    back_up(tmp_path / "source", file)
    restore(tmp_path / "new", file)
    async with Index(tmp_path / "new" / "engram.db") as index:
        assert await index.job_file("waiting") == (b"%PDF- waiting", ALL_PAGES)


async def test_weights_of_a_document_without_a_file_are_a_problem(folder: DataFolder) -> None:
    async with Index(folder.index) as index:
        await learn(index, "d1", ["x"])
    assert check_folder(folder.path).problems == ("document d1: its weights can't be read",)
