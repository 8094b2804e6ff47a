"""Functions that the tests run inside the sandbox."""

from __future__ import annotations

import ctypes
import os
import resource
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
    return _refusal(lambda: socket.create_connection(("127.0.0.1", port), timeout=1))


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
