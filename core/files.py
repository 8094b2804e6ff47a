"""Files: made durable, and their sha256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

BLOCK = 2**24  # bytes that are read at once


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Read in large blocks: between two of them it waits for a thread that runs Python, up to 5 ms."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
