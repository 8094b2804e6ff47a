"""One file a channel: threads and closing. What it stores is tested through the index."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from storage.channel_files import ChannelFile, run_to_end


def test_closing_waits_for_the_thread_that_is_in_the_file(tmp_path: Path) -> None:
    content = ChannelFile(tmp_path / "channel.db", "here")
    left: list[str] = []

    def work() -> None:
        with content.in_use:
            time.sleep(0.2)
            left.append("work")

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    content.close()
    left.append("closed")
    thread.join()
    assert left == ["work", "closed"]


async def test_a_caller_that_is_cancelled_twice_waits_for_its_thread() -> None:
    ended = threading.Event()
    task = asyncio.create_task(run_to_end(lambda: (time.sleep(0.3), ended.set())))
    for _ in range(2):
        await asyncio.sleep(0.05)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
