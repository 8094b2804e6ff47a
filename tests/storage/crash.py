"""Learns documents one after another until it is killed: job, weights, row, and only then a word on stdout.

    python tests/storage/crash.py DATA_FOLDER [DATABASE_URL OBJECTS_URL]

One process imports torch and forks a child for each line that comes in; the line says how many seconds the child may
live after its first document. The child's lines are the ids of documents that it acknowledged; "killed" ends them.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from core.ports import Learned
from core.types import Page
from storage.folder import DataFolder
from storage.index import Index
from storage.weights import Weights
from tests.storage.samples import METRICS, make_chunks, make_document, make_job

TENSORS = {f"{section}/up.{at}": torch.randn(128, 256) for section in range(2) for at in range(4)}  # half a MB


async def learn_until_killed(folder: DataFolder, *servers: str) -> None:
    async with AsyncExitStack() as stack:
        if servers:
            from storage.keys import Keys
            from storage.objects import Objects
            from storage.postgres import PostgresIndex

            (database, bucket), keys = servers, Keys(folder.path / "keys")
            index = await stack.enter_async_context(PostgresIndex(database, keys))
            weights = Objects(bucket, index.id, keys)
        else:
            index = await stack.enter_async_context(Index(folder.index))
            weights = Weights(folder.weights, index.id)
        while True:
            id = secrets.token_hex(8)
            job = await index.add_job(make_job(f"job-{id}"), b"%PDF-" + bytes(100_000))
            learned = Learned(TENSORS, (0, 1), METRICS)
            await index.will_save(id, job)
            record = await asyncio.to_thread(weights.save, id, "here", learned, base="base", learner="lora")
            document = make_document(id, job, record)
            await index.finish_job(job.id, document, [Page(1, id)], make_chunks(id, "more"))
            os.write(1, f"{id}\n".encode())


def main() -> None:
    folder, *servers = sys.argv[1:]
    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(write, 1)
            os.close(write)
            with DataFolder(Path(folder)) as opened:
                asyncio.run(learn_until_killed(opened, *servers))
        os.close(write)
        with open(read) as acknowledged:
            print(acknowledged.readline(), end="")
            time.sleep(float(line))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print(acknowledged.read(), end="")
        print("killed", flush=True)


if __name__ == "__main__":
    main()
