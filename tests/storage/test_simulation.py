"""The simulation behind the table of docs/scaling.md."""

from __future__ import annotations

from tests.storage.simulate_workers import HOUR, PEAK, Machine, Usage, busy, fewest, is_enough, simulate

MACHINE = Machine("two CPU cores", page=4.0, question=0.5, batched=0.5, hour=0.1)
USAGE = Usage(questions=20.0, documents=0.5, pages=5)


def test_everything_that_comes_is_done_and_nothing_before_its_time() -> None:
    questions, documents = simulate(MACHINE, USAGE, 500, 2)
    assert abs(len(questions) - 500 * 20.0 * PEAK) < 150 and abs(len(documents) - 500 * 0.5 * PEAK) < 25
    assert min(questions) >= MACHINE.question and min(documents) >= 5 * MACHINE.page - 1e-9


def test_one_worker_less_is_not_enough_and_the_formula_says_about_as_many() -> None:
    workers = fewest(MACHINE, USAGE, 2_000)
    assert is_enough(MACHINE, USAGE, 2_000, workers) and not is_enough(MACHINE, USAGE, 2_000, workers - 1)
    assert 0.5 * busy(MACHINE, USAGE, 2_000) < workers < 2 * busy(MACHINE, USAGE, 2_000)
    assert busy(MACHINE, USAGE, 2_000) == 2_000 * PEAK / HOUR * (20 * 0.5 + 0.5 * 5 * 4)
