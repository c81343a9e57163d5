"""Two processes that train together give what one does with the whole batches."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryptoml.errors import ConfigError
from cryptoml.training.workers import Workers
from tests.training.parallel_cases import CASES, run_cases


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of every case on two processes."""
    context = multiprocessing.get_context("spawn")
    folder, results = tmp_path_factory.mktemp("parallel"), context.Queue()
    workers = [context.Process(target=run_cases, args=(rank, 2, folder, results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    told = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(timeout=30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    return [told[0], told[1]]


def alone(name: str, folder: Path) -> Any:
    return CASES[name](0, 1, folder)


def largest_difference(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    assert left.keys() == right.keys()
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


GRADIENTS = [name for name in CASES if name.startswith("gradients")]
FITTED = [
    "fitted_linear",
    "fitted_tcn",
    "fitted_tft",
    "fitted_patch",
    "fitted_accumulated",
    "fitted_early",
    "fitted_wrapped",
    "member",
]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_the_whole_batch(ranks: list[dict[str, Any]], tmp_path: Path, name: str) -> None:
    expected = alone(name, tmp_path)
    assert len(expected) == len(ranks[0][name]) == len(ranks[1][name])
    for step, (one, *parts) in enumerate(zip(expected, ranks[0][name], ranks[1][name], strict=True)):
        assert max(np.abs(values).max() for values in one.values()) > 1e-3
        for part in parts:
            assert largest_difference(one, part) < 1e-5, f"step {step}"


@pytest.mark.parametrize("name", FITTED)
def test_the_fit_is_that_of_the_whole_batch(ranks: list[dict[str, Any]], tmp_path: Path, name: str) -> None:
    expected, history = alone(name, tmp_path)
    weights, told = ranks[0][name]
    assert largest_difference(weights, expected) < 1e-4
    assert told.keys() == history.keys()
    for figure, values in history.items():
        np.testing.assert_allclose(told[figure], values, rtol=1e-4, atol=1e-6, err_msg=figure)


@pytest.mark.parametrize("name", [*FITTED, "fitted_dropout", "member_dropout"])
def test_all_ranks_end_with_the_same_bits(ranks: list[dict[str, Any]], name: str) -> None:
    (left, left_history), (right, right_history) = (rank[name] for rank in ranks)
    assert largest_difference(left, right) == 0.0
    np.testing.assert_equal(left_history, right_history)


def test_early_stopping_stops_all_ranks_at_once(ranks: list[dict[str, Any]]) -> None:
    epochs = {len(rank["fitted_early"][1]["val_loss"]) for rank in ranks}
    assert len(epochs) == 1
    assert epochs.pop() < 40


def test_the_first_rank_alone_writes_and_all_go_on_from_its_checkpoint(ranks: list[dict[str, Any]]) -> None:
    (weights, files, kept), (other, no_files, not_kept) = (rank["resumed_member"] for rank in ranks)
    assert files == ["best.safetensors", "last.safetensors"]
    assert no_files == []
    assert (kept, not_kept) == (True, False)
    assert largest_difference(weights, other) == 0.0
    assert largest_difference(weights, ranks[0]["member_dropout"][0]) == 0.0


def test_the_place_of_checkpoints_is_that_of_the_first_rank(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["kept_by_the_first"] == [
        "best.safetensors",
        "epoch-0001.safetensors",
        "epoch-0002.safetensors",
        "last.safetensors",
    ]
    assert ranks[1]["kept_by_the_first"] == []


def test_all_ranks_hear_where_a_loss_is_not_finite(ranks: list[dict[str, Any]]) -> None:
    told = [rank["infinite"] for rank in ranks]
    assert told[0] == told[1]
    assert "bars 200 to 204, infinite values of ETHUSDT" in told[0]


def test_all_ranks_hear_that_a_checkpoint_cannot_be_written(ranks: list[dict[str, Any]]) -> None:
    assert "blocked cannot be written" in ranks[0]["blocked"]
    assert ranks[0]["blocked"] == ranks[1]["blocked"]


def test_loaders_of_unequal_length_are_refused_before_anything_starts(ranks: list[dict[str, Any]]) -> None:
    assert all("all workers must have as many batches" in rank["uneven"] for rank in ranks)


def test_plain_batches_of_unequal_size_weigh_by_their_examples(ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    assert largest_difference(ranks[0]["pairs"], alone("pairs", tmp_path)) < 1e-6
    assert largest_difference(ranks[0]["pairs"], ranks[1]["pairs"]) == 0.0


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [(2, 2, "rank must be at least 0 and below world_size 2, was 2"), (0, 2, "process group of that")],
)
def test_workers_are_checked(rank: int, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Workers(rank, size)
