"""How a person calls this program."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote

SCRIPT = "engram"  # what an installation puts on the path


def this_program(called: str = "", python: str = "") -> str:
    """What to type to call this program again.

    Args:
        called: path of the script that runs; "": of this process.
        python: path of the interpreter; "": of this process.
    """
    if Path(called or sys.argv[0]).name == SCRIPT:
        return SCRIPT
    interpreter = Path(python or sys.executable)
    if interpreter.is_relative_to(Path.cwd()):
        return f"{quote(str(interpreter.relative_to(Path.cwd())))} -m bot"
    return "python -m bot"
