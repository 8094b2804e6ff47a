"""Everything that one bot stores, from one engine to another: a data folder to servers, and back for a backup.

Channel by channel: each is read at one moment, written in one transaction, and read again to compare. What was begun
goes on where it stopped: a channel that is there is compared, and not written again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from typing import Any

from core.errors import SetupError, StorageFailed, WeightsDamaged
from core.ports import Learned, Weights
from core.types import Chunk, Document, Page
from storage.channel_files import COLUMNS as CONTENT_COLUMNS
from storage.channel_files import ChannelFile, insert_into
from storage.index import COLUMNS, Index, document_of, pages_in

MAX_TRIES = 5  # at a channel; one of its documents may be forgotten while its weights are read
Row = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """Where one bot's data are."""

    index: Index
    weights: Weights


@dataclass(frozen=True)
class Copied:
    channels: int
    documents: int
    answers: int


@dataclass(frozen=True)
class _Channel:
    """What is stored of a channel. Rows have the columns of their tables, without numbers that each engine gives."""

    rows: dict[str, list[Row]]  # of the index, by table
    texts: dict[str, tuple[list[Page], list[Chunk]]]  # by document
    files: dict[str, tuple[bytes, tuple[int, int]]]  # what was handed in, by job
    answers: list[Row]
    feedback: list[Row]


CHANNEL_ROWS = {  # rows of a table of the index
    "channels": "FROM channels WHERE id = :channel",
    "documents": "FROM documents WHERE channel = :channel ORDER BY id",
    "weights": """
        FROM weights WHERE document_id IN (SELECT id FROM documents WHERE channel = :channel) ORDER BY document_id
        """,
    "jobs": "FROM jobs WHERE channel = :channel ORDER BY number",
    "inbox": "FROM inbox WHERE channel = :channel ORDER BY key",
}
ANSWERS = f"SELECT {CONTENT_COLUMNS['answers']} FROM answers WHERE {{own}}"
FEEDBACK = f"""
SELECT {CONTENT_COLUMNS["feedback"]}, document_id FROM feedback JOIN answers ON answers.id = answer_id WHERE {{own}}
"""


async def transfer(source: Store, target: Store, note: Callable[[str], None] = lambda channel: None) -> Copied:
    """Copy all channels, and compare what came. Nobody else may write to the target meanwhile.

    Args:
        note: is given the name of each channel when it is there.

    Raises: SetupError, when the target holds another bot's data; StorageFailed, when something differs or is damaged.
    """
    await adopt(source.index, target.index)
    copied = [0, 0, 0]
    for channel in await source.index.channels(""):
        content = await _transfer_channel(source, target, channel)
        copied = [copied[0] + 1, copied[1] + len(content.texts), copied[2] + len(content.answers)]
        note(channel)
    async with target.index._transaction():
        await _insert(target.index, "inbox", await _rows(source.index, "inbox", ""))
    return Copied(*copied)


async def adopt(source: Index, target: Index) -> None:
    """Give the target the source's id, which stands in the files of weights. Raises: SetupError."""
    if target.id == source.id:
        return
    if await target.channels(""):
        raise SetupError("The database holds another bot's data; give an empty one. Nothing was changed.")
    async with target._transaction() as execute:
        await execute("UPDATE folder SET id = :id", {"id": source.id})
    target.id = source.id


async def _transfer_channel(source: Store, target: Store, channel: str) -> _Channel:
    """Raises: StorageFailed."""
    for _ in range(MAX_TRIES):
        content = await _read(source.index, channel)
        try:
            await _transfer_content(source, target, channel, content)
        except WeightsDamaged as problem:
            damaged = problem
        else:
            return content
    raise StorageFailed("The weights of a document are missing or damaged; forget it first.") from damaged


async def _transfer_content(source: Store, target: Store, channel: str, content: _Channel) -> None:
    """Raises: StorageFailed, WeightsDamaged."""
    is_there = channel in await target.index.channels(channel)
    weights = content.rows["weights"]
    if source.weights is not target.weights:
        records = await _rows(target.index, "weights", channel) if is_there else None
        weights = await asyncio.to_thread(_copy_weights, source.weights, target.weights, content, records)
    expected = replace(content, rows=content.rows | {"weights": weights})
    if not is_there:
        await _write(target.index, channel, expected)
    if await _read(target.index, channel) != expected:
        raise StorageFailed(f"The channel {channel} is not the same there; erase it there, and do this again.")


async def _rows(index: Index, table: str, channel: str) -> list[Row]:
    sql = f"SELECT {COLUMNS[table]} {CHANNEL_ROWS[table]}"
    return _plain(await index._read(sql, {"channel": channel}))


def _plain(rows: Iterable[Any]) -> list[Row]:
    """SQLite has 0 and 1 for what is false and true."""
    plain = []
    for row in map(dict, rows):
        truths = {name: bool(row[name]) for name in ("delivered", "shared", "helpful") if name in row}
        plain.append(row | truths)
    return plain


async def _insert(index: Index, table: str, rows: list[Row]) -> None:
    """An event that is there is the same."""
    more = " ON CONFLICT DO NOTHING" if table == "inbox" else ""
    await index._insert(insert_into(table, COLUMNS[table]) + more, rows)


async def _read(index: Index, channel: str) -> _Channel:
    async with index._channel(channel) as content:
        rows = {table: await _rows(index, table, channel) for table in CHANNEL_ROWS}
        texts, files = {}, {}
        for row in rows["documents"]:
            pages = await pages_in(content, row["id"])
            texts[row["id"]] = pages, await content(ChannelFile.chunks_of, row["id"])
        for row in rows["jobs"]:
            if file := await content(ChannelFile.job_file, row["id"]):
                files[row["id"]] = file
        answers = sorted(_plain(await content(ChannelFile.execute, ANSWERS)), key=itemgetter("id"))
        feedback = _plain(await content(ChannelFile.execute, FEEDBACK))
        feedback.sort(key=itemgetter("answer_id", "given_by"))
    return _Channel(rows, texts, files, answers, feedback)


async def _write(index: Index, channel: str, content: _Channel) -> None:
    async with index._channel(channel) as run:
        async with index._transaction():
            for table, rows in content.rows.items():
                await _insert(index, table, rows)
        sha256 = {row["id"]: row["sha256"] for row in (*content.rows["documents"], *content.rows["jobs"])}
        for id, (pages, chunks) in content.texts.items():
            await run(ChannelFile.add_document, id, sha256[id], pages, chunks, [*content.texts], create=True)
        for id, (data, pages_asked) in content.files.items():
            await run(ChannelFile.add_job_file, id, sha256[id], data, pages_asked, create=True)
        await run(ChannelFile.insert, {"answers": content.answers, "feedback": content.feedback}, create=True)


def _copy_weights(source: Weights, target: Weights, content: _Channel, there: list[Row] | None) -> list[Row]:
    """Blocking. Rows of weights as they are in the target, all of whose tensors were compared.

    Args:
        there: these rows, where the channel was copied before.

    Raises: StorageFailed, WeightsDamaged.
    """
    import torch

    records = {document.id: document.weights for document in _documents(content.rows["documents"], there or [])}
    rows = []
    for document in _documents(content.rows["documents"], content.rows["weights"]):
        tensors = source.load_all(document.weights, document.channel)
        if there is None:
            learned = Learned(tensors, document.weights.sections, document.metrics)
            base, learner = document.weights.base, document.weights.learner
            new = target.save(document.id, document.channel, learned, base=base, learner=learner)
        else:
            new = records.get(document.id, document.weights)
        copy = target.load_all(new, document.channel)
        if copy.keys() != tensors.keys() or not all(torch.equal(copy[name], tensors[name]) for name in tensors):
            raise StorageFailed(f"The weights of {document.name} are not the same there.")
        rows.append(asdict(new) | {"sections": json.dumps(new.sections)})
    return rows


def _documents(documents: list[Row], weights: list[Row]) -> list[Document]:
    """In the order of the weights' rows."""
    by_id = {row["id"]: row for row in documents}
    return [
        document_of(record | by_id[record["document_id"]] | {"weights_sha256": record["sha256"]}) for record in weights
    ]
