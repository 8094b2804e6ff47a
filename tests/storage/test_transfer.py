"""From a data folder to servers, and back: all of it, or it is said what is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

import storage.transfer
from core.errors import SetupError, StorageFailed
from core.types import ALL_PAGES, Document
from storage.folder import DataFolder
from storage.index import Index
from storage.keys import Keys
from storage.objects import Objects
from storage.postgres import PostgresIndex
from storage.transfer import Copied, Store, transfer
from storage.weights import Weights
from tests.storage.samples import learn, make_answer, make_job, make_learned, plant

TEXTS = ["The harbour opened in May.", "Captain Mara commands the Velarium. 港口"]


@asynccontextmanager
async def on_files(folder: DataFolder) -> AsyncIterator[Store]:
    async with Index(folder.index) as index:
        yield Store(index, Weights(folder.weights, index.id))


@asynccontextmanager
async def on_servers(database: str, bucket: str, keys: Keys) -> AsyncIterator[Store]:
    async with PostgresIndex(database, keys) as index:
        yield Store(index, Objects(bucket, index.id, keys))


async def fill(store: Store, channels: int = 3) -> list[Document]:
    documents = []
    for at in range(channels):
        channel = f"channel {at}"
        record = store.weights.save(f"d{at}", channel, make_learned(1.0 + at), base="base", learner="lora")
        documents.append(await learn(store.index, f"d{at}", TEXTS, channel, [b"code"], record))
        answer = await store.index.add_answer(channel, make_answer(documents[-1]), asked_by="ada", thread="7")
        await store.index.share_answer(channel, answer, by="ada")
        await store.index.feedback(channel, answer, by="bob", helpful=False, correction="Bob.")
        await store.index.change_setting(channel, "style", "short")
        await store.index.add_job(make_job(f"waiting {at}", channel), b"%PDF-" + bytes(3 << 20), pages=(2, 3))
        await store.index.receive(f"slack:{at}", "event", channel)
    await store.index.receive("slack:event", "of no channel")
    return documents


async def said_of(store: Store, channel: str, document: Document) -> list[object]:
    """What a person sees of a channel."""
    index, weights = store.index, store.weights
    [known] = await index.documents(channel)
    hits = await index.candidates(channel, "Who is the captain of the Velarium?")
    return [
        replace(known, weights=document.weights),
        weights.load(known.weights, channel, base="base", section=0)["up.0"].item(),
        [(hit.key, hit.text, hit.code, round(hit.score, 9)) for hit in hits],
        await index.pages(document.id),
        await index.corrections(channel),
        await index.thread_questions(channel, "7", 9),
        await index.channel_settings(channel),
        await index.jobs(channel=channel, unfinished=False),
    ]


async def test_a_data_folder_moves_to_servers_and_back_as_it_was(
    folder: DataFolder, database: str, keys: Keys, bucket: str, tmp_path
) -> None:
    async with on_files(folder) as files, on_servers(database, bucket, keys) as servers:
        documents = await fill(files)
        before = [await said_of(files, document.channel, document) for document in documents]
        assert await transfer(files, servers) == Copied(channels=3, documents=3, answers=3)
        assert [await said_of(servers, document.channel, document) for document in documents] == before
        assert await servers.index.job_file("waiting 1") == (b"%PDF-" + bytes(3 << 20), (2, 3))
        assert len(await servers.index.unhandled("slack:")) == 4 and servers.index.id == files.index.id
        with DataFolder(tmp_path / "back") as second:
            async with on_files(second) as back:
                await transfer(servers, back)
                assert [await said_of(back, document.channel, document) for document in documents] == before


async def test_what_was_interrupted_goes_on_where_it_stopped(
    folder: DataFolder, database: str, keys: Keys, bucket: str
) -> None:
    async with on_files(folder) as files, on_servers(database, bucket, keys) as servers:
        documents = await fill(files, 4)
        done: list[str] = []

        def stop(channel: str) -> None:
            done.append(channel)
            if len(done) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await transfer(files, servers, stop)
        assert await servers.index.channels("") == done
        moving = asyncio.create_task(transfer(files, servers))
        await asyncio.sleep(0.1)
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        await transfer(files, servers)
        assert await transfer(files, servers) == Copied(4, 4, 4)
        assert [(await servers.index.documents(document.channel))[0].id for document in documents] == [
            document.id for document in documents
        ]


async def test_what_changed_there_since_is_not_taken_for_a_copy(
    folder: DataFolder, database: str, keys: Keys, bucket: str
) -> None:
    async with on_files(folder) as files, on_servers(database, bucket, keys) as servers:
        await fill(files)
        await transfer(files, servers)
        await servers.index._execute("UPDATE answers SET asked_by = 'eve' WHERE channel = 'channel 1'")
        with pytest.raises(StorageFailed, match="channel 1"):
            await transfer(files, servers)


async def test_another_bots_database_is_refused(folder: DataFolder, database: str, keys: Keys, bucket: str) -> None:
    async with on_files(folder) as files, on_servers(database, bucket, keys) as servers:
        await fill(files)
        await servers.index.add_job(make_job("theirs"), b"%PDF-")
        with pytest.raises(SetupError, match="another bot's"):
            await transfer(files, servers)
        assert await servers.index.channels("") == ["here"]


async def test_damaged_weights_are_not_moved(
    folder: DataFolder, database: str, keys: Keys, bucket: str, monkeypatch
) -> None:
    monkeypatch.setattr(storage.transfer, "MAX_TRIES", 1)
    async with on_files(folder) as files, on_servers(database, bucket, keys) as servers:
        await fill(files, 1)
        (folder.weights / "d0.safetensors").write_bytes(b"changed")
        with pytest.raises(StorageFailed, match="damaged"):
            await transfer(files, servers)
        assert await servers.index.channels("") == []


async def test_the_index_alone_moves_too(folder: DataFolder, database: str, keys: Keys) -> None:
    async with on_files(folder) as files, PostgresIndex(database, keys) as index:
        await plant(files.index, "d1")
        await transfer(files, Store(index, files.weights))
        assert (await index.documents("here"))[0] == (await files.index.documents("here"))[0]
        job = (await index.jobs(unfinished=False))[0]
        assert job.delivered is False and ALL_PAGES == (1, 0)
