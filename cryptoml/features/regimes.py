"""Which regime the market as a whole is in: what the four regimes are, how they are learned from candles, and their labels.

Two readings of every bar, over the assets present: the mean of their returns, and the mean log of their ranges
`ln(high / low)`, each in units of the asset's usual volatility. A log range is nearly normal and tells of volatility about five
times as well as a return (Alizadeh, Brandt & Diebold 2002, Journal of Finance 57(3)). The regime is a hidden Markov chain of four
states under them (Hamilton 1989, Econometrica 57(2)).
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cryptoml.data.gaussian_states import GaussianStates, fit_states
from cryptoml.data.markov import filter_states, sticky_transitions, with_hindsight
from cryptoml.features.rolling import delay, rolling_mean, rolling_sum, safe_ratio

__all__ = [
    "REGIMES",
    "REGIME_LEVEL",
    "REGIME_READINGS",
    "HasCandles",
    "RegimeModel",
    "fit_regimes",
    "label_regimes",
    "market_readings",
]

REGIMES = ("BULL", "BEAR", "RANGING", "HIGH_VOL")
REGIME_READINGS = ("cross_section_market_return_1", "cross_section_market_loudness_1_80d")
"""Features by which a forecaster tells the regime."""
REGIME_LEVEL = "cross_section_market_range_80d"
"""The feature that says what the loudness among them is measured against; encoders do not read it, for it drifts over years."""
DURATION_BARS = 240.0
PRIOR_BARS = 50_000.0
SMOOTHING_BARS = 24
LINGERING_BARS = 120
_RANGE = 1  # the second of the two readings

FloatArray = NDArray[np.float64]
PerRegime = tuple[float, float, float, float]


class HasCandles(Protocol):
    """The part of a panel that regimes read."""

    def field(self, name: str) -> FloatArray:
        """Return `[asset, time]`, NaN where the bar is absent."""


class RegimeModel(BaseModel):
    """What the regimes look like, in the order of `REGIMES`; the defaults are round numbers, `fit_regimes` learns better."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trend: PerRegime = Field((0.03, -0.03, 0.0, 0.0), description="Mean return of a bar, in usual volatilities")
    trend_deviation: PerRegime = Field((0.5, 0.8, 0.3, 1.4), description="Standard deviation of that return")
    log_range: PerRegime = Field((-0.2, 0.3, -0.6, 0.9), description="Mean log of a bar's range, in usual volatilities")
    log_range_deviation: float = Field(0.3, gt=0, description="Standard deviation of that log range")
    duration_bars: PerRegime = Field((DURATION_BARS,) * 4, description="Mean duration of each regime, bars")
    usual_volatility: float | None = Field(
        None, gt=0, description="Usual volatility of a bar, log-return, before the first one; None takes it from the bars alone"
    )

    @classmethod
    def of_states(cls, states: GaussianStates) -> "RegimeModel":
        """Take the numbers of a fitted chain; of its transitions only how long states last."""
        trend, log_range = states.means.T.tolist()
        return cls(
            trend=trend,
            trend_deviation=states.deviations[:, 0].tolist(),
            log_range=log_range,
            log_range_deviation=float(states.deviations[0, _RANGE]),
            duration_bars=(1 / (1 - np.diag(states.transitions))).tolist(),
        )

    def states(self) -> GaussianStates:
        """Return the chain."""
        deviations = np.stack([self.trend_deviation, [self.log_range_deviation] * len(REGIMES)], axis=1)
        means = np.stack([self.trend, self.log_range], axis=1)
        return GaussianStates(means, deviations, sticky_transitions(self.duration_bars))


def market_readings(panel: HasCandles, usual: FloatArray) -> FloatArray:
    """Return the two readings of each bar `[time, 2]`, NaN where no asset has them.

    Args:
        panel: Candles.
        usual: Usual volatility per bar of each asset, known at the close of each bar `[asset, time]`; a bar is compared
            with what was known before it.
    """
    before = delay(usual, 1)
    log_close = np.log(panel.field("close"))
    log_range = np.log(panel.field("high") / panel.field("low"))
    log_range = np.log(np.where(log_range > 0, log_range, np.nan)) - np.log(before)
    standardised = (log_close - delay(log_close, 1)) / before
    return np.stack([_mean_over_assets(standardised), _mean_over_assets(log_range)], axis=-1)


def fit_regimes(readings: FloatArray) -> RegimeModel:
    """Learn what the regimes look like from some bars' readings `[time, 2]`; the defaults where there are too few.

    The fit starts from the defaults and from quarters of the bars by their smoothed range, and states last `DURATION_BARS`
    unless much data says otherwise. Of the fitted states the loudest is HIGH_VOL and the quietest RANGING. Of the two
    between, BEAR is the louder one, for falling markets are (Black 1976), unless its mean return is the higher one beyond
    noise: drift is the last thing that a few months of returns tell.
    """
    known = readings[np.isfinite(readings).all(axis=1)]
    if len(known) < DURATION_BARS:
        return RegimeModel()
    starts = (RegimeModel().states(), _quarters(known))
    states = fit_states(readings, starts, prior_bars=PRIOR_BARS, shared=(_RANGE,))
    quiet, bull, bear, loud = np.argsort(states.means[:, _RANGE]).tolist()
    if _rises_more(states, known, bear, bull):
        bull, bear = bear, bull
    return RegimeModel.of_states(states.in_order([bull, bear, quiet, loud]))


def _rises_more(states: GaussianStates, known: FloatArray, one: int, other: int) -> bool:
    """Tell whether one state's mean return exceeds another's by two standard errors of sums over days."""
    nearest = states.evidence(known).argmax(axis=1)
    shocks = (known[:, 0] - states.means[nearest, 0]) / states.deviations[nearest, 0]
    window = min(LINGERING_BARS, len(shocks))
    lingering = rolling_sum(shocks, window)[window - 1 :].std() / np.sqrt(window)
    errors = [states.deviations[state, 0] / np.sqrt(max((nearest == state).sum(), 1)) for state in (one, other)]
    difference = states.means[one, 0] - states.means[other, 0]
    return bool(difference > 2 * max(lingering, 1.0) * np.hypot(*errors))


def label_regimes(readings: FloatArray, model: RegimeModel, hindsight_bars: int) -> NDArray[np.int8]:
    """Return the likeliest regime of each bar `[time]` given the bars up to `hindsight_bars` after it.

    -1 where a later bar is not there, and before the first reading.
    """
    states = model.states()
    evidence = states.evidence(readings)
    filtered = filter_states(evidence, states.transitions)
    probability = with_hindsight(filtered, evidence, states.transitions, hindsight_bars)
    begun = np.logical_or.accumulate(np.isfinite(evidence).all(axis=1))
    known = begun & (np.arange(len(readings)) < len(readings) - hindsight_bars)
    return np.where(known, probability.argmax(axis=1), -1).astype(np.int8)


def _quarters(known: FloatArray) -> GaussianStates:
    """Return the moments of the quarters of the bars by smoothed range."""
    smooth, known = rolling_mean(known[:, _RANGE], SMOOTHING_BARS)[SMOOTHING_BARS - 1 :], known[SMOOTHING_BARS - 1 :]
    quarter = np.digitize(smooth, np.quantile(smooth, (0.25, 0.5, 0.75)))
    groups = [known[quarter == one] for one in range(len(REGIMES))]
    deviations = np.maximum([group.std(axis=0) for group in groups], 1e-3)
    return GaussianStates(
        np.stack([group.mean(axis=0) for group in groups]), deviations, sticky_transitions([DURATION_BARS] * len(REGIMES))
    )


def _mean_over_assets(values: FloatArray) -> FloatArray:
    seen = np.isfinite(values)
    return safe_ratio(np.where(seen, values, 0.0).sum(axis=0), seen.sum(axis=0).astype(np.float64), np.nan)
