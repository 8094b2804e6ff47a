"""How many workers so many channels need: the busiest hour of a day, simulated. The table of docs/scaling.md.

python -m tests.storage.simulate_workers [--channels 1000 100000] [--questions 20] [--pages 5] ...

A worker learns a document in slices, and looks between two of them whether somebody asks; it answers those that wait in
one batch. That is how `storage.workers` and `core.device` share a device; what a slice and a question cost is given.
"""

from __future__ import annotations

import argparse
import heapq
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

PEAK = 0.15  # of a day's work in its busiest hour
HOUR = 3600.0
AT_ONCE = 16  # questions in one batch of a worker: storage.workers.MAX_CALLS
QUESTION_WITHIN, DOCUMENT_WITHIN = 3.0, 600.0  # seconds, for 95 of 100
SLICES = 4  # of a page: two steps of two sections
DAYS = 22  # of work in a month


@dataclass(frozen=True)
class Machine:
    """What one worker takes."""

    name: str
    page: float  # seconds to read, learn, check and save a page
    question: float  # seconds for one question
    batched: float  # what one more of the same batch takes, as a part of that
    hour: float  # price, in dollars


@dataclass(frozen=True)
class Usage:
    """Of an average channel, a day."""

    questions: float
    documents: float
    pages: int  # of a document


def simulate(machine: Machine, usage: Usage, channels: int, workers: int) -> tuple[list[float], list[float]]:
    """Seconds that questions and documents of the busiest hour took, from their coming to their end."""
    chance = random.Random(channels)
    questions = arrivals(chance, channels * usage.questions * PEAK / HOUR)
    documents = arrivals(chance, channels * usage.documents * PEAK / HOUR)
    free = [(0.0, number) for number in range(workers)]  # when each worker has nothing in hand
    begun: list[tuple[float, int] | None] = [None] * workers  # its document, and the slices that are left
    asked, waiting = deque(questions), deque(documents)
    took: tuple[list[float], list[float]] = ([], [])
    while asked or waiting or any(begun):
        now, worker = heapq.heappop(free)
        if asked and asked[0] <= now:
            batch = [asked.popleft() for _ in range(min(AT_ONCE, bisect_left(asked, now, hi=min(AT_ONCE, len(asked)))))]
            batch = batch or [asked.popleft()]
            now += machine.question * (1 + machine.batched * (len(batch) - 1))
            took[0].extend(now - came for came in batch)
        elif current := begun[worker]:
            came, left = current
            now += machine.page / SLICES
            begun[worker] = (came, left - 1) if left > 1 else None
            took[1].extend([now - came] if left == 1 else [])
        elif waiting and waiting[0] <= now:
            begun[worker] = waiting.popleft(), usage.pages * SLICES
        else:
            upcoming = [line[0] for line in (asked, waiting) if line]
            if not upcoming:
                continue  # the others finish what they have begun
            now = max(now, min(upcoming)) + 1e-6
        heapq.heappush(free, (now, worker))
    return took


def arrivals(chance: random.Random, a_second: float) -> list[float]:
    """Times within the hour."""
    times, now = [], chance.expovariate(a_second)
    while now < HOUR:
        times.append(now)
        now += chance.expovariate(a_second)
    return times


def at(share: float, seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(share * (len(seconds) - 1))] if seconds else 0.0


def is_enough(machine: Machine, usage: Usage, channels: int, workers: int) -> bool:
    questions, documents = simulate(machine, usage, channels, workers)
    return at(0.95, questions) <= QUESTION_WITHIN and at(0.95, documents) <= DOCUMENT_WITHIN


def busy(machine: Machine, usage: Usage, channels: int) -> float:
    """Seconds of workers that a second of the busiest hour takes, with no question in a batch: the formula."""
    work = usage.questions * machine.question + usage.documents * usage.pages * machine.page
    return channels * PEAK / HOUR * work


def fewest(machine: Machine, usage: Usage, channels: int) -> int:
    """Workers with which both promises hold."""
    low, high = 1, max(2, round(2 * busy(machine, usage, channels)) + 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(machine, usage, channels, middle) else (middle + 1, high)
    return low


def row(machine: Machine, usage: Usage, channels: int, options: argparse.Namespace) -> str:
    workers = fewest(machine, usage, channels)
    questions, documents = simulate(machine, usage, channels, workers)
    pages = channels * usage.documents * usage.pages * DAYS * options.months
    weights, text = pages * options.weights_mb / 1e3, pages * options.index_kb / 1e6  # GB
    stored = (weights + text) * options.gb
    cells = [
        f"{channels:,}",
        machine.name,
        f"{len(questions) / HOUR:.1f}",
        f"{len(documents) * usage.pages / HOUR:.2f}",
        f"{busy(machine, usage, channels):.1f}",
        f"{workers:,}",
        f"{at(0.5, questions):.1f} / {at(0.95, questions):.1f} s",
        f"{at(0.5, documents):.0f} / {at(0.95, documents):.0f} s",
        f"{weights:,.0f} + {text:,.0f} GB",
        f"{workers * machine.hour * 24 * 30:,.0f} + {stored:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.storage.simulate_workers", description=__doc__)
    parser.add_argument("--channels", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--questions", type=float, default=5.0, help="of a channel a day")
    parser.add_argument("--documents", type=float, default=0.2, help="of a channel a day")
    parser.add_argument("--pages", type=int, default=5, help="of a document")
    parser.add_argument("--months", type=int, default=12, help="for which documents are kept")
    parser.add_argument("--weights-mb", type=float, default=2.3, help="of a page")
    parser.add_argument("--index-kb", type=float, default=40.0, help="of a page: text, words and codes, sealed")
    parser.add_argument("--gb", type=float, default=0.023, help="price of a GB for a month")
    parser.add_argument("--cpu", type=float, nargs=4, default=[5.2, 1.0, 0.9, 0.1], help=MACHINE)
    parser.add_argument("--gpu", type=float, nargs=4, default=[0.9, 0.09, 0.19, 3.0], help=MACHINE)
    return parser


MACHINE = "seconds a page, seconds a question, part of it for one more in a batch, price of an hour"


def main() -> None:
    options = parser().parse_args()
    usage = Usage(options.questions, options.documents, options.pages)
    print(
        "| channels | a worker is | questions a second | pages a second | workers busy | workers "
        "| question: median / 95 % | document | weights + index | $ a month: workers + storage |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for channels in options.channels:
        for name, values in (("two CPU cores", options.cpu), ("one GPU", options.gpu)):
            print(row(Machine(name, *values), usage, channels, options))


if __name__ == "__main__":
    main()
