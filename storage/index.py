"""The SQLite index: what was handed in, learned and asked. The one home of SQL.

One connection writes, one transaction at a time; another one reads. Both run in threads of their own, so the event loop
never waits. A commit is on the disk when it returns (WAL, synchronous = FULL).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import aiosqlite

from core.closeness import COMPARED, Query, closest_first
from core.errors import AlreadyKnown, Cancelled, DataTooNew, NotFound, StorageFailed
from core.ports import Hit
from core.prompts import NOT_IN_TEXT
from core.types import (
    Answer,
    Certainty,
    Chunk,
    Completion,
    Correction,
    Document,
    DocumentRef,
    Job,
    Metrics,
    Page,
    Stage,
    WeightsRecord,
)
from core.words import frequency, scores, search_words, shares, supporting

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # at one job; a job that always takes the process down is not tried for ever
ERASE_AGAIN = 5.0  # seconds until an erase that another reader held up is tried again
AFTER_ERASE = 60.0  # seconds in which the log is emptied after each event: it may be the one that ordered the erase
REMEMBERED = 86_400.0  # seconds for which the inbox knows what was worked off
SCRIPTS = ("schema.sql", "inbox.sql", "threads.sql", "codes.sql", "chat.sql")
MIGRATIONS = tuple(Path(__file__).with_name(name) for name in SCRIPTS)  # the n-th makes version n
SETTINGS = """
PRAGMA busy_timeout = 5000;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA secure_delete = ON;
"""


class Index:
    """`async with Index(path) as index`; implements core.ports.Index.

    Every method raises StorageFailed when the file can't be read or written; then nothing was changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        self._erased_at = time.monotonic()  # or started: an event may be left from before
        self._finishing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Index:
        """Raises: DataTooNew, StorageFailed."""
        async with AsyncExitStack() as stack:
            with _translated():
                self._writer = await stack.enter_async_context(_connect(self._path))
                version = await _version(self._writer)
                await self._writer.executescript(SETTINGS)
                await _migrate(self._writer, version)
                self._reader = await stack.enter_async_context(_connect(self._path))
                await self._reader.executescript(SETTINGS + "PRAGMA query_only = ON;")
            await self._try_to_finish_erase()
            await self._truncate_log()
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finishing:
            self._finishing.cancel()
            await asyncio.gather(self._finishing, return_exceptions=True)
        await self._open.aclose()

    # Jobs

    async def add_job(self, job: Job, data: bytes) -> Job:
        key = {"channel": job.channel, "sha256": job.sha256}
        async with self._transaction() as execute:
            for row in await execute("SELECT id FROM documents WHERE channel = :channel AND sha256 = :sha256", key):
                raise AlreadyKnown(document_id=row["id"])
            if await execute("SELECT 1 FROM jobs WHERE channel = :channel AND sha256 = :sha256 AND NOT final", key):
                raise AlreadyKnown("This document is already being learned in this channel.")
            await execute("INSERT OR IGNORE INTO channels (id) VALUES (:channel)", key)
            [row] = await execute(
                """
                INSERT INTO jobs (id, channel, name, sha256, requested_by, reply_to, created_at, stage, attempts, error,
                                  document_id, delivered)
                VALUES (:id, :channel, :name, :sha256, :requested_by, :reply_to, :created_at, :stage, :attempts, :error,
                        NULL, :delivered)
                RETURNING *
                """,
                asdict(job),
            )
            await execute("INSERT INTO job_files (job_id, data) VALUES (:id, :data)", {"id": job.id, "data": data})
        return _job(row)

    async def job(self, job_id: str) -> Job:
        """Raises: NotFound."""
        for row in await self._read("SELECT * FROM jobs WHERE id = :id", {"id": job_id}):
            return _job(row)
        raise NotFound("There is no such job.")

    async def jobs(self, *, channel: str | None = None, unfinished: bool = True) -> list[Job]:
        """What was begun, in the order of arrival, then what is queued, in the order in which its turn comes."""
        rows = await self._read(
            """
            SELECT jobs.* FROM jobs JOIN channels ON channels.id = jobs.channel
            WHERE (:channel IS NULL OR channel = :channel) AND NOT (:unfinished AND final)
            ORDER BY stage = 'queued',
                iif(stage = 'queued', row_number() OVER (PARTITION BY channel, stage = 'queued' ORDER BY number), 0),
                iif(stage = 'queued', turn, 0), number
            """,
            {"channel": channel, "unfinished": unfinished},
        )
        return [_job(row) for row in rows]

    async def next_job(self) -> Job | None:
        async with self._transaction() as execute:
            rows = await execute(
                """
                UPDATE jobs SET stage = 'reading', attempts = attempts + 1
                WHERE number = (
                    SELECT number FROM jobs JOIN channels ON channels.id = jobs.channel
                    WHERE stage = 'queued' ORDER BY turn, number LIMIT 1
                )
                RETURNING *
                """
            )
            for row in rows:
                await execute(
                    "UPDATE channels SET turn = (SELECT max(turn) + 1 FROM channels) WHERE id = :channel",
                    {"channel": row["channel"]},
                )
                return _job(row)
        return None

    async def job_data(self, job_id: str) -> bytes:
        """The PDF. Raises: NotFound, when the job has ended."""
        for row in await self._read("SELECT data FROM job_files WHERE job_id = :id", {"id": job_id}):
            return row["data"]
        raise NotFound("The file of this job is not kept any more.")

    async def job_stage(self, job_id: str, stage: Stage, *, error: str = "") -> None:
        """Move a job on. One that has ended stays as it ended. Back to QUEUED, the attempt does not count.

        Raises: Cancelled, when there is nothing to go on with: the job has ended, or was erased.
        """
        values = {"id": job_id, "stage": stage, "error": error}
        async with self._transaction() as execute:
            changed = await execute(
                """
                UPDATE jobs SET stage = :stage, error = :error, attempts = max(0, attempts - (:stage = 'queued'))
                WHERE id = :id AND NOT final RETURNING id
                """,
                values,
            )
            if not changed and not stage.final:
                raise Cancelled
            if stage.final:
                await execute("DELETE FROM job_files WHERE job_id = :id", values)
        if stage.final:
            await self._truncate_log()

    async def requeue_interrupted(self) -> list[Job]:
        async with self._transaction() as execute:
            rows = await execute(
                """
                UPDATE jobs SET
                    stage = iif(attempts < :limit, 'queued', 'failed'),
                    error = iif(attempts < :limit, '', :error)
                WHERE NOT final AND stage != 'queued' RETURNING *
                """,
                {
                    "limit": MAX_ATTEMPTS,
                    "error": f"Learning this document was interrupted {MAX_ATTEMPTS} times and has been given up.",
                },
            )
            await execute("DELETE FROM job_files WHERE job_id IN (SELECT id FROM jobs WHERE final)")
        await self._truncate_log()
        return [_job(row) for row in rows]

    async def finish_job(self, job_id: str, document: Document, pages: Sequence[Page], chunks: Sequence[Chunk]) -> None:
        """Raises: Cancelled, when the job has ended otherwise, or was erased, meanwhile; then nothing was stored."""
        ids = {"id": job_id, "channel": document.channel, "document_id": document.id}
        async with self._transaction() as execute:
            if not await execute("SELECT 1 FROM jobs WHERE id = :id AND channel = :channel AND NOT final", ids):
                raise Cancelled
            await self._add_document(document, pages, chunks)
            await execute("UPDATE jobs SET stage = 'done', error = '', document_id = :document_id WHERE id = :id", ids)
            await execute("DELETE FROM job_files WHERE job_id = :id", ids)
        await self._truncate_log()

    async def _add_document(self, document: Document, pages: Sequence[Page], chunks: Sequence[Chunk]) -> None:
        row = asdict(document) | {
            "metrics": json.dumps(asdict(document.metrics)),
            "questions": json.dumps(document.questions),
        }
        weights = asdict(document.weights) | {"sections": json.dumps(document.weights.sections)}
        del row["weights"]
        await self._insert(
            """
            INSERT INTO documents (id, channel, name, sha256, pages, tokens, learned_at, learned_by, metrics, questions)
            VALUES (:id, :channel, :name, :sha256, :pages, :tokens, :learned_at, :learned_by, :metrics, :questions)
            """,
            [row],
        )
        await self._insert(
            """
            INSERT INTO weights (document_id, path, bytes, sha256, base, learner, sections)
            VALUES (:document_id, :path, :bytes, :sha256, :base, :learner, :sections)
            """,
            [weights],
        )
        await self._insert(
            "INSERT INTO pages (document_id, number, text) VALUES (:document_id, :number, :text)",
            [{"document_id": document.id, "number": page.number, "text": page.text} for page in pages],
        )
        await self._insert(
            """
            INSERT INTO chunks (document_id, position, text, start_page, end_page, code)
            VALUES (:document_id, :position, :text, :start_page, :end_page, :code)
            """,
            [
                {
                    "document_id": document.id,
                    "position": chunk.index,
                    "text": chunk.text,
                    "start_page": chunk.start_page,
                    "end_page": chunk.end_page,
                    "code": chunk.code,
                }
                for chunk in chunks
            ],
        )

    async def mark_delivered(self, job_id: str) -> None:
        async with self._transaction() as execute:
            await execute("UPDATE jobs SET delivered = 1 WHERE id = :id", {"id": job_id})

    async def undelivered(self) -> list[Job]:
        """Jobs that have ended, and whose channel has not been told so."""
        rows = await self._read("SELECT * FROM jobs WHERE final AND NOT delivered ORDER BY number")
        return [_job(row) for row in rows]

    # Documents

    async def documents(self, channel: str) -> list[Document]:
        """The newest first."""
        rows = await self._read(
            "SELECT * FROM known_documents WHERE channel = :channel ORDER BY learned_at DESC, id", {"channel": channel}
        )
        return [_document(row) for row in rows]

    async def find_document(self, channel: str, key: str) -> Document:
        documents, key = await self.documents(channel), key.strip().casefold()
        named = [
            [document for document in documents if document.id.casefold() == key],
            [document for document in documents if document.name.casefold() == key],
            [document for document in documents if _begins(document, key)],
        ]
        found = next((matches for matches in named if matches), [])
        if len(found) > 1:
            raise NotFound("Several documents in this channel are called that; give the id of one.")
        if not found or not key:
            raise NotFound
        return found[0]

    async def all_weights(self) -> list[WeightsRecord]:
        return [_weights(row) for row in await self._read("SELECT * FROM weights ORDER BY document_id")]

    async def pages(self, document_id: str) -> list[Page]:
        rows = await self._read(
            "SELECT number, text FROM pages WHERE document_id = :id ORDER BY number", {"id": document_id}
        )
        return [Page(row["number"], row["text"]) for row in rows]

    async def chunk_texts(self, document_id: str) -> list[str]:
        rows = await self._read(
            "SELECT text FROM chunks WHERE document_id = :id ORDER BY position", {"id": document_id}
        )
        return [row["text"] for row in rows]

    # Erase

    async def forget(self, channel: str, document_id: str) -> WeightsRecord:
        """Raises: NotFound."""
        key = {"id": document_id, "channel": channel}
        async with self._transaction() as execute:
            found = await execute("SELECT sha256 FROM documents WHERE id = :id AND channel = :channel", key)
            if not found:
                raise NotFound
            [record] = await execute("SELECT * FROM weights WHERE document_id = :id", key)
            await execute(
                "DELETE FROM jobs WHERE channel = :channel AND sha256 = :sha256", key | {"sha256": found[0]["sha256"]}
            )
            await execute("DELETE FROM documents WHERE id = :id", key)
            await execute("INSERT OR IGNORE INTO erasing (id) VALUES (1)")
        await self._try_to_finish_erase()
        return _weights(record)

    async def reset(self, channel: str) -> list[WeightsRecord]:
        """Remove everything of a channel, its unfinished jobs too; nothing remains readable in the file."""
        async with self._transaction() as execute:
            records = await execute(
                """
                SELECT weights.* FROM weights JOIN documents ON documents.id = weights.document_id
                WHERE channel = :channel ORDER BY document_id
                """,
                {"channel": channel},
            )
            await execute("DELETE FROM channels WHERE id = :channel", {"channel": channel})
            await execute("INSERT OR IGNORE INTO erasing (id) VALUES (1)")
        await self._try_to_finish_erase()
        return [_weights(record) for record in records]

    async def finish_erase(self) -> None:
        """Remove the traces of what was erased, after each erase, and at start what a crash cut short.

        A removed row leaves words in the search index until that is merged; copies in the free space of pages that were
        once split, in spite of secure_delete (measured: 8 of 4,000 words), until the file is written anew; and pages
        in the write-ahead log until that is emptied. Takes about a second for 100 MB.
        """
        async with self._writing:
            with _translated():
                if not await self._execute("SELECT 1 FROM erasing"):
                    return
                await self._execute("INSERT INTO chunk_words (chunk_words) VALUES ('optimize')")
                await self._execute("VACUUM")
                [result] = await self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
                if result["busy"]:
                    raise StorageFailed("Another program reads the index; the erase will be finished later.")
                await self._execute("DELETE FROM erasing")

    async def _try_to_finish_erase(self) -> None:
        """The rows are gone, and the caller has files to delete: what can't be done now is tried again and again, and
        at the next start."""
        self._erased_at = time.monotonic()
        try:
            await self.finish_erase()
        except StorageFailed:
            log.exception("an erase is not finished; it is tried again")
            if self._finishing is None or self._finishing.done():
                self._finishing = asyncio.create_task(self._finish_erase_later())

    async def _finish_erase_later(self) -> None:
        while True:
            await asyncio.sleep(ERASE_AGAIN)
            with suppress(StorageFailed):
                return await self.finish_erase()

    # Questions

    async def route(
        self,
        channel: str,
        question: str,
        *,
        document_id: str | None = None,
        query: Query | None = None,
        limit: int = 10,
    ) -> list[Hit]:
        values = {"channel": channel, "document_id": document_id}
        words = search_words(question)
        rows = await self._read(
            """
            WITH words AS MATERIALIZED (
                SELECT value AS word, (
                    SELECT count(*) FROM chunk_words WHERE chunk_words MATCH '"' || value || '"'
                ) AS found FROM json_each(:words)
            ), known AS (
                SELECT chunks.id, position, learned_at FROM chunks JOIN documents ON documents.id = document_id
                WHERE channel = :channel AND (:document_id IS NULL OR document_id = :document_id)
            )
            SELECT word, known.*, bm25(chunk_words) AS score, found,
                (SELECT count(*) FROM chunks) AS everywhere, (SELECT count(*) FROM known) AS among
            FROM words
            CROSS JOIN chunk_words ON chunk_words MATCH '"' || word || '"'
            JOIN known ON known.id = chunk_words.rowid
            """,
            values | {"words": json.dumps(words)},
        )
        if not rows:
            return [Hit(_document(row), 0, 0.0, 0.0, 1) for row in await self._newest(values)]
        found: dict[str, dict[int, float]] = {word: {} for word in words}
        for row in rows:  # nothing of other channels' chunks is left in it
            found[row["word"]][row["id"]] = frequency(row["score"], row["found"], row["everywhere"])
        among = rows[0]["among"]
        score, share = scores(found, among), shares(found, among)
        order = {row["id"]: (-score[row["id"]], -row["learned_at"], row["position"]) for row in rows}
        chunks = await self._chunks(sorted(order, key=order.__getitem__)[: max(COMPARED, limit) if query else limit])
        hits = [Hit(_document(row), row["position"], score[row["chunk"]], share[row["chunk"]], among) for row in chunks]
        if query:
            hits = await asyncio.to_thread(closest_first, hits, [row["code"] for row in chunks], query)
        return hits[:limit]

    async def _chunks(self, ids: Sequence[int]) -> list[sqlite3.Row]:
        """These chunks, each with its document, in this order."""
        return await self._read(
            """
            SELECT known_documents.*, chunks.id AS chunk, chunks.position, chunks.code FROM json_each(:ids) AS wanted
            JOIN chunks ON chunks.id = wanted.value
            JOIN known_documents ON known_documents.id = chunks.document_id
            ORDER BY wanted.key
            """,
            {"ids": json.dumps(ids)},
        )

    async def _newest(self, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        return await self._read(
            """
            SELECT * FROM known_documents
            WHERE channel = :channel AND (:document_id IS NULL OR id = :document_id)
            ORDER BY learned_at DESC LIMIT 1
            """,
            values,
        )

    async def support(
        self, document_id: str, answers: Sequence[str], question: str = ""
    ) -> list[tuple[int, ...] | None]:
        pages = await self.pages(document_id)
        found = await asyncio.to_thread(supporting, [page.text for page in pages], answers, question)
        return [tuple(pages[at].number for at in places) if pages else None for places in found]

    async def add_answer(self, channel: str, answer: Answer, *, asked_by: str, thread: str = "") -> str:
        """Store an answer; returns its id. Raises: NotFound, when its document was forgotten meanwhile."""
        values = {
            "id": secrets.token_hex(8),
            "channel": channel,
            "document_id": answer.document.id if answer.document else None,
            "question": answer.question,
            "learned": answer.learned.text if answer.learned else None,
            "base": answer.base.text,
            "asked_at": time.time(),
            "asked_by": asked_by,
            "thread": thread,
            "details": json.dumps(asdict(answer)),
        }
        async with self._transaction() as execute:
            if answer.document and not await execute(
                "SELECT 1 FROM documents WHERE id = :document_id AND channel = :channel", values
            ):
                raise NotFound("This document was forgotten while it was asked.")
            await execute("INSERT OR IGNORE INTO channels (id) VALUES (:channel)", values)
            await execute(
                """
                INSERT INTO answers
                    (id, channel, document_id, question, learned, base, asked_at, asked_by, thread, details)
                VALUES
                    (:id, :channel, :document_id, :question, :learned, :base, :asked_at, :asked_by, :thread, :details)
                """,
                values,
            )
        return str(values["id"])

    async def place_answer(self, channel: str, answer_id: str, thread: str) -> None:
        async with self._transaction() as execute:
            await execute(
                "UPDATE answers SET thread = :thread WHERE id = :id AND channel = :channel",
                {"id": answer_id, "channel": channel, "thread": thread},
            )

    async def thread_document(self, channel: str, thread: str) -> str | None:
        rows = await self._read(
            """
            SELECT document_id FROM answers
            WHERE thread = :thread AND channel = :channel AND document_id IS NOT NULL AND learned != :nothing
            ORDER BY asked_at DESC LIMIT 1
            """,
            {"channel": channel, "thread": thread, "nothing": NOT_IN_TEXT},
        )
        return rows[0]["document_id"] if rows else None

    async def answer(self, channel: str, answer_id: str) -> Answer:
        """Raises: NotFound."""
        rows = await self._read(
            "SELECT id, details FROM answers WHERE id = :id AND channel = :channel AND details != ''",
            {"id": answer_id, "channel": channel},
        )
        if not rows:
            raise NotFound("This answer is not stored any more.")
        return _answer(rows[0])

    async def share_answer(self, channel: str, answer_id: str, *, by: str) -> Answer | None:
        """Raises: NotFound, when it was erased, or when somebody else asked for it."""
        values = {"id": answer_id, "channel": channel, "by": by}
        async with self._transaction() as execute:
            rows = await execute(
                """
                SELECT id, details, shared FROM answers
                WHERE id = :id AND channel = :channel AND asked_by = :by AND details != ''
                """,
                values,
            )
            await execute("UPDATE answers SET shared = 1 WHERE id = :id AND asked_by = :by", values)
        if not rows:
            raise NotFound("I no longer have that answer; ask again to share it.")
        return None if rows[0]["shared"] else _answer(rows[0])

    # Channels

    async def channels(self, prefix: str) -> list[str]:
        rows = await self._read(
            "SELECT id FROM channels WHERE substr(id, 1, length(:prefix)) = :prefix ORDER BY id", {"prefix": prefix}
        )
        return [row["id"] for row in rows]

    async def channel_settings(self, channel: str) -> dict[str, str]:
        rows = await self._read("SELECT settings FROM channels WHERE id = :channel", {"channel": channel})
        return json.loads(rows[0]["settings"]) if rows else {}

    async def change_setting(self, channel: str, name: str, value: str) -> None:
        values = {"channel": channel, "changed": json.dumps({name: value})}
        async with self._transaction() as execute:
            await execute("INSERT OR IGNORE INTO channels (id) VALUES (:channel)", values)
            await execute("UPDATE channels SET settings = json_patch(settings, :changed) WHERE id = :channel", values)

    async def feedback(self, channel: str, answer_id: str, *, by: str, helpful: bool, correction: str = "") -> None:
        """The last word of each person counts. Raises: NotFound."""
        async with self._transaction() as execute:
            stored = await execute(
                """
                INSERT INTO feedback (answer_id, given_by, helpful, correction)
                SELECT id, :by, :helpful, :correction FROM answers WHERE id = :id AND channel = :channel
                ON CONFLICT DO UPDATE SET helpful = excluded.helpful, correction = excluded.correction RETURNING helpful
                """,
                {"id": answer_id, "channel": channel, "by": by, "helpful": helpful, "correction": correction},
            )
            if not stored:
                raise NotFound("This answer is not stored any more.")

    async def corrections(self, channel: str) -> list[Correction]:
        rows = await self._read(
            """
            SELECT coalesce(documents.name, '') AS document, question, coalesce(learned, '') AS answer, correction,
                given_by
            FROM feedback JOIN answers ON answers.id = answer_id LEFT JOIN documents ON documents.id = document_id
            WHERE answers.channel = :channel AND NOT helpful ORDER BY asked_at
            """,
            {"channel": channel},
        )
        return [Correction(**_values(Correction, row)) for row in rows]

    # Inbox

    async def receive(self, key: str, body: str) -> bool:
        values = {"key": key, "body": body, "now": time.time(), "oldest": time.time() - REMEMBERED}
        async with self._transaction() as execute:
            await execute("DELETE FROM inbox WHERE body = '' AND received_at < :oldest", values)
            new = await execute(
                """
                INSERT INTO inbox (key, body, owner, received_at) VALUES (:key, :body, '', :now)
                ON CONFLICT DO NOTHING RETURNING key
                """,
                values,
            )
        return bool(new)

    async def unhandled(self, prefix: str) -> list[tuple[str, str]]:
        rows = await self._read(
            "SELECT key, body FROM inbox WHERE body != '' AND substr(key, 1, length(:prefix)) = :prefix "
            "ORDER BY received_at",
            {"prefix": prefix},
        )
        return [(row["key"], row["body"]) for row in rows]

    async def handled(self, key: str) -> None:
        async with self._transaction() as execute:
            await execute("UPDATE inbox SET body = '' WHERE key = :key", {"key": key})
        if time.monotonic() < self._erased_at + AFTER_ERASE:
            await self._truncate_log()

    async def claim(self, key: str, owner: str, seconds: float = REMEMBERED) -> bool:
        now = time.time()
        async with self._transaction() as execute:
            mine = await execute(
                """
                INSERT INTO inbox (key, body, owner, received_at) VALUES (:key, '', :owner, :now)
                ON CONFLICT DO UPDATE SET owner = excluded.owner, received_at = excluded.received_at
                WHERE owner = excluded.owner OR received_at < :oldest RETURNING key
                """,
                {"key": key, "owner": owner, "now": now, "oldest": now - seconds},
            )
        return bool(mine)

    # The connections

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        """`async with self._transaction() as execute`: committed at the end, rolled back when anything is raised."""
        async with self._writing:
            with _translated():
                try:
                    await self._execute("BEGIN IMMEDIATE")
                    yield self._execute
                    await self._execute("COMMIT")
                except BaseException:  # a cancelled task, too: the writer's thread does one thing after another
                    await self._writer.rollback()
                    raise

    async def _execute(self, sql: str, values: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        """On the writer's connection, within a transaction."""
        return list(await self._writer.execute_fetchall(sql, _sound(values or {})))

    async def _insert(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None:
        await self._writer.executemany(sql, [_sound(row) for row in rows])

    async def _read(self, sql: str, values: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        with _translated():
            return list(await self._reader.execute_fetchall(sql, _sound(values or {})))

    async def _truncate_log(self) -> None:
        """Empty the write-ahead log, where a removed PDF could still be read. Never raises: the commit stands."""
        async with self._writing:
            try:
                await self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error:
                log.exception("the write-ahead log could not be emptied; the next job's end or start will do it")


@asynccontextmanager
async def _connect(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


async def _version(connection: aiosqlite.Connection) -> int:
    """Of the file's schema, before anything in it is touched. Raises: DataTooNew."""
    [[version]] = await connection.execute_fetchall("PRAGMA user_version")
    if version > len(MIGRATIONS):
        raise DataTooNew
    return version


async def _migrate(connection: aiosqlite.Connection, version: int) -> None:
    """Bring the file from that version to this one, each step in one transaction."""
    for script in MIGRATIONS[version:]:
        await connection.executescript("BEGIN IMMEDIATE;" + script.read_text() + "COMMIT;")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        raise StorageFailed("The disk is full; nothing was changed." if full else None) from error


def _sound(values: Mapping[str, Any]) -> dict[str, Any]:
    """Half a surrogate pair is no text; it becomes a question mark."""
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in values.items()
    }


def _begins(document: Document, key: str) -> bool:
    return document.id.casefold().startswith(key) or document.name.casefold().startswith(key)


def _values(kind: type[Any], row: sqlite3.Row) -> dict[str, Any]:
    """The columns that are fields of a dataclass."""
    return {field.name: row[field.name] for field in fields(kind) if field.name in row.keys()}  # noqa: SIM118


def _job(row: sqlite3.Row) -> Job:
    values = _values(Job, row)
    values["stage"] = Stage(row["stage"])
    values["document_id"] = row["document_id"] or ""
    values["delivered"] = bool(row["delivered"])
    return Job(**values)


def _weights(row: sqlite3.Row, **other: Any) -> WeightsRecord:
    return WeightsRecord(**_values(WeightsRecord, row) | {"sections": tuple(json.loads(row["sections"]))} | other)


def read_weights(connection: sqlite3.Connection) -> list[WeightsRecord]:
    """For a snapshot of the file; the connection's rows are sqlite3.Row."""
    return [_weights(row) for row in connection.execute("SELECT * FROM weights ORDER BY document_id")]


def _answer(row: sqlite3.Row) -> Answer:
    values = json.loads(row["details"])
    values |= {
        "id": row["id"],
        "base": Completion(**values["base"]),
        "learned": Completion(**values["learned"]) if values["learned"] else None,
        "document": DocumentRef(**values["document"]) if values["document"] else None,
        "pages": None if values["pages"] is None else tuple(values["pages"]),
        "certainty": Certainty(values["certainty"]),
    }
    return Answer(**values)


def _document(row: sqlite3.Row) -> Document:
    metrics = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(row["metrics"]).items()}
    values = _values(Document, row)
    metrics.pop("peak_memory_mb", None)  # of documents from before 2026-11-25, always 0
    values["metrics"] = Metrics(**metrics)
    values["questions"] = tuple(json.loads(row["questions"]))
    values["weights"] = _weights(row, document_id=row["id"], sha256=row["weights_sha256"])
    return Document(**values)
