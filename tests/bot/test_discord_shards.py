"""Front ends in pairs on Discord: one of them has a shard, and another one takes over when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bot.fake_discord import CHANNEL, FakeDiscord
from tests.bot.test_discord_wire import NOTHING_YET, TOKEN, said, until
from tests.storage.conftest import database, server  # noqa: F401

Start = Callable[[FakeDiscord], Awaitable[subprocess.Popen[bytes]]]

pytestmark = pytest.mark.timeout(400)  # five processes are started, one after another


@pytest.fixture
def start(database: str, tmp_path: Path) -> Iterator[Start]:  # noqa: F811
    variables = os.environ | {
        "ENGRAM_DATABASE_URL": database,
        "ENGRAM_DATA_DIR": str(tmp_path),
        "ENGRAM_DISCORD_TOKEN": TOKEN,
        "ENGRAM_DISCORD_SHARDS": "2",
        "ENGRAM_LOG_LEVEL": "error",
    }
    with ExitStack() as stack:

        async def front_end(discord: FakeDiscord) -> subprocess.Popen[bytes]:
            """Returns when it is there and begins to look for shards."""
            command = [sys.executable, "-m", "tests.bot.front_end", str(discord.port)]
            process = stack.enter_context(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
            return process

        yield front_end


async def test_each_shard_is_with_one_front_end_and_a_dead_ones_is_taken_over(start: Start) -> None:
    async with FakeDiscord() as discord:
        first = await start(discord)
        await until(lambda: sorted(discord.shards) == [0, 1], 60)
        standby = await start(discord)
        await discord.say("Who is the warden?")
        await until(lambda: said(discord, NOTHING_YET))
        await asyncio.sleep(8)  # so long that the other one has tried both
        assert sorted(discord.shards) == [0, 1]
        first.send_signal(signal.SIGKILL)
        first.wait()
        await until(lambda: sorted(discord.shards) == [0, 0, 1, 1], 60)
        discord.messages.clear()
        await discord.say("Who is the keeper?")
        await until(lambda: said(discord, NOTHING_YET))
        await asyncio.sleep(1)
        assert len(said(discord, NOTHING_YET)) == 1

        third = await start(discord)
        os.kill(standby.pid, signal.SIGSTOP)  # it hangs, or its machine is cut off
        await until(lambda: sorted(discord.shards) == [0, 0, 0, 1, 1, 1], 60)
        await discord.say("Who is the baker?")
        await until(lambda: len(said(discord, NOTHING_YET)) == 2)
        assert third.poll() is None


async def test_what_a_killed_front_end_did_not_answer_the_next_one_does_once(start: Start) -> None:
    async with FakeDiscord() as discord:
        discord.fault("POST", f"channels/{CHANNEL}/messages", 503, times=1_000)
        killed = await start(discord)
        await until(lambda: 0 in discord.shards, 60)
        await discord.say("Who is the warden?")
        await until(lambda: discord.sent("POST", f"channels/{CHANNEL}/messages"))
        killed.kill()
        killed.wait()
        discord.faults.clear()
        await start(discord)
        await until(lambda: said(discord, NOTHING_YET), 60)
        await until(lambda: sorted(set(discord.shards[-2:])) == [0, 1], 60)
        await asyncio.sleep(2)
        assert len(said(discord, NOTHING_YET)) == 1
