"""A memory that forgets: by time, and by number."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Recent:
    """Remembers for a while, and not too much. A restart begins anew: a document learned twice is still caught, by its
    sha256 in the index."""

    def __init__(self, seconds: float, keep: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._keep, self._clock = seconds, keep, clock
        self._marks: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """What was put, or None."""
        until, value = self._marks.get(key, (float("-inf"), None))
        return value if self._clock() < until else None

    def put(self, key: Hashable, value: Any = True) -> None:
        self._marks[key] = (self._clock() + self._seconds, value)
        self._marks.move_to_end(key)
        while len(self._marks) > self._keep:
            self._marks.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        self._marks.pop(key, None)

    def first(self, key: Hashable) -> bool:
        """Is it the first time in that while?"""
        if self.get(key) is not None:
            return False
        self.put(key)
        return True
