"""Sentences name the program as whoever reads them calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.program import this_program
from tests.architecture import ROOT, sources


@pytest.mark.parametrize(
    ("called", "python", "shown"),
    [
        ("/usr/local/bin/engram", "/usr/bin/python3", "engram"),
        ("/srv/bot/__main__.py", "/usr/bin/python3", "python -m bot"),
        ("/srv/bot/__main__.py", str(Path.cwd() / ".venv/bin/python"), ".venv/bin/python -m bot"),
    ],
)
def test_the_program_is_named_as_it_was_called(
    called: str, python: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [called])
    monkeypatch.setattr("sys.executable", python)
    assert this_program() == shown


def test_no_other_module_names_it() -> None:
    files = [file for file in sources() if not file.startswith("core/evaluation/")]
    assert [file for file in files if "python -m bot`" in (ROOT / file).read_text()] == []
    assert [file for file in files if "`python -m bot " in (ROOT / file).read_text()] == []
