"""Looks whether a data folder is whole, without changing it: for backups, for restores, and after a crash."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from core.document.text import one_line
from core.files import sha256_of
from core.types import WeightsRecord
from storage.channel_files import VERSIONS, path_in
from storage.folder import CHANNELS, DataFolder
from storage.index import MIGRATIONS, read_weights
from storage.weights import SAFE_ID

NOT_FOUND = "its search table is damaged"
SPLIT = 1 + [script.stem for script in MIGRATIONS].index("channels")  # the version from which channels have files


@dataclass(frozen=True)
class Contents:
    """What lies in a data folder."""

    version: int  # of the schema
    documents: dict[str, str]  # id -> name
    weights: tuple[WeightsRecord, ...]
    channels: tuple[str, ...]  # their files, relative to the data folder
    problems: tuple[str, ...] = field(default=())  # one sentence each; none: the folder is whole


def check_folder(folder: Path) -> Contents:
    """Every page and table of the index and of the channels' files, every reference, every byte of the weights. Reads
    while others write.

    Raises: sqlite3.Error, when the index can't be read at all.
    """
    with closing(open_database(folder / "engram.db")) as index:
        index.row_factory = sqlite3.Row
        index.execute("PRAGMA query_only = ON")
        index.execute("BEGIN")  # all of it at one moment
        [version] = index.execute("PRAGMA user_version").fetchone()
        if schema(index) != expected(MIGRATIONS[:version]):  # nothing more is read: it may hold triggers and views
            return Contents(version, {}, (), (), ("index: its tables are not Engram's own",))
        problems = _faults(index, "index")
        for [table, *_] in index.execute("PRAGMA foreign_key_check"):
            problems.append(f"index: a row of {table} refers to nothing")
        records = read_weights(index)
        documents = dict(map(tuple, index.execute("SELECT id, name FROM documents")))
        known, erased = [], []
        if version >= SPLIT:
            known = index.execute("SELECT id FROM channels").fetchall()
            erased = index.execute("SELECT document_id FROM unused_weights").fetchall()
    files = []
    for [channel] in known:
        path = path_in(folder / CHANNELS, channel)
        if path.exists():
            files.append(path)
    searchable = set(documents) if version < SPLIT else set()
    for path in files:
        searchable |= _documents_in(path, problems)
    with_weights = set()
    for record in records:
        with_weights.add(record.document_id)
        problems.append(_fault(folder, record))
    for id in documents:
        if id not in searchable:
            problems.append(f"document {id}: it has no text to find it by")
        if id not in with_weights:
            problems.append(f"document {id}: it has no weights")
    for id in (*documents, *with_weights, *(row[0] for row in erased)):
        if not SAFE_ID.fullmatch(id):
            problems.append("index: a document's id can't be the name of a file")
    return Contents(
        version=version,
        documents=documents,
        weights=tuple(records),
        channels=tuple(sorted(path.relative_to(folder).as_posix() for path in files)),
        problems=tuple(dict.fromkeys(filter(None, problems))),
    )


def open_database(path: Path) -> sqlite3.Connection:
    """To a file that is there; none is made. Raises: sqlite3.Error."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=60)


def schema(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Every table, view, index and trigger, by name and definition."""
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {(name, one_line(sql)) for name, sql in rows}


@cache
def expected(scripts: tuple[Path, ...]) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in scripts:
            connection.executescript(script.read_text())
        return schema(connection)


def _documents_in(path: Path, problems: list[str]) -> set[str]:
    """Ids of a channel's documents; what is wrong with its file is added to `problems`."""
    try:
        with closing(open_database(path)) as file:
            file.execute("BEGIN IMMEDIATE")
            if schema(file) != expected(VERSIONS[: file.execute("PRAGMA user_version").fetchone()[0]]):
                problems.append(f"{path.name}: its tables are not Engram's own")
                return set()
            problems += _faults(file, path.name)
            if not _finds(file):
                problems.append(f"{path.name}: {NOT_FOUND}")
            return {row[0] for row in file.execute("SELECT DISTINCT document_id FROM chunks")}
    except sqlite3.Error:
        problems.append(f"{path.name}: it can't be read")
        return set()


def _faults(database: sqlite3.Connection, name: str) -> list[str]:
    """What SQLite finds wrong with a file."""
    rows = database.execute("PRAGMA integrity_check").fetchall()
    return [f"{name}: {row[0]}" for row in rows if row[0] != "ok"]


def _finds(file: sqlite3.Connection) -> bool:
    """Whether the search table agrees with the text."""
    try:
        file.execute("INSERT INTO chunk_words (chunk_words, rank) VALUES ('integrity-check', 1)")
    except sqlite3.DatabaseError:
        return False
    return True


def rebuild_search(folder: Path) -> list[str]:
    """Write damaged search tables anew, from the text; returns the names of their files. The bot must not run.

    Raises: DataFolderBusy, SetupError.
    """
    rebuilt = []
    with DataFolder(folder):
        for path in sorted((folder / CHANNELS).glob("*.db")):
            with suppress(sqlite3.Error), closing(open_database(path)) as file:  # one that can't be read stays as it is
                if not _finds(file):
                    file.execute("INSERT INTO chunk_words (chunk_words) VALUES ('rebuild')")
                    rebuilt.append(path.name)
    return rebuilt


def _fault(folder: Path, record: WeightsRecord) -> str:
    if record.path != f"weights/{record.document_id}.safetensors":
        return f"document {record.document_id}: its weights are said to be another file"
    try:
        whole = sha256_of(folder / record.path) == record.sha256
    except OSError:
        return f"document {record.document_id}: its weights can't be read"
    return "" if whole else f"document {record.document_id}: its weights were changed"
