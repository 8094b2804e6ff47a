"""Run one function over untrusted bytes in a child process that can compute and answer, and nothing else.

Before the child touches the bytes it gives up, through kernel limits that need no privilege:

- files, sockets, programs: `RLIMIT_NOFILE` 0. Whatever needs a new file descriptor fails with EMFILE: `open()`,
  `socket()`, the loader of another program. Only the pipe for the answer stays. `RLIMIT_FSIZE` and `RLIMIT_CORE` 0.
- processes: `RLIMIT_NPROC` 0. Memory: `RLIMIT_AS`, over what the interpreter itself takes. Time: `RLIMIT_CPU`.
- what needs no descriptor: by Landlock it can rename, remove, cut or link no file and send no signal out, from before
  the parser is loaded; by seccomp, from before it sees a byte, all system calls fail but those for its memory, its
  time, and the pipe (`core.kernel`). Where the kernel has neither, `missing_protections` says so.
- secrets: its environment is empty; its folder is an empty one that is already deleted.

Where the kernel permits, it also moves into an empty network namespace, and becomes nobody when root started it; else
root's child could start processes, and with CAP_SYS_RESOURCE lift its own limits. The parent kills the child's process
group when the time is up, and the child dies with its parent. Elsewhere than on Linux the clock holds, and the limits
that the system knows (macOS ignores `RLIMIT_AS`).
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from core.kernel import PR_SET_NO_NEW_PRIVS, give_up_calls, give_up_files, has_seccomp, landlock_version, libc

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

ROOT = str(Path(__file__).resolve().parents[1])
OUT_OF_MEMORY = 3  # the child's exit status
NOBODY_ID = 65534
HEARTBEAT = b" "  # which JSON may begin with
POLL_SECONDS = 0.25  # seconds between two looks at a child's processor time
MAX_OPEN_FILES = 64  # that a program may have open at once
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # <sched.h>
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class Overrun(Exception):
    """The child took more time, memory or output than it may, and is gone."""


class Stuck(Overrun):
    """The child gave no heartbeat for more processor time than it may; its argument is how many it gave before."""


class Crashed(Exception):
    """The child died of something else, or answered nonsense."""


@dataclass(frozen=True)
class Sandbox:
    """What one call may take, and how many calls run at once."""

    seconds: float = 60.0  # of the wall clock, and of the processor
    memory: int = 1 << 30  # bytes of address space over the interpreter's own
    output: int = 20 << 20  # bytes of the answer
    heartbeat_timeout: float = 8.0  # seconds of processor time (Linux) from one heartbeat to the next
    parallel: int = 2  # children at once; the others wait for their turn

    async def call(
        self, function: str, data: bytes, *arguments: Any, imports: Sequence[str] = (), signs: bool = False
    ) -> Any:
        """`function` ("module:name") of `data` and `arguments`, as JSON carries them there and its result back.

        imports: modules that the function needs; once it runs, it can open no file to import from.
        signs: whether it gives a `heartbeat` as it goes on.
        Raises: Overrun, Stuck, Crashed.
        """
        heartbeat_timeout = self.heartbeat_timeout if signs else math.inf
        job = {"function": function, "arguments": arguments, "imports": imports}
        reply, status = await self._talk("child", data, heartbeat_timeout, job)
        try:
            if status == 0:
                return json.loads(reply)
        except (ValueError, RecursionError):
            pass
        raise Crashed

    async def run(self, command: Sequence[str], data: bytes) -> bytes:
        """What another program prints that reads `data` from its standard input. It may read files, for its own data,
        and make system calls; all else is as for `call`.

        command: the program's absolute path, and its arguments.
        Raises: Overrun, Crashed.
        """
        reply, status = await self._talk("program", data, math.inf, {"command": command})
        if status:
            raise Crashed
        return reply

    async def _talk(self, entry: str, data: bytes, heartbeat_timeout: float, job: dict[str, Any]) -> tuple[bytes, int]:
        """What a process replies, and its exit status. Raises: Overrun."""
        import asyncio  # only the parent needs it, and it is a third of the child's start-up

        _warn_once()
        async with _turns(self.parallel):
            process = await self._start(entry, job)
            try:
                async with asyncio.timeout(self.seconds):
                    reply = await _converse(process, data, self.output, heartbeat_timeout)
                    status = await process.wait()
            except TimeoutError:
                raise Overrun from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.communicate()  # reaps the child and closes the pipes
        if status in (OUT_OF_MEMORY, -signal.SIGKILL, -signal.SIGXCPU):  # SIGKILL: by the kernel, short of memory
            raise Overrun
        return reply, status

    async def _start(self, entry: str, job: dict[str, Any]) -> asyncio.subprocess.Process:
        import asyncio

        order = job | {
            "memory": self.memory,
            "seconds": math.ceil(self.seconds),
            "parent": os.getpid(),
            "folder": _nowhere(),
        }
        start = f"import sys; sys.path[:] = sys.argv[2:]; from core.sandbox import {entry}; {entry}(sys.argv[1])"
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", start, json.dumps(order)]
        path = [ROOT, *(folder for folder in sys.path if folder)]
        return await asyncio.create_subprocess_exec(
            *command,
            *path,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            pass_fds=[_nowhere()],
            start_new_session=True,
        )


@cache
def _nowhere() -> int:
    """The descriptor of an empty folder that is deleted already, for all children of this process: one that makes its
    own, and is killed at that moment, leaves it behind."""
    import tempfile  # only the parent needs it

    with tempfile.TemporaryDirectory(prefix="engram-") as folder:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def missing_protections() -> list[str]:
    """What the kernel can't keep from a child that a hostile file has taken over, one sentence each."""
    sentences = []
    if not landlock_version():
        sentences.append("No Landlock: it could rename, remove or cut files of this user, and send signals.")
    if not has_seccomp():
        sentences.append("No seccomp filter: it could change rights of this user's files, and make any system call.")
    return sentences


@cache
def _warn_once() -> None:
    for sentence in missing_protections():
        log.warning("the process that reads documents is confined less than it could be. %s", sentence)


_semaphores: WeakKeyDictionary[Any, dict[int, Any]] = WeakKeyDictionary()


def _turns(parallel: int) -> asyncio.Semaphore:
    """The event loop's own semaphore: one that is shared between loops raises."""
    import asyncio

    semaphores = _semaphores.setdefault(asyncio.get_running_loop(), {})
    return semaphores.setdefault(parallel, asyncio.Semaphore(parallel))


async def _converse(process: asyncio.subprocess.Process, data: bytes, most: int, heartbeat_timeout: float) -> bytes:
    """Write everything, read everything, but not more than `most` bytes. Raises: Overrun; Stuck, without heartbeats."""
    import asyncio

    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None  # pipes, both

    async def feed() -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died; its status tells of what
            stdin.write(data)
            await stdin.drain()
        stdin.close()

    feeding, reply = asyncio.create_task(feed()), bytearray()
    watched = heartbeat_timeout < math.inf
    watching = asyncio.create_task(_watch_life(process.pid, reply, heartbeat_timeout)) if watched else None
    try:
        while part := await _unless_stuck(stdout.read(1 << 16), watching):
            reply += part
            if len(reply) > most:
                raise Overrun
    finally:
        feeding.cancel()
        if watching:
            watching.cancel()
    return bytes(reply)


async def _watch_life(pid: int, reply: bytearray, heartbeat_timeout: float) -> None:
    """Ends when the process has used so much processor time since its reply last grew; never once it says that no more
    signs will come. Raises: Stuck."""
    import asyncio

    signs, since = 0, 0.0
    while not reply.strip(HEARTBEAT):
        await asyncio.sleep(POLL_SECONDS)
        used = _processor_seconds(pid)
        if len(reply) > signs:
            signs, since = len(reply), used
        elif used - since > heartbeat_timeout:
            raise Stuck(signs)
    await asyncio.Event().wait()


async def _unless_stuck(reading: Awaitable[bytes], watching: asyncio.Task[None] | None) -> bytes:
    import asyncio

    task = asyncio.ensure_future(reading)
    try:
        await asyncio.wait({task, watching} if watching else {task}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and watching:
            watching.result()
        return task.result()
    finally:
        task.cancel()


def _processor_seconds(pid: int) -> float:
    """That a process has used; 0 where that can't be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime: proc(5)


# Below, the child.

_answer_pipe: int | None = None  # the descriptor of the pipe to the parent


def heartbeat(last: bool = False) -> None:
    """Tell the parent that the function makes progress. last: no heartbeat follows."""
    if _answer_pipe is not None:
        os.write(_answer_pipe, b"\n" if last else HEARTBEAT)


def child(order: str) -> None:
    """Read stdin, give up everything, run the function, write its result to stdout as JSON."""
    job = json.loads(order)
    global _answer_pipe
    _enter(job["folder"])
    _answer_pipe = answer = _private_stdout()
    give_up_files(reading=True)
    for name in job["imports"]:
        import_module(name)
    module, _, name = job["function"].partition(":")
    function = getattr(import_module(module), name)
    data = sys.stdin.buffer.read()
    _leave_network()
    _confine(job["memory"], job["seconds"], job["parent"])
    give_up_files(reading=False)
    _limit(resource.RLIMIT_NOFILE, 0)
    give_up_calls()
    try:
        reply = json.dumps(function(data, *job["arguments"])).encode()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    while reply:
        reply = reply[os.write(answer, reply) :]
    os._exit(0)  # no finalisers: nothing here is worth the time


def program(order: str) -> None:
    """Give up all but reading files, and become another program."""
    job = json.loads(order)
    _enter(job["folder"])
    give_up_files(reading=True)
    _leave_network()
    _confine(job["memory"], job["seconds"], job["parent"])
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    os.execve(job["command"][0], job["command"], {"OMP_THREAD_LIMIT": "1"})


def _enter(folder: int) -> None:
    os.fchdir(folder)
    os.close(folder)


def _private_stdout() -> int:
    """A descriptor for the answer; whatever a library prints goes nowhere."""
    answer, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return answer


def _leave_network() -> None:
    if sys.platform == "linux" and libc().unshare(CLONE_NEWNET) != 0:
        libc().unshare(CLONE_NEWUSER | CLONE_NEWNET)  # refused in many containers


def _confine(memory: int, seconds: int, parent: int) -> None:
    with suppress(OSError):
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY_ID)
            os.setuid(NOBODY_ID)
    if sys.platform == "linux":
        libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid and unshare, which clear it
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, own + memory)
    if os.getppid() != parent:
        os._exit(1)  # it died before the line above
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NPROC, 0)


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))
