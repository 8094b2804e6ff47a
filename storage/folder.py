"""The data folder: what lies where, and one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import DataFolderBusy, SetupError, StorageFailed
from core.files import fsync_path

CHANNELS = "channels"  # the folder of the channels' files, beside the index
TOKENS_FILE = "slack.db"  # of workspaces that installed the Slack app, where OAuth is on
RESERVE_BYTES = 2 << 20  # bytes
RESTORED = "restored"  # a whole data folder within the data folder, that is to take its place


class DataFolder:
    """Created when missing, for its owner's eyes only, and locked from `with` on.

    The lock ends with the process, however it ends. A forked child that lives on would keep it; one started by exec
    does not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = path / "engram.db"
        self.weights = path / "weights"
        self.channels = path / CHANNELS

    def __enter__(self) -> DataFolder:
        """Raises: DataFolderBusy, SetupError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_uid == os.geteuid():
                self.path.chmod(0o700)  # one that was there may be open to all
            self._lock = (self.path / "lock").open("a")
        except OSError as error:
            raise SetupError("The data folder can't be made or written; check --data-dir and its rights.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            if isinstance(error, BlockingIOError):
                raise DataFolderBusy from None
            raise SetupError("The data folder's disk has no locks; choose another --data-dir.") from error
        self._umask = os.umask(0o077)  # whatever is written from now on is for its owner only
        try:
            put_restored(self.path)
        except OSError as error:
            self.__exit__(None, None, None)
            raise SetupError("A restore could not be finished; the data folder can't be written.") from error
        return self

    def __exit__(self, *_: object) -> None:
        os.umask(self._umask)
        self._lock.close()

    def require_index(self) -> None:
        """An index that is missing or empty beside what it should know is not made anew: everything would be forgotten.

        Raises: SetupError.
        """
        there = self.index.is_file() and self.index.stat().st_size > 0
        if not there and (any(self.weights.glob("*.safetensors")) or any(self.channels.glob("*.db"))):
            raise SetupError(
                "The index engram.db of this data folder is missing or empty, though there are documents. Put it back, "
                "or restore a backup; to begin anew, move the folders weights and channels away. Nothing was changed."
            )


class Reserve:
    """Room on the disk that is given up so that an erase works where there is no other room."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Where there is no room for it now, it is filled after the next erase, or at the next start."""
        try:
            with self._path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError:
            self._path.unlink(missing_ok=True)

    def give_up(self) -> None:
        self._path.unlink(missing_ok=True)


def put_restored(folder: Path) -> None:
    """Move what was restored into its place: all of it, however often a crash interrupts this."""
    fresh = folder / RESTORED
    if not fresh.exists():
        return
    for name in ("weights", CHANNELS, "prepared"):
        if (fresh / name).exists():
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(fresh / name, folder / name)
    if (fresh / TOKENS_FILE).exists():
        os.replace(fresh / TOKENS_FILE, folder / TOKENS_FILE)
    if (fresh / "engram.db").exists():
        for log in ("engram.db-wal", "engram.db-shm"):  # the old index's: they must never meet the new one
            (folder / log).unlink(missing_ok=True)
        os.replace(fresh / "engram.db", folder / "engram.db")
    fsync_path(folder)
    shutil.rmtree(fresh)


@contextmanager
def storage_errors() -> Iterator[None]:
    """What SQLite or the system says, as one error. Raises: StorageFailed."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        full |= getattr(error, "errno", None) == errno.ENOSPC
        raise StorageFailed("The disk is full; nothing was changed." if full else None) from error
