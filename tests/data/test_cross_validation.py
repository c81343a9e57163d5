"""Combinatorial purged splits: labels never meet on either side of a test, every group is tested equally often."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cryptoml.data.cross_validation import PurgedSplit, backtest_paths, combinatorial_purged
from cryptoml.data.splits import Span
from cryptoml.errors import ConfigError

SETTINGS = st.fixed_dictionaries(
    {
        "num_groups": st.integers(2, 8),
        "num_test_groups": st.integers(1, 4),
        "label_bars": st.integers(1, 12),
        "embargo_bars": st.integers(0, 12),
    }
)


def splits_of(span: Span, settings: dict[str, int]) -> list[PurgedSplit]:
    assume(settings["num_test_groups"] < settings["num_groups"])
    try:
        return combinatorial_purged(span, **settings)
    except ConfigError as error:
        assume("too short" not in str(error))
        raise


def origins(spans: tuple[Span, ...]) -> np.ndarray:
    return np.concatenate([np.arange(one.start, one.stop) for one in spans])


@given(SETTINGS, st.integers(0, 50), st.integers(100, 500))
def test_no_training_label_meets_a_test_label(settings: dict[str, int], start: int, num_bars: int) -> None:
    label_bars, embargo_bars = settings["label_bars"], settings["embargo_bars"]
    for split in splits_of(Span(start, start + num_bars), settings):
        train, test = origins(split.train), origins(split.test)
        read = (test[:, None] + np.arange(label_bars + 1)).ravel()
        near = (train[:, None] + np.arange(-embargo_bars, label_bars + embargo_bars + 1)).ravel()
        assert not np.intersect1d(read, near).size


@given(SETTINGS, st.integers(0, 50), st.integers(100, 500))
def test_only_what_is_too_near_is_purged(settings: dict[str, int], start: int, num_bars: int) -> None:
    span, gap = Span(start, start + num_bars), settings["label_bars"] + settings["embargo_bars"]
    for split in splits_of(span, settings):
        test = origins(split.test)
        free = [bar for bar in range(span.start, span.stop) if np.abs(test - bar).min() > gap]
        assert set(free) <= set(origins(split.train).tolist())
        assert set(origins(split.train).tolist()) <= set(range(span.start, span.stop)) - set(test.tolist())


@given(SETTINGS, st.integers(200, 500))
def test_every_choice_of_groups_once_and_every_bar_equally_often(settings: dict[str, int], num_bars: int) -> None:
    splits = splits_of(Span(0, num_bars), settings)
    groups, tested = settings["num_groups"], settings["num_test_groups"]
    assert len({split.groups for split in splits}) == len(splits) == comb(groups, tested)
    counts = np.zeros(num_bars, dtype=int)
    for split in splits:
        counts[origins(split.test)] += 1
        assert all(earlier.stop <= later.start for earlier, later in pairwise(split.train))
    assert (counts == comb(groups - 1, tested - 1)).all()


@given(st.integers(2, 9), st.integers(1, 4))
def test_paths_cover_every_group_by_a_split_that_tests_it_and_use_each_forecast_once(groups: int, tested: int) -> None:
    assume(tested < groups)
    paths = backtest_paths(groups, tested)
    splits = combinatorial_purged(Span(0, 2000), num_groups=groups, num_test_groups=tested, label_bars=1, embargo_bars=0)
    assert paths.shape == (comb(groups - 1, tested - 1), groups)
    used = [(int(split), group) for path in paths for group, split in enumerate(path)]
    assert len(set(used)) == len(used)
    assert all(group in splits[split].groups for split, group in used)


def test_by_hand() -> None:
    splits = combinatorial_purged(Span(0, 60), num_groups=3, num_test_groups=1, label_bars=3, embargo_bars=2)
    assert splits == [
        PurgedSplit((0,), (Span(25, 60),), (Span(0, 20),)),
        PurgedSplit((1,), (Span(0, 15), Span(45, 60)), (Span(20, 40),)),
        PurgedSplit((2,), (Span(0, 35),), (Span(40, 60),)),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 1}, "num_groups must be between 2 and 60, was 1"),
        ({"num_test_groups": 3}, "num_test_groups must be between 1 and 2, was 3"),
        ({"label_bars": 0}, "label_bars must be at least 1, was 0"),
        ({"embargo_bars": -1}, "embargo_bars must be at least 0, was -1"),
        ({"label_bars": 40}, r"span of 60 bars is too short: test groups \(0,\)"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, int], message: str) -> None:
    settings = {"num_groups": 3, "num_test_groups": 1, "label_bars": 3, "embargo_bars": 2} | changes
    with pytest.raises(ConfigError, match=message):
        combinatorial_purged(Span(0, 60), **settings)
