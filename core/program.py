"""How a person calls this program."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote

SCRIPT = "engram"  # what an installation puts on the path


def pip_install(extra: str) -> str:
    """How to install an extra of this package (pyproject.toml), for a sentence."""
    return f"`pip install '.[{extra}]'` in the checkout"


def this_program() -> str:
    """What to type to call this program again."""
    if Path(sys.argv[0]).name == SCRIPT:
        return SCRIPT
    interpreter = Path(sys.executable)
    if interpreter.is_relative_to(Path.cwd()):
        return f"{quote(str(interpreter.relative_to(Path.cwd())))} -m bot"
    return "python -m bot"
