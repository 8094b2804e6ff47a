"""Two computations at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from core.side_by_side import side_by_side


@pytest.fixture
def threads():
    usual = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(usual)


@pytest.fixture
def executor():
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


def test_both_run_at_the_same_time_with_a_share_of_the_threads(threads, executor) -> None:
    meeting = threading.Barrier(2)

    def compute(name: str) -> tuple[str, int]:
        meeting.wait(10)
        return name, torch.get_num_threads()

    assert side_by_side(executor, lambda: compute("here"), lambda: compute("there")) == (("here", 3), ("there", 2))
    assert torch.get_num_threads() == executor.submit(torch.get_num_threads).result() == 5


def test_with_one_thread_they_run_one_after_the_other(threads, executor) -> None:
    torch.set_num_threads(1)
    here, there = side_by_side(executor, threading.get_ident, threading.get_ident)
    assert here == there == threading.get_ident()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_once_both_have_ended(threads, executor, failing) -> None:
    ended = threading.Event()

    def fail() -> None:
        raise ValueError

    def take_long() -> None:
        ended.wait(0.2)
        ended.set()

    both = [take_long, take_long]
    both[failing] = fail
    with pytest.raises(ValueError):
        side_by_side(executor, *both)
    assert ended.is_set() and torch.get_num_threads() == 5
