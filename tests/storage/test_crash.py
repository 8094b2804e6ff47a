"""kill -9 at random points between a job and its acknowledgement. `torture` does it more often."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.check import check_folder
from storage.folder import DataFolder
from storage.index import Index
from storage.weights import Weights

KILLS = 10


@pytest.fixture
def crasher(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("crash.py")), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


def killed_after(crasher: subprocess.Popen[str], seconds: float) -> list[str]:
    """The documents that were acknowledged."""
    crasher.stdin.write(f"{seconds}\n")
    crasher.stdin.flush()
    return [line.strip() for line in iter(crasher.stdout.readline, "killed\n")]


async def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half_done(crasher, tmp_path: Path) -> None:
    chance, acknowledged = random.Random(9), []
    for _ in range(KILLS):
        acknowledged += killed_after(crasher, chance.uniform(0, 0.15))
        with DataFolder(tmp_path) as folder:
            await check(folder, acknowledged)
    assert len(acknowledged) >= KILLS


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
