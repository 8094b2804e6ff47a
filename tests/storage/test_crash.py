"""kill -9 at random points between a job and its acknowledgement. `torture` does it more often."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.check import check_folder
from storage.folder import DataFolder
from storage.index import Index
from storage.keys import Keys
from storage.objects import Objects
from storage.postgres import PostgresIndex
from storage.weights import Weights

KILLS = 6


@contextmanager
def crashing(*places: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("crash.py")), *map(str, places)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


def killed_after(crasher: subprocess.Popen[str], seconds: float) -> list[str]:
    """The documents that were acknowledged."""
    crasher.stdin.write(f"{seconds}\n")
    crasher.stdin.flush()
    return [line.strip() for line in iter(crasher.stdout.readline, "killed\n")]


async def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    chance, acknowledged = random.Random(9), []
    with crashing(tmp_path) as crasher:
        for _ in range(KILLS):
            acknowledged += killed_after(crasher, chance.uniform(0, 0.15))
            with DataFolder(tmp_path) as folder:
                await check(folder, acknowledged)
    assert len(acknowledged) >= KILLS


async def test_kill_9_of_who_writes_to_servers_does_neither(
    tmp_path: Path, database: str, keys: Keys, bucket: str
) -> None:
    chance, acknowledged = random.Random(9), []
    with crashing(tmp_path, database, bucket) as crasher:
        for _ in range(KILLS // 2):
            acknowledged += killed_after(crasher, chance.uniform(0, 0.3))
            async with PostgresIndex(database, keys) as index:
                await check_servers(index, Objects(bucket, index.id, keys), acknowledged)
    assert len(acknowledged) >= KILLS // 2


async def check_servers(index: PostgresIndex, weights: Objects, acknowledged: list[str]) -> None:
    records = {record.document_id: record for record in await index.all_weights()}
    for document_id in await index.unused_weights():
        weights.delete(document_id)
    stored = {name.split("/")[1] for name in weights.bucket.names()}
    assert stored == set(records) >= set(acknowledged)
    for document_id, record in records.items():
        assert len(weights.load(record, "here", base="base", section=1)) == 4
        assert [len(await texts(document_id)) for texts in (index.pages, index.chunks)] == [1, 2]
        assert [hit.document.id for hit in await index.candidates("here", document_id)] == [document_id]
    for job in await index.jobs():
        assert await index.job_file(job.id)


async def check(folder: DataFolder, acknowledged: list[str]) -> None:
    async with Index(folder.index) as index:
        weights = Weights(folder.weights, index.id)
        records = {record.document_id: record for record in await index.all_weights()}
        for document_id in await index.unused_weights():
            weights.delete(document_id)
        assert weights.sweep(list(records.values())) == ([], [])
        assert {path.stem for path in folder.weights.iterdir()} == set(records) >= set(acknowledged)
        for record in records.values():
            assert len(weights.load(record, "here", base="base", section=1)) == 4
        for job in await index.jobs():
            assert await index.job_file(job.id)
            await index.next_job()
        await index.requeue_interrupted()
    assert check_folder(folder.path).problems == ()
