"""How long an event loop stands still."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path


class Stall:
    """How long the event loop stood still at most, by a ticker of 10 ms; and how long at most without the time in which
    the kernel, or the host of a virtual machine, gave the processors to others."""

    def __init__(self) -> None:
        self.longest = self.own = 0.0
        self._file = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")

    def waited(self) -> float:
        """Seconds that this thread was ready to run and did not, and that the host took from each processor in the mean
        (proc(5): schedstat, steal); 0 where the kernel does not say."""
        if not self._file.exists():
            return 0.0
        with open("/proc/stat") as file:
            stolen = int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
        return int(self._file.read_text().split()[1]) / 1e9 + stolen

    async def watch(self) -> None:
        while True:
            before, waited = time.perf_counter(), self.waited()
            await asyncio.sleep(0.01)
            late = time.perf_counter() - before - 0.01
            self.longest = max(self.longest, late)
            self.own = max(self.own, late - (self.waited() - waited))
