"""Two computations at once. Small products gain little from a second core: two that have one each are done sooner than
one after the other with both."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import Executor, wait
from typing import Any, TypeVar

import torch

from core.generate import run_to_return

A = TypeVar("A")
B = TypeVar("B")
Result = TypeVar("Result")


def side_by_side(executor: Executor, here: Generator[Any, None, A], there: Generator[Any, None, B]) -> tuple[A, B]:
    """Run one generator to its end in this thread and one in the executor's, each with half of torch's threads; what
    is left of one when the other has ended has all of them. One after the other where torch has a single thread. Both
    have ended when this returns or raises.

    Returns: what the generators returned.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return run_to_return(here), run_to_return(there)
    one_has_ended = threading.Event()
    other = executor.submit(_with_threads, threads // 2, threads, there, one_has_ended)
    try:
        result = _with_threads(threads - threads // 2, threads, here, one_has_ended)
    finally:
        wait([other])
    return result, other.result()


def _with_threads(
    count: int, usual: int, steps: Generator[Any, None, Result], one_has_ended: threading.Event
) -> Result:
    """torch keeps the number for each thread that asks for it, and begins with the one that was set last in any."""
    torch.get_num_threads()  # the first time it forgets what this thread has set
    torch.set_num_threads(count)
    try:
        while True:
            next(steps)
            if count < usual and one_has_ended.is_set():
                count = usual
                torch.set_num_threads(count)
    except StopIteration as end:
        return end.value
    finally:
        one_has_ended.set()
        torch.set_num_threads(usual)
