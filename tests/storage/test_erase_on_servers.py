"""What is erased is nowhere to be read: not in the database's files and log, not in an older copy of them, not in the
versions that a bucket keeps. Only a key is destroyed for good, and keys lie in none of these."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import torch

from core.errors import EngramError, KeyLost, WeightsDamaged
from core.ports import Learned
from storage.keys import Keys
from storage.objects import Objects
from storage.postgres import PostgresIndex
from storage.workers import Queues, Workers
from tests.objects import BUCKET
from tests.postgres import FAST, Server, running
from tests.storage.samples import METRICS, make_answer, plant

pytestmark = pytest.mark.timeout(400)  # all bytes of a database and its log are searched for 300 words, twice
PERSON = 97  # the canary that is a person's id, which is not sealed: it shows that the search finds what is there


@pytest.fixture
def archiving(tmp_path: Path) -> Iterator[Server]:
    """A server that archives its write-ahead log."""
    with running(FAST.replace("full_page_writes=off", "full_page_writes=on")) as server:
        archive = server.folder / "archive"
        archive.mkdir(mode=0o777)
        archive.chmod(0o777)
        server.sql("ALTER SYSTEM SET archive_mode = on")
        server.sql(f"ALTER SYSTEM SET archive_command = 'cp %p {archive}/%f'")
        server.stop()
        server.start()
        yield server


def versions(store: Mapping[str, str]) -> Iterator[bytes]:
    """Every version of every object in the bucket."""
    client = boto3.client("s3", endpoint_url=store["AWS_ENDPOINT_URL"], region_name=store["AWS_REGION"])
    for page in client.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
        for version in page["Versions"]:
            named = {"Key": version["Key"], "VersionId": version["VersionId"]}
            yield client.get_object(Bucket=BUCKET, **named)["Body"].read()


def stored(server: Server, store: Mapping[str, str]) -> bytes:
    """Every byte of the database's folder, its archive, and the bucket."""
    server.sql("CHECKPOINT")
    server.sql("SELECT pg_switch_wal()")
    parts = [*versions(store)]
    for path in [*server.data.rglob("*"), *(server.folder / "archive").rglob("*")]:
        with suppress(FileNotFoundError):  # a note that a part of the log is to be archived
            parts.append(path.read_bytes() if path.is_file() else b"")
    return b"\n".join(parts)


def found(words: list[str], everything: bytes) -> list[str]:
    return [word for word in words if word.encode() in everything]


async def plant_everywhere(index: PostgresIndex, weights: Objects, name: str, channel: str) -> list[str]:
    """As `plant`, and in weights, an event that waits, one that was handled, and a question that no worker took."""
    words = await plant(index, name, channel)
    [document] = await index.documents(channel)
    numbers = torch.tensor([*words[10].encode()], dtype=torch.uint8)
    weights.save(document.id, channel, Learned({"0/up": numbers}, (0,), METRICS), base="base", learner="lora")
    await index.receive(f"slack:{name}", words[11], channel)
    await index.receive(f"slack:handled {name}", words[12], channel)
    await index.handled(f"slack:handled {name}")
    await index.feedback(channel, await index.add_answer(channel, make_answer(document), asked_by="bob"), by="bob",
                         helpful=False, correction=words[13])  # fmt: skip
    await index.add_answer(channel, make_answer(None, words[14]), asked_by="bob")
    return words


async def test_nothing_is_left_to_read_in_database_log_archive_and_old_versions(
    archiving: Server, bucket: str, store: dict[str, str], tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys")
    async with PostgresIndex(archiving.url(), keys) as index, Queues(archiving.url()) as queues:
        weights = Objects(bucket, index.id, keys)
        words = await plant_everywhere(index, weights, "d1", "reset")
        forgotten = await plant_everywhere(index, weights, "d2", "forgotten")
        kept = await plant_everywhere(index, weights, "d3", "kept")
        async with Workers(queues, index) as workers:
            asking = asyncio.create_task(workers.ask("reset", words[15]))
            while not await queues.execute("SELECT 1 FROM calls WHERE channel = 'reset'"):
                await asyncio.sleep(0.05)
            everything = stored(archiving, store)
            for planted in (words, forgotten, kept):
                assert found(planted, everything) == [planted[PERSON]]
            asking.cancel()
            with suppress(asyncio.CancelledError, EngramError):
                await asking
        secrets = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
        assert [name for name, secret in secrets.items() if secret in everything] == []

        for record in [*await index.reset("reset"), await index.forget("forgotten", "d2")]:
            weights.delete(record.document_id)
        destroyed = [secret for name, secret in secrets.items() if not (tmp_path / "keys" / name).exists()]
        everything = stored(archiving, store)
        for planted in (words, forgotten, kept):
            assert found(planted, everything) == [planted[PERSON]]
        left = b"".join(path.read_bytes() for path in (tmp_path / "keys").iterdir())
        assert [secret for secret in destroyed if secret in everything + left] == []
        assert len(destroyed) == 4 + 3  # for weights, a document, events and a channel's other answers; the first three

        [hit, *_] = await index.candidates("kept", kept[50])
        assert hit.document.name == kept[96] and kept[50] in hit.text
        assert [body for _, body in await index.unhandled("slack:d")] == [forgotten[11], kept[11]]


async def test_an_older_copy_of_the_database_and_of_objects_holds_nothing_readable(
    bucket: str, store: dict[str, str], tmp_path: Path
) -> None:
    """As a replica that was cut off, a backup, or a recovery to a point in time."""
    with running() as server:
        keys = Keys(tmp_path / "keys")
        async with PostgresIndex(server.url(), keys) as index:
            weights = Objects(bucket, index.id, keys)
            for name in ("reset", "forgotten", "kept"):
                await plant_everywhere(index, weights, name, name)
            [record] = [one for one in await index.all_weights() if one.document_id == "reset"]
            old_objects = list(versions(store))
        server.stop()
        subprocess.run(["cp", "-a", server.data, server.folder / "copy"], check=True)
        server.start()
        async with PostgresIndex(server.url(), keys) as index:
            await index.reset("reset")
            await index.forget("forgotten", "forgotten")
            weights.delete("reset")
        server.stop()
        server.data.rename(server.folder / "today")
        (server.folder / "copy").rename(server.data)
        server.start()
        async with PostgresIndex(server.url(), Keys(tmp_path / "keys")) as index:
            for name in ("reset", "forgotten"):
                assert [document.name for document in await index.documents(name)] == ["?"]
                with pytest.raises(KeyLost):
                    await index.pages(name)
                with pytest.raises(KeyLost):
                    await index.candidates(name, "filling")
            assert len(await index.pages("kept")) == 94
            assert {job.name for job in await index.jobs(channel="reset", unfinished=False)} == {"?"}
        with pytest.raises(WeightsDamaged):
            weights.load(replace(record, path="weights/reset"), "reset", base="base", section=0)
        assert len(list(versions(store))) >= len(old_objects)
