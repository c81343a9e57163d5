"""Combinatorial purged cross-validation: every choice of test groups, with training rows purged on both sides.

Lopez de Prado, Advances in Financial Machine Learning (2018), ch. 12. For choosing between models inside a training span;
the walk-forward of `cryptoml.data.splits` is what judges them.
"""

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from cryptoml.data.splits import Span
from cryptoml.errors import ConfigError

__all__ = ["PurgedSplit", "backtest_paths", "combinatorial_purged"]


@dataclass(frozen=True)
class PurgedSplit:
    """One choice of test groups.

    Attributes:
        groups: Numbers of the groups that are the test, ascending.
        train: Origins that may be learned from, in order; none is empty.
        test: Origins that are forecast, one span per group.
    """

    groups: tuple[int, ...]
    train: tuple[Span, ...]
    test: tuple[Span, ...]


def combinatorial_purged(
    span: Span, *, num_groups: int, num_test_groups: int, label_bars: int, embargo_bars: int
) -> list[PurgedSplit]:
    """Cut a span of forecast origins into groups and make a split of every choice of `num_test_groups` of them.

    The label of origin t reads the closes of `[t, t + label_bars]`. Between what a training label reads and what a test
    label reads lie at least `embargo_bars` bars, before the test and after it.

    Args:
        span: Origins to split, such as a walk-forward's training span.
        num_groups: Groups of equal length (to a bar).
        num_test_groups: Groups in each test, fewer than `num_groups`.
        label_bars: Bars after its origin that the longest label reads.
        embargo_bars: Extra distance between training and test labels.

    Returns:
        One split per choice, in lexicographic order of the groups.

    Raises:
        ConfigError: A setting is out of range, or the purge leaves a split without training origins.
    """
    _check(span, num_groups, num_test_groups, label_bars, embargo_bars)
    edges = np.linspace(span.start, span.stop, num_groups + 1).astype(int).tolist()
    groups = [Span(start, stop) for start, stop in pairwise(edges)]
    gap = label_bars + embargo_bars
    splits = [_split(span, groups, chosen, gap) for chosen in combinations(range(num_groups), num_test_groups)]
    for split in splits:
        if not split.train:
            raise ConfigError(
                f"span of {len(span)} bars is too short: test groups {split.groups} with {label_bars} label and {embargo_bars} "
                "embargo bars leave nothing to train on"
            )
    return splits


def backtest_paths(num_groups: int, num_test_groups: int) -> np.ndarray:
    """Return which split forecasts each group on each path `[path, group]`, indices into `combinatorial_purged`'s list.

    Every group is tested by `comb(num_groups - 1, num_test_groups - 1)` splits, and that many paths run through all groups
    (ch. 12.4): the k-th path takes each group's k-th split.
    """
    chosen = list(combinations(range(num_groups), num_test_groups))
    testing = [[index for index, groups in enumerate(chosen) if group in groups] for group in range(num_groups)]
    return np.array(testing).T


def _split(span: Span, groups: list[Span], chosen: tuple[int, ...], gap: int) -> PurgedSplit:
    test = tuple(groups[index] for index in chosen)
    train, start = [], span.start
    for one in test:
        train.append(Span(start, one.start - gap))
        start = one.stop + gap
    train.append(Span(start, span.stop))
    return PurgedSplit(chosen, tuple(part for part in train if part.stop > part.start), test)


def _check(span: Span, num_groups: int, num_test_groups: int, label_bars: int, embargo_bars: int) -> None:
    bounds = {
        "num_groups": (num_groups, 2, span.stop - span.start),
        "num_test_groups": (num_test_groups, 1, num_groups - 1),
        "label_bars": (label_bars, 1, None),
        "embargo_bars": (embargo_bars, 0, None),
    }
    for name, (value, least, most) in bounds.items():
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"between {least} and {most}"
            raise ConfigError(f"{name} must be {limits}, was {value}")
