"""One process at a time."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import DataFolderBusy, SetupError
from storage.folder import DataFolder
from storage.index import Index
from storage.weights import Weights
from tests.storage.samples import make_learned

HOLD = "import sys, pathlib, time\nfrom storage.folder import DataFolder\n"
HOLD += "with DataFolder(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataFolderBusy), DataFolder(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    with DataFolder(tmp_path):
        pass


def test_a_refusal_leaves_the_lock_where_it_is(tmp_path: Path) -> None:
    with DataFolder(tmp_path):
        for _ in range(2):
            with pytest.raises(DataFolderBusy), DataFolder(tmp_path):
                pass


def test_a_new_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    with DataFolder(tmp_path / "a" / "data") as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700


async def test_in_a_folder_that_others_may_read_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with DataFolder(tmp_path) as folder:
        async with Index(folder.index) as index:
            await index.receive("slack:Ev1", "{}")
            Weights(folder.weights).save("d1", "here", make_learned(1.0), base="base", learner="lora")
            files = [path for path in tmp_path.rglob("*") if path.name != "lock"]
            assert len(files) > 3 and [path.name for path in files if path.stat().st_mode & 0o077] == []


def test_a_folder_that_is_a_file_is_refused_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError) as refusal, DataFolder(tmp_path / "file"):
        pass
    assert str(tmp_path) not in str(refusal.value)


def test_a_folder_that_was_open_to_all_is_closed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    with DataFolder(tmp_path / "data"):
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("storage.folder.fcntl.flock", no_locks)
    with pytest.raises(SetupError, match="no locks"), DataFolder(tmp_path / "data"):
        pass
