"""How long a test waits for what has to happen."""

from __future__ import annotations

WAIT = 90.0  # seconds; far more than it takes, for a busy machine is slow, not wrong
