"""The index on PostgreSQL: for several processes and machines. It shares the SQL of `storage.index`, and adds what
PostgreSQL does in its own way: a channel's content is rows instead of a file, and changes in the same transaction.

Who changes a channel holds its advisory lock until the commit, so that processes take turns as tasks do in one.

What is said, asked and named is sealed on its way there and opened on its way back, with keys that are not there
(`storage.keys`): one for each document, one for a channel's other answers, one for what is on its way. To erase is to
remove rows, and then to destroy their keys.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from procrastinate.schema import SchemaManager
from psycopg.errors import DiskFull, IdleInTransactionSessionTimeout, ReadOnlySqlTransaction
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolTimeout

from core.errors import DataTooNew, KeyLost, NotFound, SetupError, StorageFailed, StorageUnavailable
from core.ports import Used
from core.search.ranking import ChunkKey
from core.search.words import spaced
from core.types import ALL_PAGES, Chunk, Job, Page, Stage
from storage.channel_files import COLUMNS, column, document_rows, insert_into, valid_text, valid_values
from storage.connections import Connection, pool
from storage.index import ADD_CHANNEL, Index
from storage.keys import MARK, Key, Keys, key_id
from storage.words import matches, places_of, tokens

T = TypeVar("T")

SCRIPTS = ("postgres.sql", "workers.sql", "postgres_retries.sql")
MIGRATIONS = tuple(Path(__file__).with_name(name) for name in SCRIPTS)  # the n-th makes version n
MAX_CONNECTIONS = 8  # of one process
ADD_PAUSES = (0.5, 2.0, 8.0)  # seconds between tries to store what was handed in
PART_SIZE = 1 << 20  # bytes of a file that are sent at once: the event loop waits for each
MIN_SERVER_VERSION = 140000  # PostgreSQL 14, in the form of server_version_num
MAX_CLOCK_DIFFERENCE = 5.0  # seconds by which clocks may differ
MAX_LAG = 60.0  # seconds by which a replica may be behind
ABOUT = """
SELECT current_setting('server_version_num')::integer AS version, extract(epoch FROM clock_timestamp())::float8 AS now,
    current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commits,
    coalesce((SELECT extract(epoch FROM max(replay_lag)) FROM pg_stat_replication), 0)::float8 AS lag,
    (SELECT count(*) FROM pg_stat_replication WHERE state IS NULL) AS hidden
"""
NO_DOCUMENT = ""  # keys.subject for answers without a document
EVENTS = "events"  # keys.subject for inbox events and calls
# Columns of jobs, documents and the inbox that hold sealed text -> what stands for it when its key is destroyed
SEALED = {"name": "?", "questions": "[]", "error": "", "body": ""}
SEALED_CONTENT = {  # columns that are sealed with the key of a document, by table
    "pages": ("text", "places"),
    "chunks": ("text", "code"),
    "answers": ("question", "learned", "base", "details"),
    "feedback": ("correction",),
}
SEALED_PLACES = "sealed_places"  # the only bytes without their key's id
UNNEEDED_KEYS = """
UPDATE keys SET erased = TRUE WHERE channel = :channel AND NOT erased AND (
    subject = :events OR NOT EXISTS (SELECT 1 FROM channels WHERE id = :channel) OR subject != ''
    AND NOT EXISTS (SELECT 1 FROM documents WHERE channel = :channel AND sha256 = subject)
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE channel = :channel AND sha256 = subject)
)
"""
SAMPLED_KEYS = 20  # keys that are looked for at the start
OPENING, CLAIMING = "engram: opening", "engram: claiming a job"  # locks beside those of the channels


class PostgresIndex(Index):
    """`async with PostgresIndex(url, keys) as index`; implements core.ports.Index. A commit is on the server's disk
    when it returns.

    Every method raises StorageFailed when the server can't be reached, or refuses; then nothing was changed.
    """

    _interrupted = "NOT EXISTS (SELECT 1 FROM procrastinate_jobs WHERE id = ticket AND status = 'doing')"

    def __init__(self, url: str, keys: Keys) -> None:
        """url: postgresql://user:password@host/database"""
        self._keys = keys
        self._pool = pool(url, MAX_CONNECTIONS)
        self._current: ContextVar[Connection | None] = ContextVar("connection", default=None)
        self._unerased: set[str] = set()  # channels whose rows are to follow their documents
        self._erased_at = 0.0
        self._finishing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PostgresIndex:
        """Raises: DataTooNew, SetupError, StorageFailed."""
        await self._pool.open()
        try:
            async with self._transaction() as execute:
                await self._lock(OPENING)
                await self._migrate(await self._version())
                [folder] = await execute("SELECT id FROM folder")
                self.id = folder["id"]
            await self._require_keys()
            await self._try_to_finish_erase()
        except BaseException:
            await self._pool.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_finishing()
        await self._pool.close()

    async def _require_keys(self) -> None:
        """Raises: SetupError, where there is none of this database's."""
        rows = await self._read("SELECT id FROM keys WHERE NOT erased LIMIT :sample", {"sample": SAMPLED_KEYS})
        for row in rows:
            with suppress(KeyLost):  # erased since, where the database is an older copy
                await self.key_of(row["id"])
                return
        if rows:
            raise SetupError(
                "The keys of this database are elsewhere: give all processes the same ENGRAM_KEYS, or put the folder "
                "back. Nothing was changed."
            )

    async def _version(self) -> int:
        """Raises: DataTooNew."""
        if not await self._read("SELECT 1 FROM pg_tables WHERE schemaname = current_schema AND tablename = 'folder'"):
            return 0
        [folder] = await self._read("SELECT version FROM folder")
        if folder["version"] > len(MIGRATIONS):
            raise DataTooNew
        return int(folder["version"])

    async def _migrate(self, version: int) -> None:
        for script in MIGRATIONS[version:]:
            async with self._connection() as connection:
                if script.stem == "workers":
                    await connection.execute(SchemaManager.get_schema().encode())
                await connection.execute(script.read_bytes())
        await self._execute("UPDATE folder SET version = :version", {"version": len(MIGRATIONS)})

    async def is_sound(self) -> bool:
        """PostgreSQL checks its pages itself, where checksums are on."""
        return True

    # What differs from SQLite

    async def next_job(self) -> Job | None:
        async with self._transaction():
            await self._lock(CLAIMING)
            return await super().next_job()

    async def next_job_for(self, ticket: int) -> Job | None:
        """As `next_job`, for a ticket of the queue. What it claimed before was interrupted."""
        values = {"ticket": ticket}
        await self._execute("UPDATE jobs SET ticket = NULL WHERE ticket = :ticket AND NOT final", values)
        await self.requeue_interrupted()
        async with self._transaction() as execute:
            job = await self.next_job()
            if job:
                await execute("UPDATE jobs SET ticket = :ticket WHERE id = :id", values | {"id": job.id})
        return job

    async def ticket(self, job_id: str) -> int | None:
        """That works on a job, or did."""
        rows = await self._read("SELECT ticket FROM jobs WHERE id = :id", {"id": job_id})
        return rows[0]["ticket"] if rows else None

    async def will_save(self, document_id: str, job: Job) -> None:
        async with self._transaction() as execute:
            await execute(
                "INSERT INTO unused_weights (document_id, job_id, attempt) VALUES (:document_id, :job_id, :attempt)",
                {"document_id": document_id, "job_id": job.id, "attempt": job.attempts},
            )

    async def unused_weights(self) -> list[str]:
        """Without those that a worker is writing."""
        rows = await self._read(
            """
            SELECT document_id FROM unused_weights
            WHERE document_id NOT IN (SELECT document_id FROM weights) AND NOT EXISTS (
                SELECT 1 FROM jobs WHERE id = job_id AND attempts = attempt AND NOT final AND stage != 'queued'
            )
            """
        )
        return column(rows, "document_id")

    async def add_job(
        self, job: Job, data: bytes = b"", *, pages: tuple[int, int] = ALL_PAGES, again: bool = False
    ) -> Job:
        """Where the connection is lost on the way, it is tried again."""
        for pause in ADD_PAUSES:
            with suppress(StorageUnavailable):
                return await super().add_job(job, data, pages=pages, again=again)
            await asyncio.sleep(pause)
            with suppress(StorageUnavailable, NotFound):  # it is there, and only the reply was lost
                return await self.job(job.id)
        return await super().add_job(job, data, pages=pages, again=again)

    async def job_stage(
        self, job_id: str, stage: Stage, *, error: str = "", attempt: int = 0, retry: bool = False
    ) -> None:
        async with self._transaction() as execute:
            if error:
                for row in await execute("SELECT channel, sha256 FROM jobs WHERE id = :id", {"id": job_id}):
                    error = (await self.key(row["channel"], row["sha256"])).seal_text(valid_text(error))
            await super().job_stage(job_id, stage, error=error, attempt=attempt, retry=retry)

    def clock(self) -> float:
        """That of all machines."""
        return time.time()

    @asynccontextmanager
    async def usage(self, key: str) -> AsyncIterator[Used]:
        """Implements core.ports.Usage."""
        async with self._transaction() as execute:
            [row] = await execute(
                """
                INSERT INTO usage (key) VALUES (:key) ON CONFLICT (key) DO UPDATE SET key = excluded.key
                RETURNING used
                """,
                {"key": key},
            )
            used = [(until, amount) for until, amount in json.loads(row["used"]) if until > self.clock()]
            yield used
            await execute(
                "UPDATE usage SET used = :used, until = :until WHERE key = :key",
                {"key": key, "used": json.dumps(used), "until": used[-1][0] if used else 0.0},
            )

    async def drop_old_usage(self) -> None:
        await self._execute("DELETE FROM usage WHERE until < :now", {"now": self.clock()})

    async def forget_person(self, person: str) -> int:
        async with self._transaction() as execute:
            remarks = await execute("DELETE FROM feedback WHERE given_by = :person RETURNING 1", {"person": person})
            answers = await execute("DELETE FROM answers WHERE asked_by = :person RETURNING 1", {"person": person})
        return len(remarks) + len(answers)

    async def _with_reserve(self, erase: Callable[..., Awaitable[T]], *what: str) -> T:
        return await erase(*what)

    async def _note_erase(self, execute: Any, channel: str) -> None:
        """What nothing is sealed with any more is to be destroyed; events that wait are sealed anew."""
        key = {"channel": channel, "events": EVENTS}
        await execute(UNNEEDED_KEYS, key)
        for row in await execute("SELECT key, body FROM inbox WHERE channel = :channel AND body != ''", key):
            await execute("UPDATE inbox SET body = :body WHERE key = :key AND body != ''", row | key)

    async def finish_erase(self) -> None:
        """Destroy the keys of what was erased. What the server's own files and logs still hold can't be read then."""
        ids = column(await self._read("SELECT id FROM keys WHERE erased"), "id")
        if ids:
            await asyncio.to_thread(self._keys.destroy, ids)
            await self._execute("DELETE FROM keys WHERE id = ANY(:ids)", {"ids": ids})

    async def _truncate_log(self) -> None:
        """PostgreSQL looks after its log itself."""

    # The connections

    @asynccontextmanager
    async def _channel(self, channel: str) -> AsyncIterator[Any]:
        async with self._transaction():
            await self._lock(channel)
            rows = ChannelRows(channel, self)

            async def run(do: Callable[..., Any], *arguments: Any, create: bool = False) -> Any:
                return await getattr(rows, do.__name__)(*arguments)

            yield run
            if valid_text(channel) in self._unerased:
                await rows.keep(await self._known(channel), await self._waiting(channel))
                self._unerased.discard(valid_text(channel))

    async def _lock(self, name: str) -> None:
        """Until the transaction ends, nobody else has this lock."""
        await self._execute("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))", {"name": name})

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """The one of the transaction that this task is in, or another one, on which a statement commits by itself."""
        with _postgres_errors():
            if connection := self._current.get():
                yield connection
                return
            async with self._pool.connection() as connection:
                before = self._current.set(connection)
                try:
                    yield connection
                finally:
                    self._current.reset(before)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        """`async with self._transaction() as execute`; in another one, what is raised undoes this part only. Until it
        ends, nobody erases the keys that it seals with."""
        async with self._connection() as connection, connection.transaction():
            yield self._execute

    @asynccontextmanager
    async def _transaction_without_savepoint(self) -> AsyncIterator[Any]:
        """As `_transaction`; in another transaction a part of that, without a savepoint."""
        async with self._connection() as connection:
            is_in_one = connection.info.transaction_status is not TransactionStatus.IDLE
            async with nullcontext() if is_in_one else connection.transaction():
                yield self._execute

    async def _execute(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Any]:
        """What it seals has the channel, and of a document the sha256, among its values. Raises: KeyLost."""
        async with self._connection() as connection:
            sealed = await self._sealed(values or {})
            cursor = await connection.execute(_postgres(sql), sealed, binary=True)
            return await self._opened(await cursor.fetchall() if cursor.description else [])

    async def _insert(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None:
        async with (
            self._transaction_without_savepoint(),
            self._connection() as connection,
            connection.cursor() as cursor,
        ):
            await cursor.executemany(_postgres(sql), [await self._sealed(row) for row in rows])

    async def copy(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows, within a transaction."""
        async with self._connection() as connection, connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            for row in rows:
                await copy.write_row(row)

    async def _read(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Any]:
        """A statement that changes nothing: outside of a transaction it is sent again where its connection is lost."""
        try:
            return await self._execute(sql, values)
        except StorageUnavailable as error:
            if self._current.get() or isinstance(error.__cause__, PoolTimeout):
                raise
            return await self._execute(sql, values)

    # What is sealed

    async def key(self, channel: str, subject: str = EVENTS) -> Key:
        """To seal with, made where there is none. Until the transaction ends, nobody marks it as erased."""
        values = {"channel": channel, "subject": subject}
        async with self._transaction_without_savepoint() as execute:
            while True:
                rows = await execute(
                    "SELECT id FROM keys WHERE channel = :channel AND subject = :subject AND NOT erased FOR SHARE",
                    values,
                )
                if rows:
                    return await self.key_of(rows[0]["id"])
                key = await asyncio.to_thread(self._keys.make)
                if channel:
                    await execute(ADD_CHANNEL, values)  # so that it is erased with it
                await execute(
                    """
                    INSERT INTO keys (id, channel, subject) VALUES (:id, :channel, :subject)
                    ON CONFLICT (channel, subject) WHERE NOT erased DO NOTHING
                    """,
                    values | {"id": key.id},
                )

    async def key_of(self, id: str) -> Key:
        """Raises: KeyLost."""
        key = self._keys.kept(id)
        return key if key else await asyncio.to_thread(self._keys.get, id)

    async def open(self, sealed: Sequence[bytes]) -> list[str | bytes]:
        """As it was sealed. Raises: KeyLost."""
        for id in set(map(key_id, sealed)):
            await self.key_of(id)
        return [self._keys.open_value(value) for value in sealed]

    async def _sealed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        valid = _valid(values)
        if "channel" in valid:
            for name in SEALED:
                if valid.get(name):
                    key = await self.key(valid["channel"], valid.get("sha256", EVENTS))
                    valid[name] = key.seal_text(valid[name])
        return valid

    async def _opened(self, rows: list[Any]) -> list[Any]:
        """Raises: KeyLost, but for names and the like: what is listed may be erased at this moment."""
        for row in rows:
            for name, value in row.items():
                if sealed := _sealed_bytes(name, value):
                    try:
                        [row[name]] = await self.open([sealed])
                    except KeyLost:
                        if name not in SEALED:
                            raise
                        row[name] = SEALED[name]
        return rows


async def about_server(url: str) -> tuple[list[str], str]:
    """What is wrong with a server, one sentence each, and what it is. Changes nothing."""
    try:
        async with await Connection.connect(url) as connection:
            [row] = await (await connection.execute(ABOUT)).fetchall()
    except psycopg.Error:
        return ["it can't be reached, or refuses this user"], ""
    problems = []
    if row["version"] < MIN_SERVER_VERSION:
        problems.append(f"it is older than PostgreSQL {MIN_SERVER_VERSION // 10_000}")
    if abs(row["now"] - time.time()) > MAX_CLOCK_DIFFERENCE:
        problems.append(f"its clock differs by {row['now'] - time.time():+.0f} s")
    if row["fsync"] == "off" or row["commits"] == "off":
        problems.append("it may lose what it committed: fsync or synchronous_commit is off")
    if row["lag"] > MAX_LAG:
        problems.append(f"a replica is {row['lag']:.0f} s behind")
    said = f"PostgreSQL {row['version'] // 10_000}"
    if row["hidden"]:
        said += "; how far its replicas are behind is not shown to this user: grant it pg_monitor"
    return problems, said


class ChannelRows:
    """What one channel's file holds (`storage.channel_files.ChannelFile`), as rows: the same methods, within a
    transaction that has the channel's lock."""

    def __init__(self, channel: str, index: PostgresIndex) -> None:
        self._channel = channel
        self._index = index

    async def _execute(self, sql: str, **values: Any) -> list[Any]:
        return await self._index._execute(sql, values | {"channel": self._channel})

    async def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Any]:
        """{own}: where the rows are this channel's."""
        return await self._execute(sql.format(own="channel = :channel"), **(values or {}))

    async def insert(self, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Rows of `channel_files.COLUMNS`, by table, and of `feedback` the document's id."""
        await self._insert(rows, {})

    async def _insert(self, rows: Mapping[str, Iterable[Mapping[str, Any]]], keys: dict[str | None, Key]) -> None:
        """keys: by document, of those that have no row yet."""
        for table, table_rows in rows.items():
            columns = COLUMNS[table] if table == "feedback" else f"{COLUMNS[table]}, channel"
            sealed = []
            for row in table_rows:
                document_id = row["document_id"]
                keys[document_id] = keys.get(document_id) or await self._key(document_id)
                values = {name: _sealed_value(keys[document_id], row[name]) for name in SEALED_CONTENT[table]}
                sealed.append({**row, **values, "channel": self._channel})
            await self._index._insert(insert_into(table, columns), sealed)

    async def _key(self, document_id: str | None) -> Key:
        """Of a document and what was said of it; of what belongs to none."""
        if document_id is None:
            return await self._index.key(self._channel, NO_DOCUMENT)
        [row] = await self._execute("SELECT sha256 FROM documents WHERE id = :id", id=document_id)
        return await self._index.key(self._channel, row["sha256"])

    # What was handed in

    async def add_job_file(self, job_id: str, sha256: str, data: bytes, pages: tuple[int, int]) -> None:
        first, last = pages
        key = await self._index.key(self._channel, sha256)
        for part, start in enumerate(range(0, max(1, len(data)), PART_SIZE)):
            await self._execute(
                "INSERT INTO job_files (job_id, part, channel, data, first_page, last_page) "
                "VALUES (:id, :part, :channel, :data, :first, :last)",
                id=job_id,
                part=part,
                data=key.seal_value(data[start : start + PART_SIZE]),
                first=first,
                last=last,
            )

    async def job_file(self, job_id: str) -> tuple[bytes, tuple[int, int]] | None:
        parts: list[bytes] = []
        sql = "SELECT * FROM job_files WHERE job_id = :id AND part = :part AND channel = :channel"
        while rows := await self._execute(sql, id=job_id, part=len(parts)):
            [row] = rows
            parts.append(row["data"])
            pages = row["first_page"], row["last_page"]
        return (b"".join(parts), pages) if parts else None

    async def keep_job_files(self, job_ids: Collection[str]) -> None:
        sql = "DELETE FROM job_files WHERE channel = :channel AND NOT job_id = ANY(:ids)"
        await self._execute(sql, ids=[*job_ids])

    # Text

    async def add_document(
        self, document_id: str, sha256: str, pages: Sequence[Page], chunks: Sequence[Chunk], known: Collection[str]
    ) -> None:
        key = await self._index.key(self._channel, sha256)
        await self._insert(document_rows(document_id, pages, chunks), {document_id: key})
        words = await asyncio.to_thread(tokens, [spaced(valid_text(chunk.text)) for chunk in chunks])
        await self._execute(
            "INSERT INTO word_counts (document_id, channel, counts, key) VALUES (:id, :channel, :counts, :key)",
            id=document_id,
            counts=list(map(len, words)),
            key=key.id,
        )
        rows = []
        for word, places in places_of(words).items():
            rows.append((self._channel, key.hash(word), document_id, key.seal(array("I", places).tobytes())))
        rows.sort()  # their order says nothing of the text's
        await self._index.copy("COPY words (channel, word, document_id, sealed_places) FROM STDIN", rows)

    async def chunks(self, places: Sequence[ChunkKey]) -> list[tuple[str, bytes]]:
        documents, positions = zip(*places, strict=True) if places else ((), ())
        rows = await self._execute(
            """
            SELECT text, code
            FROM unnest(:documents::text[], :positions::integer[]) WITH ORDINALITY AS wanted (id, position, number)
            LEFT JOIN chunks ON chunks.document_id = wanted.id AND chunks.position = wanted.position
                AND channel = :channel
            ORDER BY wanted.number
            """,
            documents=list(documents),
            positions=list(positions),
        )
        return [(row["text"] or "", row["code"] or b"") for row in rows]

    async def chunks_of(self, document_id: str) -> list[Chunk]:
        rows = await self._execute("SELECT * FROM chunks WHERE document_id = :id ORDER BY position", id=document_id)
        return [
            Chunk(row["position"], row["text"], (), row["start_page"], row["end_page"], row["code"]) for row in rows
        ]

    async def search(self, words: Sequence[str], document_ids: Collection[str]) -> list[dict[str, Any]]:
        phrases = await asyncio.to_thread(tokens, words)
        counts: dict[str, list[int]] = {}
        keys: dict[str, Key] = {}
        token_of: dict[tuple[str, int], str] = {}  # by key and hash
        for row in await self._execute("SELECT document_id, counts, key FROM word_counts WHERE channel = :channel"):
            key = await self._index.key_of(row["key"])
            counts[row["document_id"]], keys[row["document_id"]] = row["counts"], key
            for token in chain.from_iterable(phrases):
                token_of[key.id, key.hash(token)] = token
        rows = await self._execute(
            "SELECT word, document_id, sealed_places FROM words WHERE channel = :channel AND word = ANY(:words)",
            words=[word for _, word in token_of],
        )
        places = {}
        for row in rows:
            key = keys[row["document_id"]]
            places[row["document_id"], token_of[key.id, row["word"]]] = array("I", key.open(row[SEALED_PLACES]))
        asked = dict(zip(words, phrases, strict=True))
        ranked = await asyncio.to_thread(matches, asked, counts, places, document_ids)
        return [match._asdict() for match in ranked]

    async def learned_corrections(self) -> list[str]:
        rows = await self._execute("SELECT correction FROM pages WHERE channel = :channel AND correction != ''")
        return column(rows, "correction")

    # Erase

    async def keep(self, document_ids: Collection[str], job_ids: Collection[str]) -> None:
        """Erase all answers of other documents, and all other files: text went with its document."""
        await self._execute(
            "DELETE FROM answers WHERE channel = :channel AND NOT document_id = ANY(:ids)", ids=[*document_ids]
        )
        await self.keep_job_files(job_ids)


@contextmanager
def _postgres_errors() -> Iterator[None]:
    """Raises: StorageFailed."""
    try:
        yield
    except DiskFull as error:
        raise StorageFailed("The database's disk is full; nothing was changed.") from error
    except (psycopg.OperationalError, IdleInTransactionSessionTimeout, ReadOnlySqlTransaction) as error:
        raise StorageUnavailable("The database can't be reached; nothing was changed.") from error
    except psycopg.Error as error:
        raise StorageFailed from error


@cache
def _postgres(sql: str) -> str:
    """SQL with `:name` for values, as psycopg has it."""
    return re.sub(r"(?<!:):(?=[a-z])(\w+)", r"%(\1)s", sql.replace("%", "%%"))


def _valid(values: Mapping[str, Any]) -> dict[str, Any]:
    """PostgreSQL's text holds no NUL."""
    valid = valid_values(values)
    for name, value in valid.items():
        if isinstance(value, str):
            valid[name] = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return valid


def _sealed_value(key: Key, value: str | bytes | None) -> bytes | None:
    if value is None:
        return None
    return key.seal_value(valid_text(value) if isinstance(value, str) else value)


def _sealed_bytes(column: str, value: Any) -> bytes:
    """What is sealed in a column; nothing where it is not."""
    if isinstance(value, bytes) and column != SEALED_PLACES:
        return value
    if isinstance(value, str) and column in SEALED and value.startswith(MARK):
        return base64.b64decode(value.removeprefix(MARK))
    return b""
