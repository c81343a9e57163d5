"""Every formula of one symbol written plainly, bar by bar: the oracle that shares no code with the features.

A formula gets a `Window`, the last `lookback` rows and nothing else, and returns one number. It raises `TieError` where a
comparison hangs on the last digits of a mean.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd


class TieError(Exception):
    """Rounding decides."""


@dataclass
class Window:
    """Columns `[row]` of the last rows, the newest last."""

    columns: dict[str, np.ndarray]
    stamp: pd.Timestamp
    bars_per_year: float

    def __getitem__(self, name):
        return self.columns[name]

    def __getattr__(self, name):
        return self.columns[{"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}[name]]

    @property
    def r(self):
        return np.diff(np.log(self.c))

    @property
    def tr(self):
        return np.maximum(self.h[1:], self.c[:-1]) - np.minimum(self.l[1:], self.c[:-1])

    @property
    def typical(self):
        return (self.h + self.l + self.c) / 3

    def annual(self, variance):
        return math.sqrt(max(variance, 0.0) * self.bars_per_year)


def mean(x):
    return x[-1] + math.fsum(x - x[-1]) / len(x)


def squares(x):
    return math.fsum((x - mean(x)) ** 2)


def std(x):
    return math.sqrt(squares(x) / max(len(x) - 1, 1))


def products(x, y):
    return math.fsum((x - mean(x)) * (y - mean(y)))


def ratio(top, bottom, undefined=math.nan):
    return top / bottom if bottom else undefined


def correlation(x, y, undefined=math.nan):
    return ratio(products(x, y), math.sqrt(squares(x)) * math.sqrt(squares(y)), undefined)


def zscore(x):
    return ratio(x[-1] - mean(x), std(x), 0.0)


def bars_kept(decay):
    """All but 1e-8 of the weight, rounded up to three binary digits."""
    needed = math.ceil(math.log(1e-8) / math.log(decay))
    unit = 2 ** max(needed.bit_length() - 3, 0)
    return math.ceil(needed / unit) * unit


def smooth(x, decay):
    """Exponential mean of the bars kept."""
    n = bars_kept(decay)
    assert len(x) >= n
    weights = decay ** np.arange(n)[::-1]
    return x[-1] + math.fsum(weights * (x[-n:] - x[-1])) / math.fsum(weights)


def smoothed(x, decay):
    """`smooth` at every bar that has enough before it."""
    n = bars_kept(decay)
    return np.array([smooth(x[: stop + 1], decay) for stop in range(n - 1, len(x))])


def span(n):
    return 1 - 2 / (n + 1)


def wilder(n):
    return 1 - 1 / n


def position(value, low, high):
    return ratio(value - low, high - low, 0.5)


def decided(left, right):
    """Compare numbers of which one is a mean."""
    if 0 < max(abs(left), abs(right)) * 1e-9 >= abs(left - right):
        raise TieError
    return np.sign(left - right)
