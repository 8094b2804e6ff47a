from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import core.sandbox
from core.kernel import CALLS, MACHINES, has_seccomp, landlock_version
from core.sandbox import ROOT, Crashed, Overrun, Sandbox
from tests.timeouts import WAIT

PROBES = "tests.core.probes:"
linux = pytest.mark.skipif(sys.platform != "linux", reason="kernel limits of Linux")


STANDING: set[int] = set()  # processes that other tests leave running: those that draw batches for learning


@pytest.fixture(autouse=True)
def standing() -> Iterator[None]:
    STANDING.update(children())
    yield
    STANDING.clear()


def children() -> list[int]:
    """The processes that this one started during the test."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    pids = map(int, listed.read_text().split()) if listed.exists() else ()
    return [pid for pid in pids if pid not in STANDING]


async def only_child() -> int:
    async with asyncio.timeout(WAIT):
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
        assert await Sandbox().call(PROBES + "connect", b"", port) in ("OSError", "PermissionError")


@linux
async def test_there_are_no_files_no_processes_and_no_way_to_lift_a_limit() -> None:
    answers = await Sandbox().call(PROBES + "escape", b"")
    assert not [answer for answer in answers if answer.startswith("done")]


async def test_no_child_makes_a_folder_that_it_could_leave_behind(tmp_path: Path, monkeypatch) -> None:
    core.sandbox._nowhere.cache_clear()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert await Sandbox().call(PROBES + "length", b"abc", 1) == 3
    temporary.rmdir()  # it is empty, and no child needs it
    assert await Sandbox().call(PROBES + "length", b"abc", 1) == 3


needs_landlock = pytest.mark.skipif(not landlock_version() or not has_seccomp(), reason="the kernel lacks it")
NOBODY = 65534
PARENT = f"""
import asyncio, os, sys
from core.sandbox import Sandbox
print(asyncio.run(Sandbox().call('{PROBES}destroy', b"", sys.argv[1], os.getpid())))
"""


def copy_sources(folder: Path) -> None:
    """What a child in the sandbox imports."""
    for path in (*Path(ROOT, "core").glob("*.py"), Path(ROOT, "tests/core/probes.py")):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def an_interpreter_for_everybody() -> str:
    """This one, or, when root's own can't be run by others, the system's."""
    return sys.executable if os.geteuid() else shutil.which("python3", path="/usr/local/bin:/usr/bin") or ""


@needs_landlock
@pytest.mark.skipif(not an_interpreter_for_everybody(), reason="root's Python can't be run by anybody else")
def test_a_child_of_the_same_user_changes_no_file_and_reaches_no_process() -> None:
    """As in the container, where the bot is no root: the child keeps the bot's user."""
    user = os.geteuid() or NOBODY
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sources:
        (Path(folder) / "empty").mkdir()
        (Path(folder) / "file").write_bytes(b"weights")
        copy_sources(Path(sources))  # where the user can't enter the checkout, as in root's home
        for path in (Path(folder), *Path(folder).iterdir(), Path(sources)):
            os.chown(path, user, -1)
        before = (Path(folder) / "file").stat()
        command = [an_interpreter_for_everybody(), "-c", PARENT, folder]
        ended = subprocess.run(command, cwd=sources, capture_output=True, text=True, user=user)
        assert ended.returncode == 0, ended.stderr
        assert "done" not in ended.stdout and ended.stdout.count("PermissionError") >= 18
        after = (Path(folder) / "file").stat()
        assert (after.st_mode, after.st_mtime, after.st_size) == (before.st_mode, before.st_mtime, 7)
        assert sorted(path.name for path in Path(folder).iterdir()) == ["empty", "file"]


@needs_landlock
async def test_while_the_parser_is_loaded_no_file_can_be_changed_either(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"weights")
    assert give_up_in_a_fork(tmp_path / "file") == {"reads": "done: b'weights'", "unlinks": "PermissionError"}


def give_up_in_a_fork(file: Path) -> dict[str, str]:
    code = f"""
import json
from core.kernel import give_up_files
from tests.core.probes import _refusal
from pathlib import Path
assert give_up_files(reading=True)
file = Path({str(file)!r})
print(json.dumps({{"reads": _refusal(file.read_bytes), "unlinks": _refusal(file.unlink)}}))
"""
    return json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)


def test_each_machine_has_a_number_for_each_call() -> None:
    for _, numbers in MACHINES.values():
        assert len(set(numbers.split())) == len(CALLS.split())


async def test_what_the_kernel_lacks_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr("core.sandbox.landlock_version", lambda: 0)
    core.sandbox._warn_once.cache_clear()
    for _ in range(2):
        await Sandbox().call(PROBES + "length", b"1", 1)
    assert [record.message for record in caplog.records if "No Landlock" in record.message][1:] == []
    assert "No Landlock" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
async def test_root_becomes_nobody() -> None:
    assert await Sandbox().call(PROBES + "identity", b"") == 65534


@linux
async def test_a_hoarder_is_stopped_at_its_memory() -> None:
    began = time.monotonic()
    with pytest.raises(Overrun):
        await Sandbox(memory=64 * 2**20).call(PROBES + "hoard", b"")
    assert time.monotonic() - began < 50  # not by the clock


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
