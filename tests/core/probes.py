"""Functions that the tests run inside the sandbox."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable


def _refusal(attempt: Callable[[], object]) -> str:
    try:
        return f"done: {attempt()!r}"
    except (OSError, ValueError) as error:
        return type(error).__name__


def length(data: bytes, factor: int) -> int:
    return len(data) * factor


def environment(data: bytes) -> dict[str, str]:
    return dict(os.environ)


def connect(data: bytes, port: int) -> str:
    return _refusal(lambda: socket.socket().connect((b"127.0.0.1", port)))


def escape(data: bytes) -> list[str]:
    """Ways out, each of which has to fail."""
    limit = (64, 64)
    return [
        _refusal(lambda: open("/etc/hostname")),
        _refusal(lambda: os.listdir("/")),
        _refusal(lambda: open("left-behind", "w")),
        _refusal(os.getcwd),
        _refusal(os.fork),
        _refusal(lambda: subprocess.run(["/bin/true"])),
        _refusal(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)),
    ]


def destroy(data: bytes, folder: str, parent: int) -> list[str]:
    """What needs no file descriptor, against files and processes of the same user; each has to fail."""
    file, other = f"{folder}/file", f"{folder}/other"
    return [
        _refusal(lambda: os.rename(file, other)),
        _refusal(lambda: os.unlink(file)),
        _refusal(lambda: os.truncate(file, 0)),
        _refusal(lambda: os.chmod(file, 0o777)),
        _refusal(lambda: os.chmod(folder, 0)),
        _refusal(lambda: os.chown(file, -1, -1)),
        _refusal(lambda: os.utime(file, (0, 0))),
        _refusal(lambda: os.setxattr(file, "user.x", b"y")),
        _refusal(lambda: os.symlink("/etc/passwd", other)),
        _refusal(lambda: os.link(file, other)),
        _refusal(lambda: os.mkdir(other)),
        _refusal(lambda: os.mkfifo(other)),
        _refusal(lambda: os.rmdir(f"{folder}/empty")),
        _refusal(lambda: os.kill(parent, 0)),
        _refusal(lambda: os.kill(parent, signal.SIGTERM)),
        _refusal(lambda: os.killpg(os.getpgrp(), 0)),
        _refusal(lambda: os.setpriority(os.PRIO_PROCESS, parent, 19)),
        _refusal(lambda: os.stat(file)),
        _refusal(lambda: os.readlink("/proc/self/exe")),
        _refusal(lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (0, 0))),
    ]


def identity(data: bytes) -> int:
    return os.geteuid()


def hoard(data: bytes) -> None:
    kept = []
    while True:
        kept.append(b"x" * 2**20)


def spin(data: bytes) -> None:
    while True:
        pass


def sleep(data: bytes, seconds: float) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def crash(data: bytes) -> None:
    ctypes.string_at(0)


def fail(data: bytes) -> None:
    raise LookupError("/a/path/that/nobody/should/see")


def shout(data: bytes, size: int) -> str:
    print("noise from a library")
    return "x" * size
