"""How much of a good figure is luck of the search: deflated Sharpe ratio, probability of backtest overfitting."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import kurtosis, norm, rankdata, skew

__all__ = [
    "OverfittingResult",
    "backtest_overfitting",
    "deflated_sharpe_of_returns",
    "deflated_sharpe_ratio",
    "expected_max_sharpe",
    "probabilistic_sharpe_ratio",
]


def expected_max_sharpe(num_trials: int, variance: float) -> float:
    """Return the Sharpe ratio that the best of `num_trials` worthless trials is expected to show.

    Bailey & Lopez de Prado 2014, eq. 1 (SR0); same time unit as the variance. One trial gives 0.

    Args:
        num_trials: Independent trials, at least 1.
        variance: Variance of the trials' Sharpe ratios (per bar if the ratio is per bar).
    """
    if num_trials < 1:
        raise ValueError(f"num_trials must be at least 1, was {num_trials}")
    if num_trials == 1:
        return 0.0
    quantiles = norm.ppf([1 - 1 / num_trials, 1 - 1 / (num_trials * np.e)])
    return float(np.sqrt(variance) * ((1 - np.euler_gamma) * quantiles[0] + np.euler_gamma * quantiles[1]))


def probabilistic_sharpe_ratio(sharpe: float, benchmark: float, num_bars: int, skewness: float, kurtosis: float) -> float:
    """Return P(true Sharpe > benchmark) (Bailey & Lopez de Prado 2012).

    Args:
        sharpe: Observed, per bar, not annualised.
        benchmark: Per bar.
        num_bars: Observations, at least 2.
        skewness: Of the returns.
        kurtosis: Of the returns, 3 for a Gaussian.
    """
    spread = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if num_bars < 2 or not spread > 0:
        return float("nan")
    return float(norm.cdf((sharpe - benchmark) * np.sqrt(num_bars - 1) / np.sqrt(spread)))


def deflated_sharpe_ratio(
    sharpe: float, num_bars: int, skewness: float, kurtosis: float, num_trials: int, variance: float
) -> float:
    """Return the probability that the true Sharpe ratio beats luck over `num_trials` (Bailey & Lopez de Prado 2014, eq. 2).

    `sharpe` and `variance` are per bar; see `expected_max_sharpe` and `probabilistic_sharpe_ratio`.
    """
    return probabilistic_sharpe_ratio(sharpe, expected_max_sharpe(num_trials, variance), num_bars, skewness, kurtosis)


def deflated_sharpe_of_returns(returns: np.ndarray, num_trials: int = 1, variance: float | None = None) -> float:
    """Return the deflated Sharpe ratio of a return series `[time]`; NaN where returns never vary.

    Args:
        returns: Net returns per bar; NaN counts as 0.
        num_trials: Configurations tried before this one was chosen, itself included.
        variance: Variance of the trials' per-bar Sharpe ratios; None takes 1/num_bars, that of worthless trials.
    """
    returns = np.nan_to_num(np.asarray(returns, dtype=np.float64))
    if returns.size < 3 or returns.std() <= 1e-15:
        return float("nan")
    sharpe = returns.mean() / returns.std(ddof=1)
    variance = 1 / returns.size if variance is None else variance
    moments = float(skew(returns)), float(kurtosis(returns, fisher=False))
    return deflated_sharpe_ratio(float(sharpe), returns.size, *moments, num_trials, variance)


@dataclass(frozen=True, eq=False)
class OverfittingResult:
    """Outcome of CSCV.

    Attributes:
        probability: Share of splits whose in-sample best ranks in the lower half out of sample.
        logits: Logit of that rank per split `[split]`.
        degradation: Slope of out-of-sample on in-sample Sharpe of the chosen trial; negative is a bad sign.
    """

    probability: float
    logits: np.ndarray
    degradation: float


def backtest_overfitting(returns: np.ndarray, num_blocks: int = 16) -> OverfittingResult:
    """Estimate the probability of backtest overfitting by combinatorially symmetric cross-validation.

    Bailey, Borwein, Lopez de Prado & Zhu 2017: time is cut into `num_blocks`; every half of the blocks in turn chooses
    the best trial by Sharpe ratio, the other half ranks it.

    Args:
        returns: Net returns per bar of every trial `[time, trial]`; NaN counts as 0. Bars left over are dropped at the end.
        num_blocks: Even, at least 2; 16 makes 12,870 splits.

    Raises:
        ValueError: Fewer than two trials, an odd number of blocks, or fewer than two bars per block.
    """
    returns = np.nan_to_num(np.asarray(returns, dtype=np.float64))
    num_bars, num_trials = returns.shape
    if num_trials < 2:
        raise ValueError(f"returns must hold at least 2 trials, had {num_trials}")
    if num_blocks < 2 or num_blocks % 2:
        raise ValueError(f"num_blocks must be even and at least 2, was {num_blocks}")
    size = num_bars // num_blocks
    if size < 2:
        raise ValueError(f"returns must hold at least {2 * num_blocks} bars for {num_blocks} blocks, had {num_bars}")
    blocks = returns[: size * num_blocks].reshape(num_blocks, size, num_trials)
    chosen = _halves(num_blocks)
    inside, outside = (_half_sharpe(blocks, half, size) for half in (chosen, ~chosen))
    return _rank_winners(inside, outside)


def _halves(num_blocks: int) -> np.ndarray:
    """Return bool `[split, block]`: every half of the blocks."""
    members = np.array(list(combinations(range(num_blocks), num_blocks // 2)))
    chosen = np.zeros((len(members), num_blocks), dtype=bool)
    np.put_along_axis(chosen, members, True, axis=1)
    return chosen


def _half_sharpe(blocks: np.ndarray, half: np.ndarray, size: int) -> np.ndarray:
    """Return per-bar Sharpe ratios `[split, trial]` over the chosen blocks; a constant series counts as 0."""
    count = half.shape[1] // 2 * size
    weights = half.astype(np.float64)
    mean = weights @ blocks.sum(axis=1) / count
    variance = (weights @ (blocks**2).sum(axis=1) - count * mean**2) / (count - 1)
    return np.where(variance > 1e-30, mean / np.sqrt(np.maximum(variance, 1e-30)), 0.0)


def _rank_winners(inside: np.ndarray, outside: np.ndarray) -> OverfittingResult:
    """Rank each split's in-sample winner out of sample; `[split, trial]` both."""
    rows = np.arange(len(inside))
    winners = inside.argmax(axis=1)
    share = rankdata(outside, axis=1)[rows, winners] / (inside.shape[1] + 1)
    logits = np.log(share / (1 - share))
    won, kept = inside[rows, winners], outside[rows, winners]
    slope = float(np.polyfit(won, kept, 1)[0]) if won.std() > 1e-15 else float("nan")
    return OverfittingResult(float(np.mean(logits <= 0)), logits, slope)
