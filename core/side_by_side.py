"""Two computations at once. Small products gain little from a second core: two that have one each are done sooner than
one after the other with both."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, wait
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def side_by_side(executor: Executor, here: Callable[[], A], there: Callable[[], B]) -> tuple[A, B]:
    """Call one in this thread and one in the executor's, each with half of torch's threads; one after the other where
    torch has a single thread. Both have ended when this returns or raises."""
    threads = torch.get_num_threads()
    if threads == 1:
        return here(), there()
    other = executor.submit(_with_threads, threads // 2, threads, there)
    try:
        result = _with_threads(threads - threads // 2, threads, here)
    finally:
        wait([other])
    return result, other.result()


def _with_threads(count: int, usual: int, function: Callable[[], A]) -> A:
    """torch keeps the number for each thread that asks for it, and begins with the one that was set last in any."""
    torch.get_num_threads()  # the first time it forgets what this thread has set
    torch.set_num_threads(count)
    try:
        return function()
    finally:
        torch.set_num_threads(usual)
