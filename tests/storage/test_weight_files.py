"""Weights on disk, as files."""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

import pytest
import torch

from core.errors import LearningFailed, StorageFailed, WeightsDamaged
from core.types import WeightsRecord
from storage.folder import DataFolder
from storage.weights import TRASH_DAYS, Weights
from tests.storage.test_weights import load, save


@pytest.fixture
def weights(folder: DataFolder) -> Weights:
    return Weights(folder.weights, "index")


def file_of(folder: DataFolder, record: WeightsRecord) -> Path:
    return folder.path / record.path


def test_what_was_saved_comes_back_as_float16_by_module(weights: Weights, folder: DataFolder) -> None:
    record = save(weights)
    assert load(weights, record) == {"up.0": 1.0, "up.1": 2.0}
    assert weights.load(record, "here", base="base", section=0)["up.0"].dtype is torch.float16
    assert record.path == "weights/d1.safetensors" and record.bytes == file_of(folder, record).stat().st_size
    assert (record.sections, record.base, record.learner) == ((0, 1), "base", "lora")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_what_is_no_number_or_too_big_for_float16_is_not_saved(
    weights: Weights, folder: DataFolder, value: float
) -> None:
    with pytest.raises(LearningFailed):
        save(weights, "d1", "here", 1.0, value)
    assert list(folder.weights.iterdir()) == []


def test_every_flipped_bit_is_noticed(weights: Weights, folder: DataFolder) -> None:
    record, chance = save(weights), random.Random(1)
    path = file_of(folder, record)
    whole = path.read_bytes()
    for _ in range(300):
        damaged, at = bytearray(whole), chance.randrange(len(whole))
        damaged[at] ^= 1 << chance.randrange(8)
        put_in_place(path, bytes(damaged))
        with pytest.raises(WeightsDamaged):
            load(weights, record)
    put_in_place(path, whole)
    assert load(weights, record)


def put_in_place(path: Path, data: bytes) -> None:
    """Change a file's bytes and nothing else, its times neither."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_every_truncation_is_noticed(weights: Weights, folder: DataFolder) -> None:
    record = save(weights)
    path = file_of(folder, record)
    whole = path.read_bytes()
    for length in [*range(len(whole)), len(whole) + 1]:
        path.write_bytes((whole + b"\0")[:length])
        with pytest.raises(WeightsDamaged):
            load(weights, record)


def test_a_missing_file_is_noticed(weights: Weights, folder: DataFolder) -> None:
    record = save(weights)
    file_of(folder, record).unlink()
    with pytest.raises(WeightsDamaged):
        load(weights, record)


def test_two_files_that_changed_places_are_refused(weights: Weights, folder: DataFolder) -> None:
    mine, theirs = save(weights, "d1", "here"), save(weights, "d2", "there", 3.0, 4.0)
    file_of(folder, mine).rename(folder.path / "aside")
    file_of(folder, theirs).rename(file_of(folder, mine))
    (folder.path / "aside").rename(file_of(folder, theirs))
    for record, channel in [(mine, "here"), (theirs, "there")]:
        with pytest.raises(WeightsDamaged):
            load(weights, record, channel)


def test_an_older_version_put_back_is_refused(weights: Weights, folder: DataFolder) -> None:
    old = file_of(folder, save(weights, "d1", "here", 1.0)).read_bytes()
    record = save(weights, "d1", "here", 2.0)
    put_in_place(file_of(folder, record), old)
    with pytest.raises(WeightsDamaged):
        load(weights, record)


def test_loaded_weights_do_not_hang_on_their_file(weights: Weights, folder: DataFolder) -> None:
    record = save(weights)
    tensors = weights.load(record, "here", base="base", section=0)
    file_of(folder, record).write_bytes(b"")
    assert tensors["up.1"].item() == 2.0


@pytest.mark.parametrize("id", ["", "../x", "a/b", "a.b", "a b", "x" * 65, "é", "a\n", "\x00"])
def test_no_file_is_named_after_anything_but_an_id(weights: Weights, folder: DataFolder, id: str) -> None:
    with pytest.raises(ValueError, match="no document's id"):
        save(weights, id)
    assert list(folder.weights.iterdir()) == []


def test_a_deleted_file_is_gone_and_may_be_deleted_again(weights: Weights, folder: DataFolder) -> None:
    record, kept = save(weights), save(weights, "d2")
    (folder.weights / "d1.tmp").mkdir()
    (folder.weights / "d1.tmp" / ".tmp0gMIuR").write_bytes(b"half")  # by safetensors, killed in the middle
    weights.delete(record.document_id)
    weights.delete(record.document_id)
    assert list(folder.weights.iterdir()) == [file_of(folder, kept)]


def test_the_sweep_moves_its_own_indexs_files_only(weights: Weights, folder: DataFolder) -> None:
    kept = save(weights)
    save(weights, "orphan")
    save(Weights(folder.weights, "another index"), "theirs")
    save(Weights(folder.weights), "before")
    (folder.weights / "0123.tmp").write_bytes(b"half")
    (folder.weights / "a folder").mkdir()
    strange = ["0123.tmp", "a folder", "before.safetensors", "theirs.safetensors"]
    assert weights.sweep([kept]) == (["orphan.safetensors"], strange)
    assert load(weights, kept) and weights.sweep([kept]) == ([], strange)
    assert (folder.weights / "trash" / "orphan.safetensors").exists()


def test_the_trash_is_emptied_after_days(weights: Weights, folder: DataFolder) -> None:
    os.utime(file_of(folder, save(weights)), (1.0, 1.0))  # the days count from when it was moved
    weights.sweep([])
    weights.sweep([])
    trashed = folder.weights / "trash" / "d1.safetensors"
    assert trashed.exists()
    long_ago = time.time() - TRASH_DAYS * 86_400 - 1
    os.utime(trashed, (long_ago, long_ago))
    weights.sweep([])
    assert not trashed.exists()


def test_what_a_channel_has_in_the_trash_is_erased_with_it(weights: Weights, folder: DataFolder) -> None:
    save(weights, "d1", "here")
    save(weights, "d2", "there")
    weights.sweep([])
    weights.erase_trash("here")
    assert [path.name for path in (folder.weights / "trash").iterdir()] == ["d2.safetensors"]


def test_a_folder_of_weights_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"")
    with pytest.raises(StorageFailed):
        Weights(tmp_path / "weights")


def test_a_file_that_can_not_be_written_to_its_end_is_not_kept(weights: Weights, folder: DataFolder) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageFailed):
            save(weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(folder.weights.iterdir()) == []


def test_a_save_that_fails_leaves_nothing_and_says_nothing_of_paths(weights: Weights, folder: DataFolder) -> None:
    (folder.weights / "d1.safetensors").mkdir()  # the rename fails, as it would on a full disk
    with pytest.raises(StorageFailed) as failure:
        save(weights)
    assert str(folder.path) not in str(failure.value)
    assert [path.name for path in folder.weights.iterdir()] == ["d1.safetensors"]
