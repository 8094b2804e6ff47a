"""What a test started ends with it, also when the test's own process is killed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def watched(command: str) -> Iterator[None]:
    """Run a shell's command when this block is left, or this process has ended, however it did."""
    waiting = ["sh", "-c", f"read -r nothing; {command}"]  # the pipe's end is the end of who holds it
    output = subprocess.DEVNULL
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True):
        yield
