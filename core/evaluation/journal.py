"""Every answer of a run, written down as it comes, so that a run that was stopped can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from core.errors import Refused


@dataclass(frozen=True)
class RecordedReply:
    """One answer, as it is written down."""

    text: str
    seconds: float  # of the question's share of its batch
    prompt_tokens: int
    confidence: float
    document: int | None = None  # number of the one whose weights answered; None: no weights did


class Journal:
    """What was answered so far: a line of JSON each, in a file when one is given.

    Raises: Refused, when the file to go on with belongs to other questions or settings.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any], *, resume: bool = False) -> None:
        self.replies: dict[str, RecordedReply] = {}
        self.learned: dict[str, Any] = {}  # by document, what learning it took
        self._file: TextIO | None = None
        if path and resume and path.exists():
            self._read(path, run)
        if path:
            self._file = path.open("a" if self.replies or self.learned else "w")
            if not self._file.tell():
                self._write({"run": run})

    def _read(self, path: Path, run: Mapping[str, Any]) -> None:
        lines = path.read_text().splitlines(keepends=True)
        try:
            first, *rows = [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be cut short
        except ValueError as error:
            raise Refused(f"'{path.name}' can't be resumed: it is damaged; delete it.") from error
        if first.get("run") != run:
            raise Refused(f"'{path.name}' can't be resumed: it is of other questions or settings; delete it.")
        for row in rows:
            if "key" in row:
                self.replies[row["key"]] = RecordedReply(**row["reply"])
            elif "document" in row:
                self.learned[row["document"]] = row["learned"]
        if not lines[-1].endswith("\n"):
            path.write_text("".join(lines[:-1]))

    def add(self, key: str, reply: RecordedReply) -> None:
        self.replies[key] = reply
        self._write({"key": key, "reply": asdict(reply)})

    def add_learned(self, document: str, figures: Mapping[str, Any]) -> None:
        self.learned[document] = figures
        self._write({"document": document, "learned": figures})

    def learning_figures(self) -> list[Any]:
        """What learning took, in the documents' order."""
        return [self.learned[number] for number in sorted(self.learned, key=int)]

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
