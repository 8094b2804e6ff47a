"""What was learned, on disk: one safetensors file for each document. The one home of that format for deltas."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from core.errors import LearningFailed, StorageFailed, WeightsDamaged, WrongBaseModel
from core.files import fsync_path, sha256_of
from core.ports import Learned, section_of, section_tensors
from core.types import WeightsRecord

if TYPE_CHECKING:
    from torch import Tensor

FILE_FORMAT = "1"  # of the files; another number is not read
TRASH_DAYS = 7  # until what was moved away is deleted
SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Weights:
    """Implements core.ports.Weights. A file has the document's id for a name; it is complete or absent.

    It holds tensors named `SECTION/MODULE`: float16, or as the learner packed them (uint8). Every use checks all of its
    bytes (about 1.4 GB/s): safetensors has no checksum, and a file's time and size can be put back after a change.
    """

    def __init__(self, folder: Path, index_id: str = "") -> None:
        """index_id: stands in each file; only files with the same one are ever moved away unasked.

        Raises: StorageFailed.
        """
        self._folder = folder
        self._trash = folder / "trash"
        self._index_id = index_id
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fsync_path(folder.parent)
        except OSError as error:
            raise StorageFailed from error

    def save(self, document_id: str, channel: str, learned: Learned, *, base: str, learner: str) -> WeightsRecord:
        """Durable on return. Raises: LearningFailed (no number, or out of float16's range), StorageFailed."""
        path, temporary = self._path(document_id), self._temporary(document_id)
        metadata = describe(document_id, channel, base) | {"learner": learner, "index": self._index_id}
        tensors = to_float16(learned)
        try:
            with _translated():
                temporary.mkdir(mode=0o700, exist_ok=True)
                digest, size = _write(temporary / path.name, tensors, metadata)
                os.replace(temporary / path.name, path)
                fsync_path(self._folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return WeightsRecord(
            document_id=document_id,
            path=self._name(document_id),
            bytes=size,
            sha256=digest,
            base=base,
            learner=learner,
            sections=learned.sections,
        )

    def load(self, record: WeightsRecord, channel: str, *, base: str, section: int) -> Mapping[str, Tensor]:
        """One section's tensors by module, as stored, on the CPU.

        Raises: WeightsDamaged, WrongBaseModel, StorageFailed (the file is there and can't be read).
        """
        if record.base != base:
            raise WrongBaseModel
        tensors = section_tensors(self._read(record, channel, f"{section}/"), section)
        if not tensors:
            raise WeightsDamaged
        return tensors

    def prefetch(self, record: WeightsRecord, section: int) -> None:
        """Nothing: they are on this machine."""

    def load_all(self, record: WeightsRecord, channel: str) -> dict[str, Tensor]:
        """All tensors, named SECTION/MODULE, as stored, on the CPU. Raises: WeightsDamaged, StorageFailed."""
        return self._read(record, channel)

    def _read(self, record: WeightsRecord, channel: str, beginning: str = "") -> dict[str, Tensor]:
        """Tensors whose names begin so. Raises: WeightsDamaged, StorageFailed."""
        if record.path != self._name(record.document_id):
            raise WeightsDamaged
        try:
            with self._path(record.document_id).open("rb") as file:
                _check_bytes(file, record)
                return _read_tensors(file, record, channel, beginning)
        except FileNotFoundError as error:
            raise WeightsDamaged from error
        except OSError as error:
            raise StorageFailed from error

    def delete(self, document_id: str) -> None:
        """Gone for good on return; no error when it was gone before. Raises: OSError."""
        self._path(document_id).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self._temporary(document_id))
        fsync_path(self._folder)

    def sweep(self, known: Sequence[WeightsRecord]) -> tuple[list[str], list[str]]:
        for path in self._trashed():
            if path.stat().st_mtime < time.time() - TRASH_DAYS * 86_400:
                path.unlink()
        names = {self._path(record.document_id).name for record in known} | {self._trash.name}
        moved, left = [], []
        for path in sorted(path for path in self._folder.iterdir() if path.name not in names):
            if self._index_id and _metadata(path).get("index") == self._index_id:
                self._trash.mkdir(mode=0o700, exist_ok=True)
                os.utime(path)  # the days count from now
                os.replace(path, self._trash / path.name)
                moved.append(path.name)
            else:
                left.append(path.name)
        fsync_path(self._folder)
        return moved, left

    def erase_trash(self, channel: str) -> None:
        for path in self._trashed():
            if _metadata(path).get("channel") == channel:
                path.unlink()

    def _trashed(self) -> list[Path]:
        return sorted(self._trash.iterdir()) if self._trash.is_dir() else []

    def _temporary(self, document_id: str) -> Path:
        """A folder for what is not complete: safetensors makes files with names of its own beside the one it writes."""
        return self._path(document_id).with_suffix(".tmp")

    def _path(self, document_id: str) -> Path:
        return self._folder / f"{safe(document_id)}.safetensors"

    def _name(self, document_id: str) -> str:
        """Relative to the data folder."""
        return f"{self._folder.name}/{self._path(document_id).name}"


def _metadata(path: Path) -> dict[str, str]:
    """What stands at the beginning of a file of weights; nothing for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as tensors:
            return tensors.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def describe(document_id: str, channel: str, base: str) -> dict[str, str]:
    """What a file's metadata has to say."""
    return {"format": FILE_FORMAT, "document": document_id, "channel": channel, "base": base}


def safe(document_id: str) -> str:
    """The same, as a part of a name."""
    if not SAFE_ID.fullmatch(document_id):
        raise ValueError("this is no document's id")
    return document_id


def to_float16(learned: Learned) -> dict[str, Tensor]:
    """Floats as float16, integers as they are. Copies, since safetensors refuses tensors that share memory.

    Raises: LearningFailed.
    """
    import torch

    if not set(learned.sections) <= set(map(section_of, learned.tensors)):
        raise LearningFailed
    half = {}
    for name, tensor in learned.tensors.items():
        dtype = torch.float16 if tensor.is_floating_point() else tensor.dtype
        stored = tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
        if stored.is_floating_point() and not stored.isfinite().all():
            raise LearningFailed("Learning this document went wrong and was undone; nothing was kept.")
        half[name] = stored
    return half


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> tuple[str, int]:
    """Write and sync a file; returns its sha256 and length."""
    from safetensors.torch import save_file

    save_file(dict(tensors), path, metadata)
    fsync_path(path)
    return sha256_of(path), path.stat().st_size


def _check_bytes(file: BufferedReader, record: WeightsRecord) -> None:
    """Raises: WeightsDamaged."""
    if os.fstat(file.fileno()).st_size != record.bytes:
        raise WeightsDamaged
    if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
        raise WeightsDamaged


def _read_tensors(file: BinaryIO, record: WeightsRecord, channel: str, beginning: str) -> dict[str, Tensor]:
    """From the open file whose bytes were checked, even if another one has taken its name since.

    Raises: WeightsDamaged. The tensors are copied: safetensors maps them to the file, which may change or shrink later.
    """
    from safetensors import safe_open

    expected = describe(record.document_id, channel, record.base)
    with safe_open(f"/dev/fd/{file.fileno()}", "pt") as tensors:
        if not expected.items() <= (tensors.metadata() or {}).items():
            raise WeightsDamaged
        names = [name for name in tensors.keys() if name.startswith(beginning)]  # noqa: SIM118
        return {name: tensors.get_tensor(name).clone() for name in names}


@contextmanager
def _translated() -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)
        raise StorageFailed("The disk is full; nothing was stored." if full else None) from error
