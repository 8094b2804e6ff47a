"""The data folder: what lies where, and one process at a time."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import TracebackType

from core.errors import DataFolderBusy, SetupError


class DataFolder:
    """Created when missing, for its owner's eyes only, and locked from `with` on.

    The lock ends with the process, however it ends. A forked child that lives on would keep it; one started by exec
    does not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = path / "engram.db"
        self.weights = path / "weights"

    def __enter__(self) -> DataFolder:
        """Raises: DataFolderBusy, SetupError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("a")
        except OSError as error:
            raise SetupError("The data folder can't be made or written; check --data-dir and its rights.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DataFolderBusy from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def size(self) -> int:
        """Bytes of all files in it."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
