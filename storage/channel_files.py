"""One SQLite file for each channel: its text, the words to find a section by, files that wait, answers.

To erase a channel is to delete its file, and to forget a document is to rewrite this one file: no other channel waits,
however much is stored. What is known (documents, jobs) stands in the index; what a crash leaves here without a row
there is never shown, and goes with the next change.

Blocking: `ChannelFiles` calls it in a thread. A commit is on the disk when it returns, and no log stays beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sqlite3
import threading
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from core.errors import DataTooNew
from core.files import fsync_path
from core.search.words import spaced, unspaced
from core.types import Chunk, Page

T = TypeVar("T")

COLUMNS = {  # of a channel's tables; on PostgreSQL all but `feedback` have its name, too
    "pages": "document_id, number, text, places, confidence, correction",
    "chunks": "document_id, position, text, start_page, end_page, code",
    "answers": "id, document_id, question, learned, base, asked_at, asked_by, thread, details, shared",
    "feedback": "answer_id, given_by, helpful, correction",
}
MAX_OPEN = 16  # files at once
VERSIONS = tuple(
    Path(__file__).with_name(f"channel_file{name}.sql") for name in ("", "_pages", "_places", "_corrections")
)  # the n-th makes version n
PRAGMAS = """
PRAGMA busy_timeout = 5000;
PRAGMA journal_mode = DELETE;
PRAGMA synchronous = EXTRA;
PRAGMA foreign_keys = ON;
PRAGMA secure_delete = ON;
"""
TAKE_OVER = (
    """
    INSERT INTO pages (document_id, number, text) SELECT document_id, number, text FROM old.pages
    WHERE document_id IN (SELECT id FROM old.documents JOIN owner USING (channel))
    """,
    """
    INSERT INTO chunks (document_id, position, text, start_page, end_page, code)
    SELECT document_id, position, text, start_page, end_page, code FROM old.chunks
    WHERE document_id IN (SELECT id FROM old.documents JOIN owner USING (channel)) ORDER BY id
    """,
    """
    INSERT INTO job_files (job_id, data) SELECT job_id, data FROM old.job_files
    WHERE job_id IN (SELECT id FROM old.jobs JOIN owner USING (channel))
    """,
    """
    INSERT INTO answers SELECT id, document_id, question, learned, base, asked_at, asked_by, thread, details, shared
    FROM old.answers JOIN owner USING (channel)
    """,
    """
    INSERT INTO feedback SELECT answer_id, given_by, helpful, correction FROM old.feedback
    WHERE answer_id IN (SELECT id FROM answers)
    """,
)


class ChannelFile:
    """What one channel's file holds. Use from one thread at a time. Every method raises sqlite3.Error."""

    def __init__(self, path: Path | None, channel: str, *, read_only: bool = False) -> None:
        """path: created when missing; None: nothing is there, and nothing is stored.

        Raises: DataTooNew.
        """
        address = database_uri(path, read_only=read_only) if path else ":memory:"
        self.in_use = threading.Lock()  # held while a thread is in SQLite: closing then would crash the process
        self._db = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        try:
            self._db.row_factory = sqlite3.Row
            [version] = self._db.execute("PRAGMA user_version").fetchone()
            if version > len(VERSIONS):
                raise DataTooNew
            if read_only:
                self._db.execute("PRAGMA busy_timeout = 5000")
                return
            self._db.execute("PRAGMA auto_vacuum = FULL")  # the room of a removed file goes back to the disk
            self._db.executescript(PRAGMAS)
            for script in VERSIONS[version:]:
                self._db.executescript("BEGIN IMMEDIATE;" + script.read_text() + "COMMIT;")
            if version == 0:
                self._db.execute("INSERT INTO owner VALUES (?)", (channel,))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self.in_use:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db.execute
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled it back
                self._db.execute("ROLLBACK")
            raise

    # Files that wait

    def add_job_file(self, job_id: str, sha256: str, data: bytes, pages: tuple[int, int]) -> None:
        """sha256: by which PostgreSQL knows the key to seal with."""
        self._db.execute("INSERT OR REPLACE INTO job_files VALUES (?, ?, ?, ?)", (job_id, data, *pages))

    def job_file(self, job_id: str) -> tuple[bytes, tuple[int, int]] | None:
        """Its bytes, and the pages to learn."""
        row = self._db.execute("SELECT * FROM job_files WHERE job_id = ?", (job_id,)).fetchone()
        return (row["data"], (row["first_page"], row["last_page"])) if row else None

    def keep_job_files(self, job_ids: Collection[str]) -> None:
        """Remove all others."""
        sql = "DELETE FROM job_files WHERE job_id NOT IN (SELECT value FROM json_each(?))"
        self._db.execute(sql, (json.dumps([*job_ids]),))

    # Text

    def add_document(
        self, document_id: str, sha256: str, pages: Sequence[Page], chunks: Sequence[Chunk], known: Collection[str]
    ) -> None:
        """
        Args:
            sha256: as for `add_job_file`.
            known: ids of the channel's documents; what is here of others was left behind by a crash.
        """
        rows = document_rows(document_id, pages, chunks)
        for row in rows["chunks"]:
            row["text"] = spaced(valid_text(row["text"]))
        with self._transaction() as execute:
            _keep_documents(execute, known)
            self._insert(rows)

    def chunks(self, places: Sequence[tuple[str, int]]) -> list[tuple[str, bytes]]:
        """Text and code of these chunks, in this order; empty where one is lost.

        Args:
            places: ids of their documents, and their numbers there.
        """
        sql = """
            SELECT coalesce(text, '') AS text, coalesce(code, x'') AS code
            FROM json_each(?) AS wanted LEFT JOIN chunks
            ON document_id = json_extract(wanted.value, '$[0]') AND position = json_extract(wanted.value, '$[1]')
            ORDER BY wanted.key
            """
        rows = self._db.execute(sql, (json.dumps(places),))
        return [(unspaced(row["text"]), row["code"]) for row in rows]

    def chunks_of(self, document_id: str) -> list[Chunk]:
        """Those of a document, in order; their tokens are not stored."""
        rows = self._db.execute("SELECT * FROM chunks WHERE document_id = ? ORDER BY position", (document_id,))
        return [
            Chunk(row["position"], unspaced(row["text"]), (), row["start_page"], row["end_page"], row["code"])
            for row in rows
        ]

    def search(self, words: Sequence[str], document_ids: Collection[str]) -> list[sqlite3.Row]:
        """A row for each word and chunk of these documents in which it stands."""
        return self._db.execute(
            """
            WITH words AS MATERIALIZED (
                SELECT value AS word, (
                    SELECT count(*) FROM chunk_words WHERE chunk_words MATCH '"' || value || '"'
                ) AS containing FROM json_each(:words)
            ), known AS (
                SELECT id, document_id, position FROM chunks
                WHERE document_id IN (SELECT value FROM json_each(:documents))
            )
            SELECT word, document_id, position AS chunk, bm25(chunk_words) AS bm25, containing,
                (SELECT count(*) FROM chunks) AS rows, (SELECT count(*) FROM known) AS searched
            FROM words
            CROSS JOIN chunk_words ON chunk_words MATCH '"' || word || '"'
            JOIN known ON known.id = chunk_words.rowid
            """,
            {"words": json.dumps(words), "documents": json.dumps([*document_ids])},
        ).fetchall()

    # Answers: the index has their SQL

    def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        """{own}: where the rows are this channel's, which all are here."""
        return self._db.execute(sql.format(own="TRUE"), valid_values(values or {})).fetchall()

    def insert(self, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Rows of `COLUMNS`, by table, and of `feedback` the document's id."""
        with self._transaction():
            self._insert(rows)

    def _insert(self, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        for table, table_rows in rows.items():
            self._db.executemany(insert_into(table, COLUMNS[table]), map(valid_values, table_rows))

    def learned_corrections(self) -> list[str]:
        """Ids of those that are a page of their document. A file of an earlier version, which is only looked into, has
        none."""
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        if version < len(VERSIONS):
            return []
        rows = self._db.execute("SELECT correction FROM pages WHERE correction != ''")
        return column(rows, "correction")

    def forget_person(self, person: str) -> int:
        """Erase what somebody asked and what somebody said about answers; the number of rows that went."""
        gone = self._db.execute("DELETE FROM feedback WHERE given_by = ?", (person,)).rowcount
        return gone + self._db.execute("DELETE FROM answers WHERE asked_by = ?", (person,)).rowcount

    # Erase

    def keep(self, document_ids: Collection[str], job_ids: Collection[str]) -> None:
        """Erase all documents with their answers, and all files that wait, but these; nothing of them remains here.

        A removed row leaves words in the search index until that is merged, and copies in the free space of pages that
        were once split, in spite of secure_delete (measured: 8 of 4,000 words), until the file is written anew.
        """
        with self._transaction() as execute:
            _keep_documents(execute, document_ids)
            execute("INSERT INTO chunk_words (chunk_words) VALUES ('optimize')")
        self.keep_job_files(job_ids)
        self._db.execute("VACUUM")

    # From before version 6 of the index

    def take_over(self, index: Path) -> None:
        """Copy the channel's rows from an index that still held everything."""
        self._db.execute("ATTACH ? AS old", (str(index),))
        with self._transaction() as execute:
            for sql in TAKE_OVER:
                execute(sql)
        self._db.execute("DETACH old")


class ChannelFiles:
    """All channels' files. Some stay open; each is used by one caller at a time."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._folder = folder
        self._read_only = read_only
        self._open: OrderedDict[str, ChannelFile] = OrderedDict()  # by channel, the last used at the end
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def path(self, channel: str) -> Path:
        return path_in(self._folder, channel)

    @asynccontextmanager
    async def use(self, channel: str) -> AsyncIterator[Callable[..., Any]]:
        """`async with files.use(channel) as run: await run(ChannelFile.chunks_of, id)`. Reading makes no file."""
        async with self._locks[channel]:

            async def run(do: Callable[..., T], *arguments: Any, create: bool = False) -> T:
                safe = [valid_text(value) if isinstance(value, str) else value for value in arguments]
                return await run_to_end(self._call, channel, create, do, *safe)

            yield run

    async def delete(self, channel: str) -> None:
        """Within `use`."""
        await run_to_end(self._delete, channel)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _call(self, channel: str, create: bool, do: Callable[..., T], *arguments: Any) -> T:
        if channel not in self._open and not create and not self.path(channel).exists():
            content = ChannelFile(None, channel)
            try:
                return do(content, *arguments)
            finally:
                content.close()
        content = self._opened(channel)
        with content.in_use:
            return do(content, *arguments)

    def _opened(self, channel: str) -> ChannelFile:
        if channel not in self._open:
            new = not self.path(channel).exists()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open[channel] = ChannelFile(self.path(channel), channel, read_only=self._read_only)
            if new:
                fsync_path(self._folder)
        self._open.move_to_end(channel)
        return self._open[channel]

    def trim(self) -> None:
        """Close what was not used for long, and is not in use."""
        for channel in [*self._open][: max(0, len(self._open) - MAX_OPEN)]:
            if not self._locks[channel].locked():
                self._open.pop(channel).close()

    def _delete(self, channel: str) -> None:
        if content := self._open.pop(channel, None):
            content.close()
        if self._folder.exists():
            for end in ("", "-journal"):
                path = self.path(channel)
                path.with_name(path.name + end).unlink(missing_ok=True)
            fsync_path(self._folder)


def database_uri(path: Path, *, read_only: bool = False) -> str:
    """For sqlite3.connect; the file is made when it is missing, but for reading."""
    mode = "ro" if read_only else "rwc"
    return f"{path.absolute().as_uri()}?mode={mode}"


def path_in(folder: Path, channel: str) -> Path:
    """Named after the channel, so that a crash can't leave a file that nobody knows; in characters that are safe."""
    return folder / f"{hashlib.sha256(channel.encode(errors='replace')).hexdigest()[:32]}.db"


def valid_text(text: str) -> str:
    """Half a surrogate pair is no text; it becomes a question mark."""
    return text.encode(errors="replace").decode()


def valid_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: valid_text(value) if isinstance(value, str) else value for name, value in values.items()}


def column(rows: Iterable[Any], name: str) -> list[Any]:
    """The value that each row has by this name."""
    return [row[name] for row in rows]


_NAMES = re.compile(r"\w+(,\s+\w+)*", re.ASCII)


def insert_into(table: str, columns: str) -> str:
    """SQL. What somebody said of an answer before is replaced. Raises: ValueError, for anything but names."""
    if not _NAMES.fullmatch(f"{table}, {columns}"):
        raise ValueError(f"no names: {table}, {columns}")
    values = re.sub(r"\w+", r":\g<0>", columns)
    sql = "INSERT INTO {} ({}) VALUES ({})".format(table, columns, values)  # noqa: UP032
    if table == "feedback":
        sql += " ON CONFLICT (answer_id, given_by) DO UPDATE SET helpful = excluded.helpful"
        sql += ", correction = excluded.correction"
    return sql


def document_rows(document_id: str, pages: Sequence[Page], chunks: Sequence[Chunk]) -> dict[str, list[dict[str, Any]]]:
    """By table."""
    page_rows, chunk_rows = [], []
    for page in pages:
        page_rows.append(vars(page) | {"document_id": document_id, "places": json.dumps(page.places)})
    for chunk in chunks:
        chunk_rows.append(vars(chunk) | {"document_id": document_id, "position": chunk.index})
    return {"pages": page_rows, "chunks": chunk_rows}


async def run_to_end(function: Callable[..., T], *arguments: Any) -> T:
    """In a thread, and to its end: a cancelled caller waits for it, since what it holds is in use until then."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # cancelled once more, it waits on
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        raise


def page_of(row: dict[str, Any]) -> Page:
    """A file of an earlier version, which is only looked into, lacks the later columns."""
    places = tuple((start, name) for start, name in json.loads(row.get("places", "[]")))
    return Page(row["number"], row["text"], places, row.get("confidence"), row.get("correction", ""))


def _keep_documents(execute: Callable[..., Any], document_ids: Collection[str]) -> None:
    known = (json.dumps([*document_ids]),)
    execute("DELETE FROM pages WHERE document_id NOT IN (SELECT value FROM json_each(?))", known)
    execute("DELETE FROM chunks WHERE document_id NOT IN (SELECT value FROM json_each(?))", known)
    execute("DELETE FROM answers WHERE document_id NOT IN (SELECT value FROM json_each(?))", known)
