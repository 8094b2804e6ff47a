from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.sandbox import ROOT, Crashed, Overrun, Sandbox

PROBES = "tests.core.probes:"
linux = pytest.mark.skipif(sys.platform != "linux", reason="kernel limits of Linux")


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


async def only_child() -> int:
    async with asyncio.timeout(10):
        while not (pids := children()):
            await asyncio.sleep(0.01)
    return pids[0]


async def test_a_call_hands_data_over_and_its_result_back() -> None:
    assert await Sandbox().call(PROBES + "length", b"abc" * 2**20, 2) == 6 * 2**20


async def test_the_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCORD_TOKEN", "secret")
    assert set(await Sandbox().call(PROBES + "environment", b"")) <= {"LC_CTYPE"}  # which Python sets by itself


async def test_there_is_no_network() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await Sandbox().call(PROBES + "connect", b"", port) == "OSError"


@linux
async def test_there_are_no_files_no_processes_and_no_way_to_lift_a_limit() -> None:
    answers = await Sandbox().call(PROBES + "escape", b"")
    assert not [answer for answer in answers if answer.startswith("done")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
async def test_root_becomes_nobody() -> None:
    assert await Sandbox().call(PROBES + "identity", b"") == 65534


@linux
async def test_a_hoarder_is_stopped_at_its_memory() -> None:
    began = time.monotonic()
    with pytest.raises(Overrun):
        await Sandbox(memory=64 * 2**20).call(PROBES + "hoard", b"")
    assert time.monotonic() - began < 10  # not by the clock


@pytest.mark.parametrize(("probe", "arguments"), [("spin", ()), ("sleep", (60,))])
async def test_the_clock_stops_busy_and_idle_children(probe: str, arguments: tuple[int, ...]) -> None:
    began = time.monotonic()
    with pytest.raises(Overrun):
        await Sandbox(seconds=1).call(PROBES + probe, b"", *arguments)
    assert time.monotonic() - began < 5
    assert children() == []


async def test_a_long_answer_is_cut_off() -> None:
    with pytest.raises(Overrun):
        await Sandbox(output=1000).call(PROBES + "shout", b"", 2000)


async def test_what_a_library_prints_is_not_the_answer() -> None:
    assert await Sandbox().call(PROBES + "shout", b"", 3) == "xxx"


@pytest.mark.parametrize("probe", ["crash", "fail"])
async def test_a_crash_is_only_the_childs(probe: str) -> None:
    with pytest.raises(Crashed, match=r"^$"):  # not a word of its exception
        await Sandbox().call(PROBES + probe, b"")
    assert await Sandbox().call(PROBES + "length", b"1", 1) == 1


@linux
@pytest.mark.parametrize(("number", "error"), [(signal.SIGKILL, Overrun), (signal.SIGSEGV, Crashed)])
async def test_a_killed_child_leaves_the_parent_alive(number: int, error: type[Exception]) -> None:
    call = asyncio.create_task(Sandbox().call(PROBES + "sleep", b"", 60))
    os.kill(await only_child(), number)
    with pytest.raises(error):
        await call


@linux
async def test_cancelling_kills_the_child() -> None:
    call = asyncio.create_task(Sandbox().call(PROBES + "sleep", b"", 60))
    await only_child()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert children() == []


async def test_calls_beyond_the_number_wait_for_their_turn() -> None:
    sandbox = Sandbox(parallel=1)
    times = await asyncio.gather(*(sandbox.call(PROBES + "sleep", b"", 0.1) for _ in range(3)))
    (_, first), (second, end), (third, _) = sorted(times)
    assert first <= second < end <= third


@linux
def test_the_child_dies_with_its_parent() -> None:
    code = f"import asyncio; from core.sandbox import Sandbox; asyncio.run(Sandbox().call('{PROBES}sleep', b'', 60))"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    listing = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while (
        not (pids := listing.read_text().split()) or b"\x00-c\x00" not in Path(f"/proc/{pids[0]}/cmdline").read_bytes()
    ):
        time.sleep(0.01)
    time.sleep(0.5)  # until it sleeps
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while _lives(pids[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(pids[0])


def _lives(pid: str) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
