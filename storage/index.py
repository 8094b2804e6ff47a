"""The SQLite index: what was handed in, learned and asked. The one home of aiosqlite.

What a channel's documents say, and what was answered, stands in a file for each channel (`storage.channel_files`); here
stands what there is. So this file stays small, and can be written anew at each erase.

One connection writes, one transaction at a time; another one reads. Both run in threads of their own, so the event loop
never waits. A commit is on the disk when it returns (WAL, synchronous = FULL). Who needs a channel's file and this one
takes the channel's first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import asdict, fields, replace
from itertools import filterfalse
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from core.errors import AlreadyKnown, Cancelled, DataTooNew, ForgottenMeanwhile, NotFound, StorageFailed
from core.prompts import NOT_IN_TEXT
from core.search.finder import the_one
from core.search.ranking import Hit, WordMatch, as_spelled, by_words
from core.search.words import MISSPELT_WORDS, search_words, spellings
from core.types import (
    ALL_PAGES,
    Answer,
    Certainty,
    Chunk,
    Completion,
    Correction,
    Document,
    DocumentRef,
    Job,
    JobKind,
    Metrics,
    Page,
    Stage,
    WeightsRecord,
)
from storage.channel_files import (
    ChannelFile,
    ChannelFiles,
    column,
    database_uri,
    insert_into,
    page_of,
    valid_text,
    valid_values,
)
from storage.folder import CHANNELS, Reserve, storage_errors

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_ATTEMPTS = 3  # at one job, without retries; a job that always takes the process down is not tried for ever
ERASE_AGAIN = 5.0  # seconds until an erase that another reader held up is tried again
AFTER_ERASE = 60.0  # seconds in which the log is emptied after each event: it may be the one that ordered the erase
NO_ANSWER = "This answer is not stored any more."
INBOX_SECONDS = 86_400.0  # seconds for which the inbox knows what was handled
SCRIPTS = (
    "schema.sql", "inbox.sql", "threads.sql", "codes.sql", "chat.sql", "channels.sql", "jobs.sql", "versions.sql",
    "retries.sql",
)  # fmt: skip
MIGRATIONS = tuple(Path(__file__).with_name(name) for name in SCRIPTS)  # the n-th makes version n
KEPT_TEXT = b"engram: documents as one\n"  # before version 7, in the place of a file
COLUMNS = {  # of the tables that hold a channel's rows, without numbers that each engine gives
    "channels": "id, turn, settings",
    "documents": "id, channel, name, sha256, pages, tokens, learned_at, learned_by, metrics, questions, formerly",
    "weights": "document_id, path, bytes, sha256, base, learner, sections",
    "jobs": "id, channel, name, sha256, requested_by, reply_to, created_at, stage, attempts, error, document_id, "
    "delivered, kind, sources, share, retries",
    "inbox": "key, body, owner, received_at, channel",
}
THREAD_ANSWERS = "FROM answers WHERE thread = :thread AND {own} ORDER BY asked_at DESC"
ADD_CHANNEL = "INSERT INTO channels (id) VALUES (:channel) ON CONFLICT DO NOTHING"
ADD_UNUSED = "INSERT INTO unused_weights (document_id) VALUES (:id) ON CONFLICT DO NOTHING"
PRAGMAS = """
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

    _interrupted = "TRUE"  # SQL: whether nobody is at work on a job that was begun
    id: str  # random, the same for ever: stands in every file of weights that belongs to this index

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = ChannelFiles(path.parent / CHANNELS)
        self._reserve = Reserve(path.with_name("reserve"))
        self._writing = asyncio.Lock()
        self._unerased: set[str] = set()  # channels in whose files there is still something to erase
        self._erased_at = time.monotonic()  # or started: an event may be left from before
        self._finishing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Index:
        """Raises: DataTooNew, StorageFailed."""
        async with AsyncExitStack() as stack:
            stack.callback(self._files.close)
            with storage_errors():
                self._writer = await stack.enter_async_context(_connect(self._path))
                version = await _version(self._writer)
                await self._writer.executescript(PRAGMAS)
                await self._migrate(version)
                self._reader = await stack.enter_async_context(_connect(self._path))
                await self._reader.executescript(PRAGMAS + "PRAGMA query_only = ON;")
                [[self.id]] = await self._reader.execute_fetchall("SELECT id FROM folder")
            await self._try_to_finish_erase()
            await self._truncate_log()
            self._reserve.fill()
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_finishing()
        await self._open.aclose()

    async def _stop_finishing(self) -> None:
        if self._finishing:
            self._finishing.cancel()
            await asyncio.gather(self._finishing, return_exceptions=True)

    async def _migrate(self, version: int) -> None:
        """Bring the file from that version to this one, each step in one transaction."""
        for script in MIGRATIONS[version:]:
            if script.stem == "channels":
                await self._split_up()
            await self._writer.executescript("BEGIN IMMEDIATE;" + script.read_text())
            if script.stem == "jobs":
                await self._name_kinds()
            await self._writer.execute("COMMIT")

    async def _name_kinds(self) -> None:
        """Jobs that wait with the text of documents in the place of a file: one that learns a document again knows its
        document by the sha256. One that makes several into one does not, and has to be asked for again."""
        for job in await self._execute("SELECT id, channel FROM jobs WHERE NOT final"):
            async with self._files.use(job["channel"]) as content:
                data, _ = await content(ChannelFile.job_file, job["id"]) or (b"", None)
            if data.startswith(KEPT_TEXT):
                await self._execute(
                    """
                    UPDATE jobs SET kind = 'relearn', sources = json_array(documents.id) FROM documents
                    WHERE jobs.id = :id AND documents.channel = jobs.channel AND documents.sha256 = jobs.sha256
                    """,
                    {"id": job["id"]},
                )
                await self._execute(
                    "UPDATE jobs SET stage = 'failed', error = :error WHERE id = :id AND kind = 'learn'",
                    {"id": job["id"], "error": "An older version was asked to do this; ask again."},
                )

    async def _split_up(self) -> None:
        """Copy what belongs into the channels' files; a crash begins it anew."""
        for [channel] in await self._writer.execute_fetchall("SELECT id FROM channels"):
            async with self._files.use(channel) as content:
                await self._files.delete(channel)
                await content(ChannelFile.take_over, self._path, create=True)
            self._files.trim()

    async def is_sound(self) -> bool:
        """Whether the index itself is whole, so that what it does not name is not needed."""
        rows = await self._read("PRAGMA quick_check")
        return list(map(tuple, rows)) == [("ok",)]

    # Jobs

    async def add_job(
        self, job: Job, data: bytes = b"", *, pages: tuple[int, int] = ALL_PAGES, again: bool = False
    ) -> Job:
        key = {"channel": job.channel, "sha256": job.sha256}
        async with self._channel(job.channel) as content:
            for row in await self._read("SELECT id FROM documents WHERE channel = :channel AND sha256 = :sha256", key):
                if not again:
                    raise AlreadyKnown(document_id=row["id"])
            if await self._read("SELECT 1 FROM jobs WHERE channel = :channel AND sha256 = :sha256 AND NOT final", key):
                raise AlreadyKnown("This document is already being learned in this channel.")
            if job.kind is JobKind.LEARN:
                await content(ChannelFile.add_job_file, job.id, job.sha256, data, pages, create=True)
            try:
                return _job(await self._add_job(job))
            except BaseException:
                await content(ChannelFile.keep_job_files, await self._waiting(job.channel))
                raise

    async def _add_job(self, job: Job) -> sqlite3.Row:
        async with self._transaction() as execute:
            await execute(ADD_CHANNEL, {"channel": job.channel})
            values = asdict(job) | {"document_id": None, "sources": json.dumps(job.sources)}
            [row] = await execute(f"{insert_into('jobs', COLUMNS['jobs'])} RETURNING *", values)
        return row

    async def _waiting(self, channel: str) -> list[str]:
        """Ids of its unfinished jobs."""
        rows = await self._read("SELECT id FROM jobs WHERE channel = :id AND NOT final", {"id": channel})
        return column(rows, "id")

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
            WHERE (CAST(:channel AS TEXT) IS NULL OR channel = :channel) AND NOT (:unfinished AND final)
            ORDER BY stage = 'queued',
                CASE WHEN stage = 'queued'
                    THEN row_number() OVER (PARTITION BY channel, stage = 'queued' ORDER BY number) ELSE 0 END,
                CASE WHEN stage = 'queued' THEN turn ELSE 0 END, number
            """,
            {"channel": channel, "unfinished": unfinished},
        )
        return list(map(_job, rows))

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

    async def job_file(self, job_id: str) -> tuple[bytes, tuple[int, int]]:
        """What was handed in, and which pages of it. Raises: NotFound, when the job has ended."""
        async with self._channel((await self.job(job_id)).channel) as content:
            file = await content(ChannelFile.job_file, job_id)
        if file is None:
            raise NotFound("The file of this job is not kept any more.")
        return file

    async def job_stage(
        self, job_id: str, stage: Stage, *, error: str = "", attempt: int = 0, retry: bool = False
    ) -> None:
        values = {"id": job_id, "stage": stage, "error": error, "attempt": attempt, "retry": int(retry)}
        async with self._transaction() as execute:
            changed = await execute(
                """
                UPDATE jobs SET stage = :stage, error = :error, retries = retries + :retry,
                    attempts = CASE WHEN :stage = 'queued' AND :retry = 0 AND attempts > 0 THEN attempts - 1
                        ELSE attempts END
                WHERE id = :id AND NOT final AND (:attempt = 0 OR attempts = :attempt AND stage != 'queued')
                RETURNING channel
                """,
                values,
            )
            if not changed and not stage.final:
                raise Cancelled
        if changed and stage.final:
            await self._drop_files(changed[0]["channel"])

    async def _drop_files(self, channel: str) -> None:
        """The files of jobs that have ended. Never raises: the end stands, and the next one takes them along."""
        try:
            async with self._channel(channel) as content:
                await content(ChannelFile.keep_job_files, await self._waiting(channel))
        except StorageFailed:
            log.exception("a file that is not needed any more could not be removed; the next job's end will do it")

    async def requeue_interrupted(self) -> list[Job]:
        async with self._transaction() as execute:
            rows = await execute(
                """
                UPDATE jobs SET
                    stage = CASE WHEN attempts - retries < :limit THEN 'queued' ELSE 'failed' END,
                    error = CASE WHEN attempts - retries < :limit THEN '' ELSE :error END
                WHERE NOT final AND stage != 'queued' AND """
                + self._interrupted
                + " RETURNING *",
                {
                    "limit": MAX_ATTEMPTS,
                    "error": f"Learning this document was interrupted {MAX_ATTEMPTS} times and has been given up.",
                },
            )
        for channel in set(column(rows, "channel")):
            await self._drop_files(channel)
        return list(map(_job, rows))

    async def finish_job(
        self, job_id: str, document: Document, pages: Sequence[Page], chunks: Sequence[Chunk], *, attempt: int = 0
    ) -> Document:
        ids = {"id": job_id, "channel": document.channel, "document_id": document.id, "attempt": attempt}
        async with self._channel(document.channel) as content:
            if job_id not in await self._waiting(document.channel):
                raise Cancelled
            known = await self._known(document.channel)
            parts = document.id, document.sha256, pages, chunks, known
            await content(ChannelFile.add_document, *parts, create=True)
            async with self._transaction() as execute:
                unfinished = await execute(  # nobody else changes it from here on
                    """
                    UPDATE jobs SET stage = 'saving' WHERE id = :id AND channel = :channel AND NOT final
                    AND (:attempt = 0 OR attempts = :attempt AND stage != 'queued') RETURNING id
                    """,
                    ids,
                )
                if not unfinished:
                    raise Cancelled
                document, replaced = await self._replace(execute, document)
                await execute(
                    "UPDATE jobs SET stage = 'done', error = '', document_id = :document_id WHERE id = :id", ids
                )
                await execute("DELETE FROM unused_weights WHERE document_id = :document_id", ids)
            for old in replaced:
                move = "UPDATE answers SET document_id = :new WHERE document_id = :old AND {own}"
                await content(ChannelFile.execute, move, {"old": old, "new": document.id})
                self._unerased.add(valid_text(document.channel))
        await self._drop_files(document.channel)
        if replaced:
            await self._try_to_finish_erase()
        return document

    async def _replace(self, execute: Any, document: Document) -> tuple[Document, list[str]]:
        """Add a document in the place of an earlier version, learned from the same file: it keeps the jobs and the ids,
        its rows are gone, its traces go later. Returns it, and the ids of what was replaced."""
        key = {"channel": document.channel, "sha256": document.sha256, "new": document.id}
        rows = await execute(
            """
            UPDATE documents SET sha256 = id WHERE channel = :channel AND sha256 = :sha256
            RETURNING id, formerly
            """,
            key,
        )
        formerly = []
        for row in rows:
            formerly += [*json.loads(row["formerly"]), row["id"]]
        document = replace(document, formerly=tuple(formerly))
        await self._add_document(document)
        for row in rows:
            old = key | {"old": row["id"]}
            await execute("UPDATE jobs SET document_id = :new WHERE document_id = :old", old)
            await execute("DELETE FROM documents WHERE id = :old", old)
            await execute(ADD_UNUSED, {"id": row["id"]})
            await self._note_erase(execute, document.channel)
        return document, column(rows, "id")

    async def _add_document(self, document: Document) -> None:
        row = asdict(document) | {
            "metrics": json.dumps(asdict(document.metrics)),
            "questions": json.dumps(document.questions),
            "formerly": json.dumps(document.formerly),
        }
        weights = asdict(document.weights) | {"sections": json.dumps(document.weights.sections)}
        await self._insert(insert_into("documents", COLUMNS["documents"]), [row])
        await self._insert(insert_into("weights", COLUMNS["weights"]), [weights])

    async def mark_delivered(self, job_id: str) -> None:
        async with self._transaction() as execute:
            await execute("UPDATE jobs SET delivered = TRUE WHERE id = :id", {"id": job_id})

    async def undelivered(self) -> list[Job]:
        """Jobs that have ended, and whose channel has not been told so."""
        rows = await self._read("SELECT * FROM jobs WHERE final AND NOT delivered ORDER BY number")
        return list(map(_job, rows))

    # Documents

    async def documents(self, channel: str) -> list[Document]:
        """The newest first."""
        rows = await self._read(
            "SELECT * FROM known_documents WHERE channel = :channel ORDER BY learned_at DESC, id", {"channel": channel}
        )
        return list(map(document_of, rows))

    async def _known(self, channel: str) -> list[str]:
        """Ids of its documents."""
        return column(await self._read("SELECT id FROM documents WHERE channel = :id", {"id": channel}), "id")

    async def find_document(self, channel: str, key: str) -> Document:
        return the_one(await self.documents(channel), key)

    async def all_weights(self) -> list[WeightsRecord]:
        return list(map(_weights, await self._read("SELECT * FROM weights ORDER BY document_id")))

    async def pages(self, document_id: str) -> list[Page]:
        async with self._channel(await self._channel_of(document_id)) as content:
            return await pages_in(content, document_id)

    async def chunks(self, document_id: str) -> list[Chunk]:
        async with self._channel(await self._channel_of(document_id)) as content:
            return await content(ChannelFile.chunks_of, document_id)

    async def _channel_of(self, document_id: str) -> str:
        """ "" for a document that is not there."""
        rows = await self._read("SELECT channel FROM documents WHERE id = :id", {"id": document_id})
        return rows[0]["channel"] if rows else ""

    # Files of weights

    async def will_save(self, document_id: str, job: Job) -> None:
        """The next start deletes what is unused: one process works on one job, so none is in the making then."""
        async with self._transaction() as execute:
            await execute(ADD_UNUSED, {"id": document_id})

    async def unused_weights(self) -> list[str]:
        rows = await self._read(
            "SELECT document_id FROM unused_weights WHERE document_id NOT IN (SELECT document_id FROM weights)"
        )
        return column(rows, "document_id")

    async def weights_deleted(self, document_ids: Sequence[str]) -> None:
        async with self._transaction() as execute:
            for id in document_ids:
                await execute("DELETE FROM unused_weights WHERE document_id = :id", {"id": id})

    # Erase

    async def forget(self, channel: str, document_id: str) -> WeightsRecord:
        """Also on a full disk. Raises: NotFound."""
        return await self._with_reserve(self._forget, channel, document_id)

    async def reset(self, channel: str) -> list[WeightsRecord]:
        """Remove everything of a channel, its unfinished jobs and what a platform handed over, too; nothing remains
        readable. Where there is nothing, nothing is done. Also on a full disk."""
        return await self._with_reserve(self._reset, channel)

    async def _with_reserve(self, erase: Callable[..., Awaitable[T]], *what: str) -> T:
        try:
            return await erase(*what)
        except StorageFailed:
            self._reserve.give_up()
            return await erase(*what)

    async def _forget(self, channel: str, document_id: str) -> WeightsRecord:
        key = {"id": document_id, "channel": channel}
        async with self._channel(channel):
            async with self._transaction() as execute:
                documents = await execute("SELECT sha256 FROM documents WHERE id = :id AND channel = :channel", key)
                if not documents:
                    raise NotFound
                [record] = await execute("SELECT * FROM weights WHERE document_id = :id", key)
                await execute(ADD_UNUSED, key)
                await execute(
                    """
                    DELETE FROM jobs WHERE channel = :channel AND (
                        sha256 = :sha256 OR NOT final AND replace(sources, '"' || :id || '"', '') != sources
                    )
                    """,
                    key | {"sha256": documents[0]["sha256"]},
                )
                await execute("DELETE FROM documents WHERE id = :id", key)
                await self._note_erase(execute, channel)
            self._unerased.add(valid_text(channel))
        await self._try_to_finish_erase()
        return _weights(record)

    async def _reset(self, channel: str) -> list[WeightsRecord]:
        key = {"channel": channel}
        async with self._channel(channel):
            async with self._transaction() as execute:
                records = await execute(
                    """
                    SELECT weights.* FROM weights JOIN documents ON documents.id = weights.document_id
                    WHERE channel = :channel ORDER BY document_id
                    """,
                    key,
                )
                await execute(
                    """
                    INSERT INTO unused_weights (document_id) SELECT id FROM documents WHERE channel = :channel
                    ON CONFLICT DO NOTHING
                    """,
                    key,
                )
                known = await execute("DELETE FROM channels WHERE id = :channel RETURNING id", key)
                received = await execute(
                    "UPDATE inbox SET body = '' WHERE channel = :channel AND body != '' RETURNING key", key
                )
                if not known and not received:
                    return []
                await self._note_erase(execute, channel)
            self._unerased.add(valid_text(channel))
        await self._try_to_finish_erase()
        return list(map(_weights, records))

    async def _note_erase(self, execute: Any, channel: str) -> None:
        """In the transaction that removes rows: traces of them are left in the files."""
        await execute("INSERT INTO erasing (channel) VALUES (:channel)", {"channel": channel})

    async def finish_erase(self) -> None:
        """Remove the traces of what was erased, after each erase, and at start what a crash cut short: rewrite or
        delete the channels' files, write the index anew, once, and empty the write-ahead log."""
        rows = await self._read("SELECT number, channel FROM erasing WHERE NOT rewritten ORDER BY number")
        self._unerased |= set(column(rows, "channel"))
        failed: dict[str, StorageFailed] = {}
        for channel in set(column(rows, "channel")):
            try:
                async with self._files.use(channel) as content:
                    with storage_errors():
                        await self._erase_content(channel, content)
            except StorageFailed as problem:  # the others are erased all the same
                failed[channel] = problem
        async with self._writing:
            with storage_errors():
                if rows:
                    await self._execute("VACUUM")
                    await self._execute(
                        """
                        UPDATE erasing SET rewritten = 1
                        WHERE number <= :last AND channel NOT IN (SELECT value FROM json_each(:failed))
                        """,
                        {"last": rows[-1]["number"], "failed": json.dumps([*failed])},
                    )
                if await self._execute("SELECT 1 FROM erasing WHERE rewritten"):
                    [result] = await self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    if result["busy"]:
                        raise StorageFailed("Another program reads the index; the erase will be finished later.")
                    await self._execute("DELETE FROM erasing WHERE rewritten")
        for failure in failed.values():
            raise failure
        self._reserve.fill()

    async def _erase_content(self, channel: str, content: Any) -> None:
        if await self._read("SELECT 1 FROM channels WHERE id = :channel", {"channel": channel}):
            known = await self._known(channel)
            await content(ChannelFile.keep, known, await self._waiting(channel))
        else:
            await self._files.delete(channel)
        self._unerased.discard(channel)

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

    async def candidates(
        self, channel: str, question: str, *, document_id: str | None = None, limit: int = 10
    ) -> list[Hit]:
        searched = {}
        for document in await self.documents(channel):
            if document_id in (None, document.id):
                searched[document.id] = document
        words = await asyncio.to_thread(search_words, question)
        async with self._channel(channel) as content:
            matches = _matches(await content(ChannelFile.search, words, searched))
            known = {match.word for match in matches}
            unknown = list(filterfalse(known.__contains__, words))
            meant: dict[str, str] = {}  # by spelling: the word that was written
            for word in unknown[:MISSPELT_WORDS]:
                meant |= dict.fromkeys(spellings(word), word)
            if meant and searched:
                rows = await content(ChannelFile.search, [*meant], searched)
                matches += as_spelled(_matches(rows), meant)
            hits = by_words(matches, words, searched, limit)
            chunks = await content(ChannelFile.chunks, [hit.key for hit in hits])
        with_texts = []
        for hit, (text, code) in zip(hits, chunks, strict=True):
            with_texts.append(replace(hit, text=text, code=code if matches else b""))
        return with_texts

    async def rehearse(
        self, document: Document, chunks: Sequence[Chunk], questions: Sequence[str], limit: int
    ) -> list[list[Hit]]:
        def search() -> list[list[Hit]]:
            with closing(ChannelFile(None, document.channel)) as content:
                content.add_document(document.id, document.sha256, (), chunks, [document.id])
                return [hits(content, search_words(question)) for question in questions]

        def hits(content: ChannelFile, words: Sequence[str]) -> list[Hit]:
            rows = content.search(words, [document.id])
            best = by_words(_matches(rows), words, {document.id: document}, limit)
            return [replace(hit, text=chunks[hit.chunk].text, code=chunks[hit.chunk].code) for hit in best]

        return await asyncio.to_thread(search)

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
            "shared": False,
        }
        async with self._channel(channel) as content:
            async with self._transaction() as execute:
                if answer.document:
                    document = await execute(
                        """
                        SELECT id FROM documents WHERE channel = :channel
                        AND (id = :document_id OR replace(formerly, '"' || :document_id || '"', '') != formerly)
                        """,
                        values,
                    )
                    if not document:
                        raise ForgottenMeanwhile
                    values["document_id"] = document[0]["id"]
                await execute(ADD_CHANNEL, values)
            await content(ChannelFile.insert, {"answers": [values]}, create=True)
        return str(values["id"])

    async def place_answer(self, channel: str, answer_id: str, thread: str) -> None:
        sql = "UPDATE answers SET thread = :thread WHERE id = :id AND {own}"
        async with self._channel(channel) as content:
            await content(ChannelFile.execute, sql, {"id": answer_id, "thread": thread})

    async def thread_questions(self, channel: str, thread: str, limit: int) -> list[str]:
        sql, values = f"SELECT question, details {THREAD_ANSWERS} LIMIT :limit", {"thread": thread, "limit": limit}
        async with self._channel(channel) as content:
            rows = await content(ChannelFile.execute, sql, values)
        return list(map(_understood, reversed(rows)))

    async def thread_document(self, channel: str, thread: str) -> str | None:
        sql = f"SELECT document_id, learned {THREAD_ANSWERS}"
        async with self._channel(channel) as content:
            for row in await content(ChannelFile.execute, sql, {"thread": thread}):
                if row["document_id"] is not None and row["learned"] != NOT_IN_TEXT:
                    return str(row["document_id"])
        return None

    async def answer(self, channel: str, answer_id: str) -> Answer:
        """Raises: NotFound."""
        async with self._channel(channel) as content:
            row = await _answer_in(content, answer_id)
        if not row["details"]:
            raise NotFound(NO_ANSWER)
        return _stored_answer(row)

    async def share_answer(self, channel: str, answer_id: str, *, by: str) -> Answer | None:
        """Raises: NotFound, when it was erased, or when somebody else asked for it."""
        missing = "I no longer have that answer; ask again to share it."
        async with self._channel(channel) as content:
            row = await _answer_in(content, answer_id, missing)
            if not row["details"] or row["asked_by"] != valid_text(by):
                raise NotFound(missing)
            mark = "UPDATE answers SET shared = TRUE WHERE id = :id AND {own}"
            await content(ChannelFile.execute, mark, {"id": answer_id})
        return None if row["shared"] else _stored_answer(row)

    # Channels

    async def channels(self, prefix: str) -> list[str]:
        rows = await self._read(
            "SELECT id FROM channels WHERE substr(id, 1, length(:prefix)) = :prefix ORDER BY id", {"prefix": prefix}
        )
        return column(rows, "id")

    async def channel_settings(self, channel: str) -> dict[str, str]:
        rows = await self._read("SELECT settings FROM channels WHERE id = :channel", {"channel": channel})
        return json.loads(rows[0]["settings"]) if rows else {}

    async def change_setting(self, channel: str, name: str, value: str) -> None:
        async with self._channel(channel), self._transaction() as execute:
            changed = await self.channel_settings(channel) | {name: value}
            values = {"channel": channel, "settings": json.dumps(changed)}
            await execute(
                """
                INSERT INTO channels (id, settings) VALUES (:channel, :settings)
                ON CONFLICT (id) DO UPDATE SET settings = excluded.settings
                """,
                values,
            )

    async def feedback(self, channel: str, answer_id: str, *, by: str, helpful: bool, correction: str = "") -> None:
        """The last word of each person counts. Raises: NotFound."""
        row = {"answer_id": answer_id, "given_by": by, "helpful": helpful, "correction": correction}
        async with self._channel(channel) as content:
            row["document_id"] = (await _answer_in(content, answer_id))["document_id"]
            await content(ChannelFile.insert, {"feedback": [row]})

    async def corrections(self, channel: str) -> list[Correction]:
        names = {document.id: document.name for document in await self.documents(channel)}
        sql = """
            SELECT answer_id, document_id, question, learned, details, correction, given_by
            FROM feedback JOIN answers ON answers.id = answer_id WHERE NOT helpful AND {own} ORDER BY asked_at
            """
        async with self._channel(channel) as content:
            rows = await content(ChannelFile.execute, sql)
            learned = await content(ChannelFile.learned_corrections)
        return [_correction(row, names, learned) for row in rows]

    async def forget_person(self, person: str) -> int:
        """Erase what somebody asked, and said about answers, in every channel; nothing remains readable. Documents stay
        their channels'. Returns the number of questions and remarks."""
        gone = 0
        for channel in await self.channels(""):
            async with self._channel(channel) as content:
                if rows := await content(ChannelFile.forget_person, person):
                    async with self._transaction() as execute:
                        await self._note_erase(execute, channel)
                    self._unerased.add(valid_text(channel))
                    gone += rows
        await self._try_to_finish_erase()
        return gone

    # Inbox

    async def receive(self, key: str, body: str, channel: str = "") -> bool:
        values = {
            "key": key,
            "body": body,
            "channel": channel,
            "now": time.time(),
            "oldest": time.time() - INBOX_SECONDS,
        }
        async with self._transaction() as execute:
            await execute("DELETE FROM inbox WHERE body = '' AND received_at < :oldest", values)
            new = await execute(
                """
                INSERT INTO inbox (key, body, owner, received_at, channel) VALUES (:key, :body, '', :now, :channel)
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

    async def claim(self, key: str, owner: str, seconds: float = INBOX_SECONDS) -> bool:
        now = time.time()
        async with self._transaction() as execute:
            claimed = await execute(
                """
                INSERT INTO inbox (key, body, owner, received_at) VALUES (:key, '', :owner, :now)
                ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, received_at = excluded.received_at
                WHERE inbox.owner = excluded.owner OR inbox.received_at < :oldest RETURNING key
                """,
                {"key": key, "owner": owner, "now": now, "oldest": now - seconds},
            )
        return bool(claimed)

    # The connections

    @asynccontextmanager
    async def _channel(self, channel: str) -> AsyncIterator[Any]:
        """`async with self._channel(channel) as content`: nobody else has it meanwhile, also to change its rows here.
        An erase that could not be finished comes first: until it is, nothing is added to what is to go."""
        channel, unfinished = valid_text(channel), None
        with storage_errors():
            async with self._files.use(channel) as content:
                if channel in self._unerased:
                    try:
                        await self._erase_content(channel, content)
                    except (sqlite3.Error, OSError) as problem:
                        unfinished = problem

                async def run(do: Callable[..., Any], *arguments: Any, create: bool = False) -> Any:
                    if create and unfinished:
                        raise unfinished
                    return await content(do, *arguments, create=create)

                yield run
        self._files.trim()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        """`async with self._transaction() as execute`: committed at the end, rolled back when anything is raised."""
        async with self._writing:
            with storage_errors():
                try:
                    await self._execute("BEGIN IMMEDIATE")
                    yield self._execute
                    await self._execute("COMMIT")
                except BaseException:  # a cancelled task, too: the writer's thread does one thing after another
                    await self._writer.rollback()
                    raise

    async def _execute(self, sql: str, values: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        """On the writer's connection, within a transaction."""
        return list(await self._writer.execute_fetchall(sql, valid_values(values or {})))

    async def _insert(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None:
        await self._writer.executemany(sql, map(valid_values, rows))

    async def _read(self, sql: str, values: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        with storage_errors():
            return list(await self._reader.execute_fetchall(sql, valid_values(values or {})))

    async def _truncate_log(self) -> None:
        """Empty the write-ahead log, where a removed file could still be read. Never raises: the commit stands."""
        async with self._writing:
            try:
                await self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error:
                log.exception("the write-ahead log could not be emptied; the next job's end or start will do it")


class ReadOnlyIndex(Index):
    """Looks into an index that another process writes. What is asked is answered, and not stored."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._files = ChannelFiles(path.parent / CHANNELS, read_only=True)

    async def __aenter__(self) -> ReadOnlyIndex:
        """Raises: DataTooNew, StorageFailed."""
        async with AsyncExitStack() as stack:
            with storage_errors():
                self._reader = await stack.enter_async_context(_connect(self._path, read_only=True))
                await self._reader.executescript("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON;")
                if await _version(self._reader) != len(MIGRATIONS):
                    raise StorageFailed("The bot that runs here is of an older version; stop it first.")
                [[self.id]] = await self._reader.execute_fetchall("SELECT id FROM folder")
            stack.callback(self._files.close)
            self._open = stack.pop_all()
        return self

    async def add_answer(self, channel: str, answer: Answer, *, asked_by: str, thread: str = "") -> str:
        return ""

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        raise StorageFailed("Another Engram process uses this data folder; stop it first.")
        yield


@asynccontextmanager
async def _connect(path: Path, *, read_only: bool = False) -> AsyncIterator[aiosqlite.Connection]:
    uri = database_uri(path, read_only=read_only)
    async with aiosqlite.connect(uri, uri=True, isolation_level=None) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


async def _version(connection: aiosqlite.Connection) -> int:
    """Of the file's schema, before anything in it is touched. Raises: DataTooNew."""
    [[version]] = await connection.execute_fetchall("PRAGMA user_version")
    if version > len(MIGRATIONS):
        raise DataTooNew
    return version


async def pages_in(content: Any, document_id: str) -> list[Page]:
    """content: of `Index._channel`."""
    rows = await content(
        ChannelFile.execute, "SELECT * FROM pages WHERE document_id = :id ORDER BY number", {"id": document_id}
    )
    return [page_of(dict(row)) for row in rows]


async def _answer_in(content: Any, answer_id: str, missing: str = NO_ANSWER) -> sqlite3.Row:
    """The row of an answer. missing: what to say where it is not there. Raises: NotFound."""
    for row in await content(ChannelFile.execute, "SELECT * FROM answers WHERE id = :id AND {own}", {"id": answer_id}):
        return row
    raise NotFound(missing)


def _understood(row: Any) -> str:
    """The question of an answer, made whole where it was a follow-up."""
    details = json.loads(row["details"] or "{}")
    return str(details.get("understood") or row["question"])


def _matches(rows: Iterable[sqlite3.Row]) -> list[WordMatch]:
    return [WordMatch(**row) for row in rows]


def _values(kind: type[Any], row: sqlite3.Row) -> dict[str, Any]:
    """The columns that are fields of a dataclass."""
    return {field.name: row[field.name] for field in fields(kind) if field.name in row.keys()}  # noqa: SIM118


def _job(row: sqlite3.Row) -> Job:
    values = _values(Job, row)
    values["stage"], values["kind"] = Stage(row["stage"]), JobKind(row["kind"])
    values["sources"] = tuple(json.loads(row["sources"]))
    values["document_id"] = row["document_id"] or ""
    values["delivered"] = bool(row["delivered"])
    return Job(**values)


def _weights(row: sqlite3.Row, **other: Any) -> WeightsRecord:
    return WeightsRecord(**_values(WeightsRecord, row) | {"sections": tuple(json.loads(row["sections"]))} | other)


def read_weights(connection: sqlite3.Connection) -> list[WeightsRecord]:
    """For a snapshot of the file; the connection's rows are sqlite3.Row."""
    return list(map(_weights, connection.execute("SELECT * FROM weights ORDER BY document_id")))


def _stored_answer(row: sqlite3.Row) -> Answer:
    values = json.loads(row["details"])
    values |= {
        "id": row["id"],
        "base": Completion(**values["base"]),
        "learned": Completion(**values["learned"]) if values["learned"] else None,
        "document": DocumentRef(**values["document"]) if values["document"] else None,
        "pages": None if values["pages"] is None else tuple(values["pages"]),
        "places": tuple(values.get("places", ())),
        "unusable": tuple(values.get("unusable", ())),
        "certainty": Certainty(values["certainty"]),
    }
    return Answer(**values)


def _correction(row: sqlite3.Row, names: Mapping[str, str], learned: Collection[str]) -> Correction:
    given_by = hashlib.sha256(row["given_by"].encode()).hexdigest()
    id = f"{row['answer_id']}-{given_by[:8]}"
    return Correction(
        id=id,
        document=names.get(row["document_id"], ""),
        document_id=row["document_id"] or "",
        question=_understood(row),
        answer=row["learned"] or "",
        correction=row["correction"],
        given_by=row["given_by"],
        learned=id in learned,
    )


def document_of(row: Any) -> Document:
    metrics = json.loads(row["metrics"])
    metrics.pop("peak_memory_mb", None)  # of documents from before 2026-11-25, always 0
    for name, value in metrics.items():
        if isinstance(value, list):
            metrics[name] = tuple(value)
    values = _values(Document, row)
    values["metrics"] = Metrics(**metrics)
    values["questions"] = tuple(json.loads(row["questions"]))
    values["formerly"] = tuple(json.loads(row["formerly"]))
    values["weights"] = _weights(row, document_id=row["id"], sha256=row["weights_sha256"])
    return Document(**values)
