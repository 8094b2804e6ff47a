"""What a data folder holds beside what `storage.check` looks at."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from storage.check import open_database
from storage.index import read_weights


def job_stages(folder: Path) -> dict[str, tuple[str, bool]]:
    """Name of a job, the newest of that name -> its stage, and whether it was told."""
    with closing(open_database(folder / "engram.db")) as index:
        rows = index.execute("SELECT name, stage, delivered FROM jobs ORDER BY number").fetchall()
    return {name: (stage, bool(delivered)) for name, stage, delivered in rows}


def strays(folder: Path) -> list[str]:
    """Files under weights/ that no row names; the next start moves its own to the trash."""
    with closing(open_database(folder / "engram.db")) as index:
        index.row_factory = sqlite3.Row
        known = {Path(record.path).name for record in read_weights(index)}
    return sorted({path.name for path in (folder / "weights").glob("*")} - known - {"trash"})
