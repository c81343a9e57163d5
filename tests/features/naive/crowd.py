"""Cross-sectional features a second time: one bar of one asset at a time, from candles, with plain loops.

A crowd is highs, lows, closes and volumes `[asset, time]` with NaN where a bar is absent, and the row of the leader. Each
formula returns the value of one asset at one bar; windows come in bars.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

__all__ = ["FORMULAS", "Crowd"]


@dataclass(frozen=True)
class Crowd:
    """Candles `[asset, time]`, and the row of the leader."""

    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    leader: int

    @cached_property
    def returns(self) -> np.ndarray:
        """Log returns, NaN where either bar is absent."""
        found = np.full(self.close.shape, np.nan)
        for row in range(len(self.close)):
            for bar in range(1, self.close.shape[1]):
                found[row, bar] = math.log(self.close[row, bar]) - math.log(self.close[row, bar - 1])
        return found

    @cached_property
    def market(self) -> np.ndarray:
        """Mean log return of the assets that have one."""
        bars = range(self.close.shape[1])
        return np.array([average(value for value in self.returns[:, bar] if math.isfinite(value)) for bar in bars])

    def total(self, row: int, bar: int, n: int) -> float:
        """Log return of n bars."""
        return sum(self.returns[row, bar - n + 1 : bar + 1])

    def log_volatility(self, row: int, bar: int, n: int) -> float:
        """Logarithm of the standard deviation of n log returns."""
        return math.log(np.std(self.returns[row, bar - n + 1 : bar + 1], ddof=1))

    def turnover(self, row: int, bar: int, n: int) -> float:
        """Money traded in n bars."""
        return sum(self.close[row, t] * self.volume[row, t] for t in range(bar - n + 1, bar + 1))

    def trailing(self, row: int, bar: int, halflife: int) -> float:
        """Trailing return of one asset in standard errors."""
        return standard_errors(self.returns[row, : bar + 1], halflife)


def average(values: Iterable[float]) -> float:
    """Mean, NaN of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def standard_errors(returns: np.ndarray, halflife: int) -> float:
    """Weighted mean of returns over the standard error that noise of the same mean square would give it."""
    returns = returns[-40 * halflife :]  # older ones weigh less than 1e-12
    weights = [0.5 ** (age / halflife) for age in range(len(returns))]
    known = [(weight, value) for weight, value in zip(weights, reversed(returns), strict=True) if math.isfinite(value)]
    whole = sum(weight for weight, _ in known)
    mean = sum(weight * value for weight, value in known) / whole
    square = sum(weight * value**2 for weight, value in known) / whole
    return mean / math.sqrt(square * share_of_noise(halflife))


@cache
def share_of_noise(halflife: int) -> float:
    """Sum of squared weights over the square of their sum, without an end."""
    weights = [0.5 ** (age / halflife) for age in range(10_000)]
    return sum(weight**2 for weight in weights) / sum(weights) ** 2


def over_assets(value: Callable[..., float], place: Callable[[list[float], float], float]) -> Callable[..., float]:
    """Return a formula that places an asset's value among those of all assets."""

    def formula(crowd: Crowd, row: int, bar: int, *windows: int) -> float:
        everyone = [value(crowd, other, bar, *windows) for other in range(len(crowd.close))]
        return place([one for one in everyone if math.isfinite(one)], everyone[row])

    return formula


def rank(values: list[float], own: float) -> float:
    """Share of the others below, ties counted half, less one half."""
    below, equal = sum(value < own for value in values), sum(value == own for value in values) - 1
    return (below + equal / 2) / (len(values) - 1) - 0.5


def deviation(values: list[float], own: float) -> float:
    """Distance to the mean in standard deviations."""
    mean = average(values)
    return (own - mean) / math.sqrt(average((value - mean) ** 2 for value in values))


def relative_volume(crowd: Crowd, row: int, bar: int, n: int, m: int) -> float:
    """Logarithm of the mean turnover of n bars to that of m bars."""
    return math.log((crowd.turnover(row, bar, n) / n) / (crowd.turnover(row, bar, m) / m))


def reference(crowd: Crowd, name: str) -> np.ndarray:
    """Returns that assets are compared with."""
    return crowd.market if name == "market" else crowd.returns[crowd.leader]


def comoments(crowd: Crowd, row: int, bar: int, n: int, name: str) -> np.ndarray:
    """Covariance matrix of an asset's and the reference's n log returns."""
    window = slice(bar - n + 1, bar + 1)
    return np.cov(crowd.returns[row, window], reference(crowd, name)[window])


def beta(name: str) -> Callable[..., float]:
    """Return the formula of the slope on the reference."""
    return lambda crowd, row, bar, n: (c := comoments(crowd, row, bar, n, name))[0, 1] / c[1, 1]


def correlation(name: str) -> Callable[..., float]:
    """Return the formula of the correlation with the reference."""
    return lambda crowd, row, bar, n: (c := comoments(crowd, row, bar, n, name))[0, 1] / math.sqrt(c[0, 0] * c[1, 1])


def residual_return(crowd: Crowd, row: int, bar: int, n: int, m: int) -> float:
    """Return of n bars that the market does not explain, in standard deviations of m bars."""
    spread = math.sqrt(comoments(crowd, row, bar, m, "market")[0, 0] * n)
    explained = beta("market")(crowd, row, bar, m) * sum(crowd.market[bar - n + 1 : bar + 1])
    return (crowd.total(row, bar, n) - explained) / spread


def peer_lead(crowd: Crowd, row: int, bar: int, halflife: int, n: int) -> float:
    """What the largest peers' trailing returns say, each by how well it led the asset."""
    sizes = {other: crowd.turnover(other, bar, n) for other in range(len(crowd.close))}
    largest = sorted((other for other in sizes if math.isfinite(sizes[other])), key=lambda other: -sizes[other])[:16]
    found = 0.0
    for peer in set(largest) - {row}:
        led = [crowd.trailing(peer, t - 1, halflife) for t in range(bar - n + 1, bar + 1)]
        strength = np.corrcoef(crowd.returns[row, bar - n + 1 : bar + 1], led)[0, 1]
        if abs(strength) > 3 / math.sqrt(n):
            found += strength * crowd.trailing(peer, bar, halflife)
    return found


def breadth(crowd: Crowd, row: int, bar: int, n: int) -> float:
    """Share of rising assets less that of falling ones."""
    totals = [crowd.total(other, bar, n) for other in range(len(crowd.close))]
    return average(float(np.sign(total)) for total in totals if math.isfinite(total))


def market_loudness(crowd: Crowd, row: int, bar: int, n: int, m: int) -> float:
    """How loud the market is by the ranges of n bars, against those of m bars."""
    spread = np.log(crowd.high[:, bar - m + 1 : bar + 1] / crowd.low[:, bar - m + 1 : bar + 1]).tolist()
    ratios = [(sum(one[-n:]) / n) / (sum(one) / m) for one in spread]
    return average(math.log(ratio) for ratio in ratios if ratio > 0)


def market_range(crowd: Crowd, row: int, bar: int, n: int) -> float:
    """How wide the market's ranges of n bars are."""
    spread = np.log(crowd.high[:, bar - n + 1 : bar + 1] / crowd.low[:, bar - n + 1 : bar + 1]).tolist()
    return average(math.log(sum(one) / n) for one in spread if sum(one) > 0)


def market_trend(crowd: Crowd, row: int, bar: int, n: int) -> float:
    """Market's return of n bars in standard deviations of such a sum."""
    returns = crowd.market[bar - n + 1 : bar + 1]
    return float(sum(returns) / (np.std(returns, ddof=1) * math.sqrt(n)))


FORMULAS: dict[str, Callable[..., float]] = {
    "rank_return": over_assets(Crowd.total, rank),
    "deviation_return": over_assets(Crowd.total, deviation),
    "rank_volatility": over_assets(Crowd.log_volatility, rank),
    "deviation_volatility": over_assets(Crowd.log_volatility, deviation),
    "rank_turnover": over_assets(Crowd.turnover, rank),
    "deviation_volume": over_assets(relative_volume, deviation),
    "beta_market": beta("market"),
    "beta_leader": beta("leader"),
    "correlation_market": correlation("market"),
    "correlation_leader": correlation("leader"),
    "residual_return": residual_return,
    "trailing_return": Crowd.trailing,
    "market_lead": lambda crowd, row, bar, halflife: standard_errors(crowd.market[: bar + 1], halflife),
    "leader_lead": lambda crowd, row, bar, halflife: crowd.trailing(crowd.leader, bar, halflife),
    "leader_gap": lambda crowd, row, bar, h: crowd.trailing(crowd.leader, bar, h) - crowd.trailing(row, bar, h),
    "peer_lead": peer_lead,
    "breadth": breadth,
    "market_loudness": market_loudness,
    "market_range": market_range,
    "market_return": lambda crowd, row, bar, n: float(sum(crowd.market[bar - n + 1 : bar + 1])),
    "market_trend": market_trend,
}
"""Name without category and parameters -> value of (crowd, row, bar, *windows in bars)."""
