"""The terminal: every use case as a command."""

from __future__ import annotations

import os
import sys

from bot.cli import demo, documents, models, operating, playground, questions
from bot.cli.base import cli

__all__ = ["cli", "demo", "documents", "main", "models", "operating", "playground", "questions"]

# As --help lists them: to try it, to use it, to run it, to study it.
ORDER = [
    *("demo", "playground", "learn", "ask", "docs", "forget", "reset"),
    *("read", "relearn", "consolidate", "corrections", "forget-person"),
    *("serve", "worker", "doctor", "status", "sync", "slack-manifest", "backup", "restore", "migrate"),
    *("prepare", "bench"),
]
cli.registered_commands.sort(key=lambda command: ORDER.index(str(command.name)))


def main() -> None:
    """The process, from its arguments to its end.

    All files are closed when a command has ended, so nothing is waited for: torch takes half a second to leave, and the
    device's thread may be in the middle of a long call.
    """
    try:
        cli()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)
