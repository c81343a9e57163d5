"""The model of the scheduler, against schedules worked out by hand."""

import pytest

from benchmarks.scaling import Market, demands, makespan
from benchmarks.scaling_costs import Costs, Done, pauses

FREE = Costs(row=1e-5, file=0.1, reads=4.0, writes=1.0)


def test_equal_tasks_fill_the_workers_in_rounds() -> None:
    assert makespan([1.0] * 7, 3, FREE) == pytest.approx(3.0)


def test_the_longest_task_bounds_the_end() -> None:
    assert makespan([10.0, 1.0, 1.0, 1.0], 2, FREE) == pytest.approx(10.0)


def test_a_slow_driver_hands_tasks_out_one_after_the_other() -> None:
    slow = Costs(**{**vars(FREE), "dispatch": 2.0})
    assert makespan([1.0] * 5, 100, slow) == pytest.approx(5 * 2.0 + 1.0)


def test_a_worker_rests_between_tasks() -> None:
    resting = Costs(**{**vars(FREE), "gap": 0.5})
    assert makespan([1.0] * 4, 1, resting) == pytest.approx(5.5)


def test_the_other_workers_begin_later() -> None:
    late = Costs(**{**vars(FREE), "start": 1.0, "ramp": 2.0})
    assert makespan([1.0] * 4, 2, late) == pytest.approx(1.0 + 3.0)
    assert makespan([4.0] * 3, 3, late) == pytest.approx(1.0 + 2.0 + 4.0)


def test_pauses_are_read_from_what_workers_did() -> None:
    tasks = [Done("a", 0.5, 1.0), Done("a", 1.2, 1.7), Done("b", 1.5, 2.0), Done("a", 1.9, 2.4), Done("b", 2.4, 2.9)]
    assert pauses(tasks) == pytest.approx((0.5, 1.0, (0.2 + 0.2 + 0.4) / 3))


def test_tasks_hold_every_row_once() -> None:
    market = Market(symbols=7, rows=130_000, chunk_bars=50_000, features=10)
    assert sorted(market.file_rows.tolist()) == [30_000] * 7 + [50_000] * 14
    assert sum(market.tasks(FREE, 4)) == pytest.approx(7 * 130_000 * FREE.row + 21 * FREE.file)


def test_loads_grow_with_the_workers_and_the_store_holds_no_features() -> None:
    market = Market(symbols=100, rows=500_000, chunk_bars=50_000, features=300)
    costs = Costs(**{**vars(FREE), "dispatch": 0.002, "call": 0.001})
    few, many = demands(market, costs, 10), demands(market, costs, 1_000)
    part = "driver: handing out tasks"
    assert many[part][0] > 50 * few[part][0]
    assert many["object store, as it is"][0] < 1e-3 * many["object store, if features passed it"][0]
