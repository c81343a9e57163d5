"""Walk-forward splits with purging by label interval and an embargo.

Lopez de Prado, Advances in Financial Machine Learning (2018), ch. 7: what a training label reads must not overlap what
a test label reads, and serial correlation asks for a further distance.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from cryptoml.errors import ConfigError

__all__ = ["Fold", "Span", "first_test_bar", "walk_forward"]


@dataclass(frozen=True)
class Span:
    """A half-open range `[start, stop)` of forecast origins, in bars."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def bars(self) -> slice:
        """The span as a slice of a time axis."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Fold:
    """One refit: `train` and `validation` lie before `test`, far enough that no label intervals meet.

    Attributes:
        train: Origins that are learned from.
        validation: Later origins of the training period for early stopping, calibration and selection; may be empty.
        test: Origins that are forecast out of sample. The labels of the last ones may end after the data.
    """

    train: Span
    validation: Span
    test: Span


def walk_forward(
    num_bars: int,
    *,
    test_start: int,
    label_bars: int,
    embargo_bars: int,
    validation_bars: int,
    num_folds: int = 1,
    train_bars: int | None = None,
) -> list[Fold]:
    """Split bars into folds that each train on the past and test on what follows.

    The label of origin t reads the closes of `[t, t + label_bars]`. Between the last bar that an earlier span's labels read
    and the first origin of the later span lie at least `embargo_bars` bars, from train to validation and from validation
    to test alike. The tests tile `[test_start, num_bars)` in order.

    Args:
        num_bars: Bars of the data.
        test_start: First origin of the first test.
        label_bars: Bars after its origin that the longest label reads.
        embargo_bars: Extra distance between spans.
        validation_bars: Origins of each validation span; 0 for none.
        num_folds: Number of refits, with tests of equal length (to a bar).
        train_bars: Origins of each training span (rolling); None trains from the first bar on (expanding).

    Raises:
        ConfigError: A setting is out of range or the data is too short; the message says how many bars are needed.
    """
    _check_settings(label_bars, embargo_bars, validation_bars, num_folds, train_bars)
    gap = label_bars + embargo_bars
    held_back = gap + (validation_bars + gap if validation_bars else 0)
    needed = held_back + (train_bars or 1)
    if test_start < needed:
        raise ConfigError(
            f"test_start = {test_start} leaves too few bars before the test: {needed} bars are needed for {train_bars or 1} "
            f"training and {validation_bars} validation origins with {label_bars} label and {embargo_bars} embargo bars"
        )
    if num_bars - test_start < num_folds:
        raise ConfigError(f"num_bars = {num_bars} is too short: {test_start + num_folds} bars are needed for {num_folds} tests")
    edges = np.linspace(test_start, num_bars, num_folds + 1).astype(int).tolist()
    return [_fold(Span(start, stop), gap, validation_bars, train_bars) for start, stop in pairwise(edges)]


def first_test_bar(stamps: pd.DatetimeIndex, train_end: str | pd.Timestamp | None, test_fraction: float) -> int:
    """Return the first bar after the instant that training may reach.

    Args:
        stamps: Bar opens, UTC.
        train_end: An instant, UTC unless it says otherwise; a plain date such as 2023-12-31 means to the end of that day.
            None makes the last `test_fraction` of the bars the test.
        test_fraction: Share of the bars.

    Raises:
        ConfigError: The text is no date, or lies outside the data.
    """
    if train_end is None:
        return round(len(stamps) * (1 - test_fraction))
    plain = isinstance(train_end, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", train_end.strip())
    if isinstance(train_end, str) and not re.match(r"\d{4}-\d{2}-\d{2}", train_end.strip()):
        raise ConfigError(f"train_end must be a date such as 2023-12-31, was {train_end!r}")
    try:
        instant = pd.Timestamp(train_end)
    except ValueError as error:
        raise ConfigError(f"train_end must be a date such as 2023-12-31, was {train_end!r}") from error
    instant = instant.tz_localize("UTC") if instant.tz is None else instant
    instant += pd.Timedelta(days=1 if plain else 0)
    if not stamps[0] < instant <= stamps[-1]:
        raise ConfigError(f"train_end must lie inside the data, {stamps[0]:%Y-%m-%d} to {stamps[-1]:%Y-%m-%d}, was {train_end}")
    return int(stamps.searchsorted(instant))


def _fold(test: Span, gap: int, validation_bars: int, train_bars: int | None) -> Fold:
    validation = Span(test.start - gap - validation_bars, test.start - gap)
    train_stop = validation.start - gap if validation_bars else validation.stop
    return Fold(Span(0 if train_bars is None else train_stop - train_bars, train_stop), validation, test)


def _check_settings(label_bars: int, embargo_bars: int, validation_bars: int, num_folds: int, train_bars: int | None) -> None:
    bounds = {"label_bars": (label_bars, 1), "embargo_bars": (embargo_bars, 0), "validation_bars": (validation_bars, 0)}
    bounds |= {"num_folds": (num_folds, 1), "train_bars": (1 if train_bars is None else train_bars, 1)}
    for name, (value, least) in bounds.items():
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, was {value}")
