"""Purged spans never meet, the embargo holds, tests tile the test span."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cryptoml.data.splits import Fold, Span, walk_forward
from cryptoml.errors import ConfigError

SETTINGS = st.fixed_dictionaries(
    {
        "label_bars": st.integers(1, 30),
        "embargo_bars": st.integers(0, 30),
        "validation_bars": st.integers(0, 60),
        "num_folds": st.integers(1, 6),
        "train_bars": st.none() | st.integers(1, 100),
    }
)


def bars_read(span: Span, label_bars: int) -> set[int]:
    """Bars that the labels of a span's origins read."""
    return {bar for origin in range(span.start, span.stop) for bar in range(origin, origin + label_bars + 1)}


def distance(earlier: Span, later: Span, label_bars: int) -> int:
    """Bars strictly between the last bar that labels of `earlier` read and the first origin of `later`."""
    return later.start - (earlier.stop - 1 + label_bars) - 1


@given(SETTINGS, st.integers(1, 400), st.integers(1, 200))
def test_label_intervals_never_meet_and_embargo_holds(settings: dict, test_start: int, test_bars: int) -> None:
    try:
        folds = walk_forward(test_start + test_bars, test_start=test_start, **settings)
    except ConfigError:
        assume(False)
        return
    label_bars, embargo_bars = settings["label_bars"], settings["embargo_bars"]
    for fold in folds:
        spans = [span for span in (fold.train, fold.validation, fold.test) if len(span)]
        for earlier, later in pairwise(spans):
            assert not bars_read(earlier, label_bars) & bars_read(later, label_bars)
            assert distance(earlier, later, label_bars) >= embargo_bars
        assert 0 <= fold.train.start < fold.train.stop <= fold.validation.start
        assert fold.validation.stop <= fold.test.start
        assert len(fold.validation) == settings["validation_bars"]
        assert len(fold.train) == (settings["train_bars"] or fold.train.stop)


@given(SETTINGS, st.integers(300, 400), st.integers(1, 200))
def test_tests_tile_the_test_span(settings: dict, test_start: int, test_bars: int) -> None:
    assume(settings["num_folds"] <= test_bars)
    folds = walk_forward(test_start + test_bars, test_start=test_start, **settings)
    tested = [origin for fold in folds for origin in range(fold.test.start, fold.test.stop)]
    assert tested == list(range(test_start, test_start + test_bars))
    assert max(len(fold.test) for fold in folds) - min(len(fold.test) for fold in folds) <= 1


@given(SETTINGS, st.integers(1, 200))
def test_the_error_names_the_least_number_of_bars(settings: dict, test_bars: int) -> None:
    assume(settings["num_folds"] <= test_bars)
    with pytest.raises(ConfigError, match="bars are needed") as error:
        walk_forward(1 + test_bars, test_start=1, **settings)
    needed = int(str(error.value).split(": ")[1].split()[0])
    assert walk_forward(needed + test_bars, test_start=needed, **settings)
    with pytest.raises(ConfigError, match=f"{needed} bars are needed"):
        walk_forward(needed - 1 + test_bars, test_start=needed - 1, **settings)


def test_by_hand() -> None:
    folds = walk_forward(130, test_start=100, label_bars=4, embargo_bars=1, validation_bars=20, num_folds=2, train_bars=50)
    assert folds == [
        Fold(train=Span(20, 70), validation=Span(75, 95), test=Span(100, 115)),
        Fold(train=Span(35, 85), validation=Span(90, 110), test=Span(115, 130)),
    ]
    assert folds[0].test.bars == slice(100, 115)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_bars": 0}, "label_bars must be at least 1, was 0"),
        ({"embargo_bars": -1}, "embargo_bars must be at least 0, was -1"),
        ({"validation_bars": -1}, "validation_bars"),
        ({"num_folds": 0}, "num_folds"),
        ({"train_bars": 0}, "train_bars must be at least 1, was 0"),
        ({"test_start": 33}, "34 bars are needed"),
        ({"num_folds": 31}, "131 bars are needed for 31 tests"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, int], message: str) -> None:
    settings = {"test_start": 100, "label_bars": 5, "embargo_bars": 1, "validation_bars": 21, "num_folds": 2} | changes
    with pytest.raises(ConfigError, match=message):
        walk_forward(130, **settings)  # type: ignore[arg-type]
