"""How long a test waits for what has to happen."""

from __future__ import annotations

WAIT = 90.0  # seconds; far more than any wait takes on an idle machine, since a busy one may be many times slower
