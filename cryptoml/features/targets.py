"""What forecasters learn: direction, volatility, regime, position size and returns over the next bars.

Notation: `r_i = ln(close_i / close_{i-1})`, `H` the primary horizon, `R_H = r_{t+1} + ... + r_{t+H}`,
`V_H = r_{t+1}^2 + ... + r_{t+H}^2`. A label of bar t reads bars (t, t + label_bars]; if one bar it needs is missing the
label is missing. Only `sigma` and `threshold` are known at the close of bar t.
"""

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cryptoml.features.rolling import decay_of_halflife, decayed_sum, delay, rolling_sum, safe_ratio

__all__ = ["DIRECTIONS", "REGIMES", "TargetConfig", "Targets", "causal_volatility", "make_targets"]

DIRECTIONS = ("DOWN", "SIDEWAYS", "UP")
REGIMES = ("BULL", "BEAR", "RANGING", "HIGH_VOL")
_HALFLIVES = 10  # an EWMA keeps 10 half-lives: a window that a live buffer can hold

FloatArray = NDArray[np.float64]


class TargetConfig(BaseModel):
    """Horizons and thresholds of the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    horizons: tuple[int, ...] = Field(default=(1, 4, 24), min_length=1, description="Bars ahead of each return target, ascending")
    primary_horizon: int = Field(default=24, ge=1, description="Bars ahead of direction, volatility, regime and position size")
    quantiles: tuple[float, ...] = Field(default=(0.1, 0.5, 0.9), min_length=1, description="Levels to forecast, ascending")
    direction_threshold: float = Field(default=0.5, ge=0, description="Move that counts as UP or DOWN, in sigma * sqrt(H)")
    volatility_halflife_bars: int = Field(default=48, ge=1, description="Half-life of sigma, bars")
    minimum_history_bars: int = Field(default=48, ge=1, description="Returns that sigma needs before it is defined")
    long_run_halflife_bars: int = Field(
        default=360, ge=1, description="Half-life of the volatility that HIGH_VOL is measured against"
    )
    high_volatility_ratio: float = Field(
        default=1.5, gt=0, description="Realised over long-run volatility above which a bar is HIGH_VOL"
    )
    trend_threshold: float = Field(default=1.0, ge=0, description="|R_H| / sqrt(V_H) above which a bar is BULL or BEAR")

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


class HasClose(Protocol):
    """The part of a panel that targets read."""

    def field(self, name: str) -> FloatArray:
        """Return `[asset, time]`, NaN where the bar is absent."""


@dataclass(frozen=True)
class Targets:
    """Labels of every bar, `[asset, time]` or `[asset, time, horizon]`; missing is NaN, or -1 for classes.

    Attributes:
        sigma: Volatility per bar known at the close of bar t, log-return units.
        log_return: `ln(close_{t+h} / close_t)` per horizon.
        direction: 0 DOWN, 1 SIDEWAYS, 2 UP: `R_H` against `threshold`.
        threshold: `direction_threshold * sigma * sqrt(H)`.
        volatility: `sqrt(V_H)`.
        regime: 0 BULL, 1 BEAR, 2 RANGING, 3 HIGH_VOL over the next H bars.
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


def causal_volatility(close: FloatArray, halflife_bars: int, minimum_bars: int) -> FloatArray:
    """Return the EWMA volatility per bar known at each close, `[..., time]`.

    `sigma_t^2 = sum_k d^k r_{t-k}^2 / sum_k d^k` over the returns present among the last ten half-lives, `d` halving in
    `halflife_bars` (RiskMetrics 1996, section 5.2, cut and renormalised so that a finite buffer gives the same value).
    NaN where the bar is absent, where fewer than `minimum_bars` returns exist in the window, and where nothing moved.
    """
    window, decay = _HALFLIVES * halflife_bars, decay_of_halflife(halflife_bars)
    log_return = _log_returns(close)
    seen = np.isfinite(log_return)
    pad = [(0, 0)] * (close.ndim - 1) + [(window - 1, 0)]
    seen_padded = np.pad(seen.astype(np.float64), pad)
    square_padded = np.pad(np.where(seen, log_return, 0.0) ** 2, pad)
    weight = decayed_sum(seen_padded, decay, window)[..., window - 1 :]
    square = decayed_sum(square_padded, decay, window)[..., window - 1 :]
    count = rolling_sum(seen_padded, window)[..., window - 1 :]
    known = (count >= minimum_bars) & (square > 0) & np.isfinite(close)
    return np.where(known, np.sqrt(safe_ratio(square, weight)), np.nan)


def make_targets(panel: HasClose, config: TargetConfig) -> Targets:
    """Compute every label of a panel; the last `label_bars` bars have none.

    direction: the sign of `R_H` where `|R_H|` exceeds `threshold` (volatility-scaled barrier, Lopez de Prado 2018,
    Advances in Financial Machine Learning, ch. 3.2, without path dependence).

    regime: HIGH_VOL where `sqrt(V_H / H)` exceeds `high_volatility_ratio` times the long-run EWMA volatility known at t;
    otherwise by the self-normalised trend statistic `T = R_H / sqrt(V_H)` (Shao 1997; near standard normal for a random
    walk): BULL above `trend_threshold`, BEAR below its negative, RANGING between.

    position_size: `|R_H| / sqrt(H V_H)`, the trend's share of the path length: by Cauchy-Schwarz in [0, 1], 1 for a
    straight line; 0 where nothing moved. It is `|T| / sqrt(H)`, the ex-post Sharpe ratio per bar about zero.
    """
    close = np.asarray(panel.field("close"), dtype=np.float64)
    close = np.where(close > 0, close, np.nan)
    horizon = config.primary_horizon
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
        regime=_regime(move, variation, close, config),
        position_size=_position_size(move, variation, horizon).astype(np.float32),
        label_bars=config.horizons[-1],
    )


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


def _regime(move: FloatArray, variation: FloatArray, close: FloatArray, config: TargetConfig) -> NDArray[np.int8]:
    long_run = causal_volatility(close, config.long_run_halflife_bars, config.minimum_history_bars)
    trend = safe_ratio(move, np.sqrt(variation), 0.0)
    loud = np.sqrt(variation / config.primary_horizon) > config.high_volatility_ratio * long_run
    conditions = [loud, trend > config.trend_threshold, trend < -config.trend_threshold]
    regime = np.select(conditions, [3, 0, 1], default=2)
    return np.where(np.isnan(move) | np.isnan(long_run), -1, regime).astype(np.int8)


def _position_size(move: FloatArray, variation: FloatArray, horizon: int) -> FloatArray:
    return np.minimum(safe_ratio(np.abs(move), np.sqrt(horizon * variation), 0.0), 1.0)
