"""Looks whether a data folder is whole, without changing it: for backups, for restores, and after a crash."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from core.types import WeightsRecord
from storage.index import read_weights


@dataclass(frozen=True)
class Contents:
    """What lies in a data folder."""

    version: int  # of the schema
    documents: dict[str, str]  # id -> name
    stages: dict[str, tuple[str, bool]]  # name of a job, the newest of that name -> its stage, and whether it was told
    weights: tuple[WeightsRecord, ...]
    strays: tuple[str, ...]  # files under weights/ that no row names; the next start removes them
    problems: tuple[str, ...] = field(default=())  # one sentence each; none: the folder is whole


def examine(folder: Path) -> Contents:
    """Every page of the index, every reference in it, every byte of the weights. Reads while others write.

    Raises: sqlite3.Error, when the index can't be read at all.
    """
    with closing(sqlite3.connect(folder / "engram.db", isolation_level=None)) as index:
        index.row_factory = sqlite3.Row
        index.execute("PRAGMA query_only = ON")
        index.execute("BEGIN")  # all of it at one moment
        [version] = index.execute("PRAGMA user_version").fetchone()
        problems = [f"index: {row[0]}" for row in index.execute("PRAGMA integrity_check") if row[0] != "ok"]
        problems += [f"index: a row of {row[0]} refers to nothing" for row in index.execute("PRAGMA foreign_key_check")]
        records = read_weights(index)
        documents = {row["id"]: row["name"] for row in index.execute("SELECT id, name FROM documents")}
        jobs = index.execute("SELECT name, stage, delivered FROM jobs ORDER BY number").fetchall()
    problems += [f"document {id}: it has no weights" for id in documents.keys() - {r.document_id for r in records}]
    problems += [sentence for record in records if (sentence := _fault(folder, record))]
    names = {Path(record.path).name for record in records}
    strays = sorted(path.name for path in (folder / "weights").glob("*") if path.name not in names)
    stages = {row["name"]: (row["stage"], bool(row["delivered"])) for row in jobs}
    return Contents(version, documents, stages, tuple(records), tuple(strays), tuple(problems))


def _fault(folder: Path, record: WeightsRecord) -> str:
    try:
        with (folder / record.path).open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    except OSError:
        return f"document {record.document_id}: its weights can't be read"
    return "" if whole else f"document {record.document_id}: its weights were changed"
