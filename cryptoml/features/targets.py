"""What forecasters learn: direction, volatility, regime, position size and returns over the next bars.

Notation: `r_i = ln(close_i / close_{i-1})`, `H` the primary horizon, `R_H = r_{t+1} + ... + r_{t+H}`,
`V_H = r_{t+1}^2 + ... + r_{t+H}^2`. A label of bar t reads no bar after t + label_bars; if one bar it needs is missing the
label is missing. Only `sigma` and `threshold` are known at the close of bar t.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cryptoml.features.regimes import REGIMES, HasCandles, RegimeModel, fit_regimes, label_regimes, market_readings
from cryptoml.features.rolling import decay_of_halflife, decayed_sum, delay, rolling_sum, safe_ratio

__all__ = ["DIRECTIONS", "REGIMES", "TargetConfig", "Targets", "causal_volatility", "make_targets", "with_regimes"]

DIRECTIONS = ("DOWN", "SIDEWAYS", "UP")
_HALFLIVES = 10  # an EWMA keeps 10 half-lives: a window that a live buffer can hold

FloatArray = NDArray[np.float64]


class TargetConfig(BaseModel):
    """Horizons and thresholds of the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    horizons: tuple[int, ...] = Field(default=(1, 4, 24), min_length=1, description="Bars ahead of each return target, ascending")
    primary_horizon: int = Field(
        default=24,
        ge=1,
        description="Bars ahead of direction, volatility and position size; regimes are labelled so many bars later",
    )
    quantiles: tuple[float, ...] = Field(default=(0.1, 0.5, 0.9), min_length=1, description="Levels to forecast, ascending")
    direction_threshold: float = Field(default=0.5, ge=0, description="Move that counts as UP or DOWN, in sigma * sqrt(H)")
    volatility_halflife_bars: int = Field(default=48, ge=1, description="Half-life of sigma, bars")
    minimum_history_bars: int = Field(default=48, ge=1, description="Returns that sigma needs before it is defined")
    long_run_halflife_bars: int = Field(
        default=4320, ge=1, description="Half-life of the usual volatility that regimes are measured against, bars"
    )
    regimes: RegimeModel | None = Field(
        default=None, description="What the regimes look like; None learns it from the first training span"
    )

    @model_validator(mode="after")
    def _check(self) -> "TargetConfig":
        if list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] < 1:
            raise ValueError(f"horizons must be ascending and at least 1, was {self.horizons}")
        if self.primary_horizon not in self.horizons:
            raise ValueError(f"primary_horizon must be one of horizons {self.horizons}, was {self.primary_horizon}")
        if list(self.quantiles) != sorted(set(self.quantiles)) or not 0 < self.quantiles[0] <= self.quantiles[-1] < 1:
            raise ValueError(f"quantiles must be ascending and inside (0, 1), was {self.quantiles}")
        return self

    @property
    def sigma_window_bars(self) -> int:
        """Bars of history that `sigma` depends on."""
        return _HALFLIVES * self.volatility_halflife_bars + 1


@dataclass(frozen=True)
class Targets:
    """Labels of every bar, `[asset, time]` or `[asset, time, horizon]`; missing is NaN, or -1 for classes.

    Attributes:
        sigma: Volatility per bar known at the close of bar t, log-return units.
        log_return: `ln(close_{t+h} / close_t)` per horizon.
        direction: 0 DOWN, 1 SIDEWAYS, 2 UP: `R_H` against `threshold`.
        threshold: `direction_threshold * sigma * sqrt(H)`.
        volatility: `sqrt(V_H)`.
        regime: 0 BULL, 1 BEAR, 2 RANGING, 3 HIGH_VOL: the market's at bar t, as known H bars later; the same for all assets.
        position_size: `|R_H| / sqrt(H * V_H)` in [0, 1].
        label_bars: Bars after t that any label reads, for purging.
    """

    sigma: NDArray[np.float32]
    log_return: NDArray[np.float32]
    direction: NDArray[np.int8]
    threshold: NDArray[np.float32]
    volatility: NDArray[np.float32]
    regime: NDArray[np.int8]
    position_size: NDArray[np.float32]
    label_bars: int

    def on_bars(self, bars: slice) -> "Targets":
        """Return the labels of some bars, as views."""
        parts = {one.name: getattr(self, one.name)[:, bars] for one in fields(self) if one.name != "label_bars"}
        return Targets(**parts, label_bars=self.label_bars)


def causal_volatility(
    close: FloatArray, halflife_bars: int, minimum_bars: int, window_bars: int | None = None, before: float | None = None
) -> FloatArray:
    """Return the EWMA volatility per bar known at each close, `[..., time]`.

    `sigma_t^2 = sum_k d^k r_{t-k}^2 / sum_k d^k` over the returns present among the last ten half-lives, `d` halving in
    `halflife_bars` (RiskMetrics 1996, section 5.2, cut and renormalised so that a finite buffer gives the same value).
    NaN where the bar is absent, where fewer than `minimum_bars` returns exist in the window, and where nothing moved.
    `window_bars` replaces the ten half-lives. `before` is the volatility of all returns before the second bar, which then count
    too, so that no bar is too early.
    """
    window, decay = window_bars or _HALFLIVES * halflife_bars, decay_of_halflife(halflife_bars)
    log_return = _log_returns(close)
    seen = np.isfinite(log_return)
    pad = [(0, 0)] * (close.ndim - 1) + [(window - 1, 0)]
    seen_padded = np.pad(seen.astype(np.float64), pad)
    square_padded = np.pad(np.where(seen, log_return, 0.0) ** 2, pad)
    weight = decayed_sum(seen_padded, decay, window)[..., window - 1 :]
    square = decayed_sum(square_padded, decay, window)[..., window - 1 :]
    count = rolling_sum(seen_padded, window)[..., window - 1 :]
    known = (count >= minimum_bars) & (square > 0) & np.isfinite(close)
    if before is not None:
        earlier = decay ** np.arange(close.shape[-1]) / (1.0 - decay)
        weight, square, known = weight + earlier, square + earlier * before**2, np.isfinite(close)
    return np.where(known, np.sqrt(safe_ratio(square, weight)), np.nan)


def make_targets(panel: HasCandles, config: TargetConfig) -> Targets:
    """Compute every label of a panel; the last `label_bars` bars have none.

    direction: the sign of `R_H` where `|R_H|` exceeds `threshold` (volatility-scaled barrier, Lopez de Prado 2018,
    Advances in Financial Machine Learning, ch. 3.2, without path dependence).

    regime: that of the market as a whole, likeliest given all bars up to t + H under `config.regimes`, or under the round
    numbers of `RegimeModel` where nothing was learned (`with_regimes`).

    position_size: `|R_H| / sqrt(H V_H)`, the trend's share of the path length: by Cauchy-Schwarz in [0, 1], 1 for a
    straight line; 0 where nothing moved. It is `|T| / sqrt(H)`, the ex-post Sharpe ratio per bar about zero.
    """
    close, horizon = _closes(panel), config.primary_horizon
    sigma = causal_volatility(close, config.volatility_halflife_bars, config.minimum_history_bars)
    threshold = config.direction_threshold * np.sqrt(horizon) * sigma
    log_close = np.log(close)
    returns = np.stack([_forward_return(log_close, bars) for bars in config.horizons], axis=-1)
    move = returns[..., config.horizons.index(horizon)]
    variation = _ahead(rolling_sum(_log_returns(close) ** 2, horizon), horizon)
    return Targets(
        sigma=sigma.astype(np.float32),
        log_return=returns.astype(np.float32),
        direction=_direction(move, threshold),
        threshold=threshold.astype(np.float32),
        volatility=np.sqrt(variation).astype(np.float32),
        regime=_regime(panel, close, config),
        position_size=_position_size(move, variation, horizon).astype(np.float32),
        label_bars=config.horizons[-1],
    )


def with_regimes(config: TargetConfig, panel: HasCandles) -> TargetConfig:
    """Return settings whose regimes are learned from a panel, which ends where training does; as given where they are set."""
    if config.regimes is not None:
        return config
    close = _closes(panel)
    start = RegimeModel(usual_volatility=_typical_volatility(close))
    model = fit_regimes(_readings(panel, close, config.model_copy(update={"regimes": start})))
    return config.model_copy(update={"regimes": model.model_copy(update={"usual_volatility": start.usual_volatility})})


def _typical_volatility(close: FloatArray) -> float | None:
    """Return the geometric mean over assets of their volatility per bar; None where nothing moves."""
    log_return = _log_returns(close)
    squares = np.where(np.isfinite(log_return), log_return, 0.0) ** 2
    variance = safe_ratio(squares.sum(axis=-1), np.isfinite(log_return).sum(axis=-1).astype(np.float64), 0.0)
    return float(np.exp(np.log(variance[variance > 0]).mean() / 2)) if (variance > 0).any() else None


def _closes(panel: HasCandles) -> FloatArray:
    close = np.asarray(panel.field("close"), dtype=np.float64)
    return np.where(close > 0, close, np.nan)


def _log_returns(close: FloatArray) -> FloatArray:
    log_close = np.log(close)
    return log_close - delay(log_close, 1)


def _ahead(values: FloatArray, bars: int) -> FloatArray:
    """Return the series `bars` later; NaN in the last `bars` places."""
    return delay(values[..., ::-1], bars)[..., ::-1]


def _forward_return(log_close: FloatArray, bars: int) -> FloatArray:
    """Return `log_close[t + bars] - log_close[t]`, NaN where any bar of [t, t + bars] is missing."""
    missing = rolling_sum(np.isnan(log_close).astype(np.float64), bars + 1)
    complete = _ahead(missing, bars) == 0
    return np.where(complete, _ahead(log_close, bars) - log_close, np.nan)


def _direction(move: FloatArray, threshold: FloatArray) -> NDArray[np.int8]:
    direction = 1 + (move > threshold).astype(np.int8) - (move < -threshold).astype(np.int8)
    return np.where(np.isnan(move) | np.isnan(threshold), -1, direction).astype(np.int8)


def _regime(panel: HasCandles, close: FloatArray, config: TargetConfig) -> NDArray[np.int8]:
    model = config.regimes or RegimeModel()
    regimes = label_regimes(_readings(panel, close, config), model, config.primary_horizon)
    return np.where(np.isfinite(close), regimes, np.int8(-1))


def _readings(panel: HasCandles, close: FloatArray, config: TargetConfig) -> FloatArray:
    halflife = config.long_run_halflife_bars
    window = min(_HALFLIVES * halflife, close.shape[-1])  # a series may be far shorter than the half-lives
    before = config.regimes.usual_volatility if config.regimes else None
    return market_readings(panel, causal_volatility(close, halflife, config.minimum_history_bars, window, before))


def _position_size(move: FloatArray, variation: FloatArray, horizon: int) -> FloatArray:
    return np.minimum(safe_ratio(np.abs(move), np.sqrt(horizon * variation), 0.0), 1.0)
