"""Two computations at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
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

    def compute(name: str) -> Generator[None, None, tuple[str, int]]:
        meeting.wait(10)
        count = torch.get_num_threads()
        yield
        return name, count

    assert side_by_side(executor, compute("here"), compute("there")) == (("here", 3), ("there", 2))
    assert torch.get_num_threads() == executor.submit(torch.get_num_threads).result() == 5


def test_what_is_left_of_one_has_all_threads(threads, executor) -> None:
    ended = threading.Event()

    def short() -> Generator[None, None, None]:
        ended.set()
        yield

    def long() -> Generator[None, None, list[int]]:
        counts = [torch.get_num_threads()]
        ended.wait(10)
        while counts[-1] < 5 and len(counts) < 1000:
            time.sleep(0.01)
            yield
            counts.append(torch.get_num_threads())
        return counts

    _, counts = side_by_side(executor, short(), long())
    assert counts[0] == 2 and counts[-1] == 5
    assert torch.get_num_threads() == executor.submit(torch.get_num_threads).result() == 5


def test_with_one_thread_they_run_one_after_the_other(threads, executor) -> None:
    def in_thread() -> Generator[None, None, int]:
        yield
        return threading.get_ident()

    torch.set_num_threads(1)
    here, there = side_by_side(executor, in_thread(), in_thread())
    assert here == there == threading.get_ident()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_once_both_have_ended(threads, executor, failing) -> None:
    ended = threading.Event()

    def fail() -> Generator[None, None, None]:
        yield
        raise ValueError

    def take_long() -> Generator[None, None, None]:
        ended.wait(0.2)
        yield
        ended.set()

    both = [take_long(), take_long()]
    both[failing] = fail()
    with pytest.raises(ValueError):
        side_by_side(executor, *both)
    assert ended.is_set() and torch.get_num_threads() == 5
