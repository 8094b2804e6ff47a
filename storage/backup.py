"""One archive file with all that a data folder holds, made while the bot runs; and back again.

The archive is a zip: `manifest.json` names every other file with its length and sha256, `engram.db` is a snapshot of
the index, `channels/` holds snapshots of the channels that it knows, `weights/` the files that it names, `prepared/`
what was prepared for other models, `slack.db` the tokens of workspaces that installed the app, where there are some.
Nothing is replaced by a restore before all of it was verified; a crash in the middle of replacing is finished at the
next start (`DataFolder`).
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO

from core.errors import BackupDamaged, DataTooNew, NotFound, StorageFailed
from core.files import fsync_path
from core.types import WeightsRecord
from storage.channel_files import column, path_in
from storage.check import SPLIT, check_folder, open_database
from storage.folder import CHANNELS, RESTORED, TOKENS_FILE, DataFolder, put_restored, storage_errors
from storage.index import MIGRATIONS, read_weights

ARCHIVE_FORMAT = 1  # of the archive
MAX_TRIES = 5  # a document may be forgotten between the snapshot and the copy of its weights
FILE_NAME = re.compile(
    r"engram\.db|slack\.db|channels/[0-9a-f]{32}\.db|weights/[A-Za-z0-9_-]{1,64}\.safetensors|prepared/[0-9a-f]{1,64}/[a-z_]{1,32}\.[a-z]{1,16}"
)
ARCHIVE_ERRORS = (  # raised while reading a damaged or hostile archive
    zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, EOFError, NotImplementedError, RecursionError,
)  # fmt: skip
BLOCK_SIZE = 1 << 20  # bytes copied at once


@dataclass(frozen=True)
class Manifest:
    """What an archive holds."""

    format: int
    version: int  # of the index's schema
    created_at: float  # Unix time
    documents: int
    files: dict[str, tuple[int, str]]  # name -> bytes, sha256


class _Gone(Exception):
    """A file that the snapshot names is not there any more: something was forgotten meanwhile."""


def back_up(folder: Path, file: Path) -> Manifest:
    """Write an archive; what was there under that name is replaced at the end, at once. Blocking; needs no lock.

    Raises: NotFound, when there is no data; StorageFailed, also when weights are damaged.
    """
    if not (folder / "engram.db").is_file():
        raise NotFound("There is no data in this data folder; nothing was backed up.")
    if file.absolute().resolve().is_relative_to(folder.resolve()):
        raise StorageFailed("A backup can't be written into the data folder; choose another place.")
    part = file.with_name(f".{file.name}-{secrets.token_hex(4)}.part")
    try:
        with storage_errors():
            _remove_leftovers(file)
            manifest = _try_again(folder, part)
            os.replace(part, file)
            fsync_path(file.parent)
        return manifest
    finally:
        part.unlink(missing_ok=True)


def restore(folder: Path, file: Path) -> Manifest:
    """Replace all that the data folder holds by what an archive holds. Blocking; holds the folder's lock.

    Raises: BackupDamaged, DataTooNew, StorageFailed, DataFolderBusy; then nothing was changed.
    """
    with DataFolder(folder), storage_errors():
        fresh = folder / f"{secrets.token_hex(4)}.tmp"
        try:
            manifest = _unpack(file, fresh)
            _verify(fresh, manifest)
            os.replace(fresh, folder / RESTORED)  # from here on it is done, if not now then at the next start
            fsync_path(folder)
            put_restored(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return manifest


# Back up


def _try_again(folder: Path, part: Path) -> Manifest:
    for _ in range(MAX_TRIES):
        try:
            return _pack(folder, part)
        except _Gone:
            continue
    raise StorageFailed("The weights of a document are missing; `docs` and `ask` tell which, forget it first.")


def _remove_leftovers(file: Path) -> None:
    """Of backups that were killed: nobody holds their lock any more."""
    for leftover in file.parent.glob(f".{glob.escape(file.name)}-????????.part"):
        with suppress(BlockingIOError), leftover.open("rb") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink(missing_ok=True)


def _pack(folder: Path, part: Path) -> Manifest:
    index = _snapshot(folder / "engram.db")
    records, documents, channels, version = _read_index(index)
    files: dict[str, tuple[int, str]] = {}
    with _private(part) as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        fcntl.flock(out, fcntl.LOCK_EX)
        files["engram.db"] = _add(archive, "engram.db", BytesIO(index))
        copied: set[str] = set()
        for channel in channels:
            path = path_in(folder / CHANNELS, channel)
            content = _snapshot(path)
            with _opened(content) as connection:
                rows = connection.execute("SELECT DISTINCT document_id FROM chunks")
                copied.update(column(rows, "document_id"))
            name = f"{CHANNELS}/{path.name}"
            files[name] = _add(archive, name, BytesIO(content))
        if version >= SPLIT and not documents <= copied:
            raise _Gone
        for record in records:
            try:
                source = (folder / record.path).open("rb")
            except FileNotFoundError:
                raise _Gone from None
            with source:
                files[record.path] = _add(archive, record.path, source)
            if files[record.path] != (record.bytes, record.sha256):
                raise StorageFailed("The weights of a document are damaged; learn it again, then back up.")
        for path in sorted((folder / "prepared").glob("*/*.*")):
            with path.open("rb") as source:
                name = path.relative_to(folder).as_posix()
                files[name] = _add(archive, name, source)
        if (folder / TOKENS_FILE).exists():
            files[TOKENS_FILE] = _add(archive, TOKENS_FILE, BytesIO(_snapshot(folder / TOKENS_FILE)))
        manifest = Manifest(ARCHIVE_FORMAT, version, time.time(), len(records), files)
        archive.writestr("manifest.json", json.dumps(asdict(manifest), indent=1))
    fsync_path(part)
    return manifest


def _snapshot(file: Path) -> bytes:
    """A database at one moment, through SQLite's online backup; in memory, so that a crash leaves no copy behind.

    Raises: _Gone.
    """
    if not file.exists():
        raise _Gone
    with closing(open_database(file)) as source, closing(sqlite3.connect(":memory:")) as copy:
        source.backup(copy)  # in one step: writers go on afterwards, or in the write-ahead log
        snapshot = copy.serialize()
        # The header's read and write versions set to 1: no WAL file lies beside it (sqlite.org/fileformat2.html)
        return snapshot[:18] + b"\1\1" + snapshot[20:]


def _read_index(index: bytes) -> tuple[list[WeightsRecord], set[str], list[str], int]:
    """The weights' records, documents' ids, channels that have files, and the version of a snapshot of the index."""
    with _opened(index) as connection:
        [version] = connection.execute("PRAGMA user_version").fetchone()
        documents = set(column(connection.execute("SELECT id FROM documents"), "id"))
        channels = connection.execute("SELECT id FROM channels ORDER BY id").fetchall() if version >= SPLIT else []
        return read_weights(connection), documents, column(channels, "id"), version


@contextmanager
def _opened(snapshot: bytes) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(snapshot)
        connection.row_factory = sqlite3.Row
        yield connection


def _add(archive: zipfile.ZipFile, name: str, source: BinaryIO) -> tuple[int, str]:
    with archive.open(name, "w", force_zip64=True) as out:
        return _copy(source, out)


def _copy(source: IO[bytes], target: IO[bytes], most: int | None = None) -> tuple[int, str]:
    """Bytes and sha256 of what was copied. It ends with the first block that goes beyond `most` bytes."""
    size, digest = 0, hashlib.sha256()
    while (most is None or size <= most) and (block := source.read(BLOCK_SIZE)):
        target.write(block)
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


@contextmanager
def _private(path: Path) -> Iterator[BinaryIO]:
    """A new file for its owner's eyes only."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file:
        yield file


# Restore


def _unpack(file: Path, fresh: Path) -> Manifest:
    """Into a new folder, each file as long as the manifest says and of its sha256."""
    with _open_archive(file) as archive:
        manifest = _read_manifest(archive)
        if manifest.version > len(MIGRATIONS):
            raise DataTooNew("This backup was written by a newer Engram; upgrade first. Nothing was changed.")
        if sum(size for size, _ in manifest.files.values()) > file.stat().st_size:  # entries that lie in one another
            raise BackupDamaged
        (fresh / "weights").mkdir(mode=0o700, parents=True)
        for name, (size, digest) in manifest.files.items():
            (fresh / name).parent.mkdir(mode=0o700, exist_ok=True, parents=True)
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise BackupDamaged  # what is packed may be a thousand times larger
            with archive.open(name) as source, _private(fresh / name) as target:
                if _copy(source, target, most=size) != (size, digest):
                    raise BackupDamaged
                target.flush()
                os.fsync(target.fileno())
    for place in (*filter(Path.is_dir, fresh.rglob("*")), fresh):
        fsync_path(place)
    return manifest


def _read_manifest(archive: zipfile.ZipFile) -> Manifest:
    """Raises: BackupDamaged, DataTooNew."""
    info = archive.getinfo("manifest.json")
    if info.file_size > 1 << 28 or info.compress_type != zipfile.ZIP_STORED:
        raise BackupDamaged
    values: Mapping[str, Any] = json.loads(archive.read(info))
    if int(values["format"]) > ARCHIVE_FORMAT:
        raise DataTooNew("This backup was written by a newer Engram; upgrade first. Nothing was changed.")
    files = {str(name): (int(size), str(digest)) for name, (size, digest) in values["files"].items()}
    if "engram.db" not in files or not all(FILE_NAME.fullmatch(name) for name in files):
        raise BackupDamaged
    return Manifest(
        format=ARCHIVE_FORMAT,
        version=int(values["version"]),
        created_at=float(values["created_at"]),
        documents=int(values["documents"]),
        files=files,
    )


def _verify(fresh: Path, manifest: Manifest) -> None:
    """The index is sound, and names exactly the files that came. Raises: BackupDamaged."""
    try:
        contents = check_folder(fresh)
        tokens = TOKENS_FILE not in manifest.files or _is_plain(fresh / TOKENS_FILE)
    except sqlite3.Error:
        raise BackupDamaged from None
    named = {"engram.db", *(record.path for record in contents.weights), *contents.channels}
    came = {name for name in manifest.files if name != TOKENS_FILE and not name.startswith("prepared/")}
    if not tokens or contents.problems or contents.version != manifest.version or named != came:
        raise BackupDamaged


def _is_plain(file: Path) -> bool:
    """A whole database of tables only: nothing in it acts by itself."""
    with closing(open_database(file)) as tokens:
        kinds = {row[0] for row in tokens.execute("SELECT type FROM sqlite_schema")}
        return kinds <= {"table", "index"} and tokens.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@contextmanager
def _open_archive(file: Path) -> Iterator[zipfile.ZipFile]:
    """Raises: BackupDamaged, NotFound."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError:
        raise NotFound("There is no such backup.") from None
    except ARCHIVE_ERRORS:
        raise BackupDamaged from None
