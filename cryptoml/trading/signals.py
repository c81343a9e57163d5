"""From forecast to signal: the one place that decides BUY, SELL or HOLD."""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np

from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import DOWN, UP, Forecasts
from cryptoml.trading.sizing import position_size
from cryptoml.trading.stops import stop_distances

__all__ = ["Action", "HoldReason", "Signals", "action_names", "decide", "expected_edge"]


class Action(IntEnum):
    """What to do; the value is the sign of the position."""

    SELL = -1
    HOLD = 0
    BUY = 1


class HoldReason(IntEnum):
    """Why nothing is traded; the first that applies."""

    NONE = 0
    MASKED = 1
    STALE = 2
    LOW_CONFIDENCE = 3
    COST = 4


@dataclass(frozen=True, eq=False)
class Signals:
    """Decisions, all of one shape `[...]`.

    Attributes:
        action: int8 codes of `Action`.
        reason: int8 codes of `HoldReason`.
        side: int8, +1 where UP is at least as likely as DOWN, else -1, whether traded or not.
        position_size: Fraction of equity that this decision alone would hold, unsigned; 0 where HOLD.
        confidence: Calibrated probability of the likelier of UP and DOWN; NaN where masked.
        stop_loss_pct: Distance of the stop from the entry, fraction of price; NaN where masked.
        take_profit_pct: Distance of the target from the entry, fraction of price; NaN where masked.
        expected_edge: Expected log return over the horizon before costs, signed; NaN where masked.
        market_regime: int8 index into `REGIMES`, -1 where unknown.
        predicted_volatility: Over the horizon, log return units.
    """

    action: np.ndarray
    reason: np.ndarray
    side: np.ndarray
    position_size: np.ndarray
    confidence: np.ndarray
    stop_loss_pct: np.ndarray
    take_profit_pct: np.ndarray
    expected_edge: np.ndarray
    market_regime: np.ndarray
    predicted_volatility: np.ndarray

    @property
    def signed_size(self) -> np.ndarray:
        """Fraction of equity that each decision alone would hold, negative where short."""
        return self.action * self.position_size

    @property
    def blind(self) -> np.ndarray:
        """Bool: there is no forecast to go by, because inputs are missing or stale."""
        return (self.reason == HoldReason.MASKED) | (self.reason == HoldReason.STALE)

    def __getitem__(self, index: Any) -> "Signals":
        """Return the rows that NumPy indexing selects."""
        return Signals(*(np.asarray(getattr(self, field.name))[index] for field in fields(self)))


def action_names(action: np.ndarray) -> np.ndarray:
    """Return `"BUY"`, `"SELL"` or `"HOLD"` for each code."""
    return np.array([Action.SELL.name, Action.HOLD.name, Action.BUY.name])[np.asarray(action) + 1]


def expected_edge(forecasts: Forecasts, config: TradingConfig) -> np.ndarray:
    """Return the expected log return over the horizon, signed, before costs `[...]`.

    Two views, averaged where both exist: the class probabilities times the mean size of a move that leaves the SIDEWAYS
    band, `(p_up - p_down) * move_ratio * volatility`, and the forecast median. NaN where the probabilities are.
    """
    from_classes = forecasts.tilt * config.move_ratio * forecasts.volatility
    median = forecasts.median
    return np.where(np.isnan(median), from_classes, (from_classes + median) / 2)


def decide(
    forecasts: Forecasts, config: TradingConfig, *, fresh: np.ndarray | bool = True, min_confidence: float | None = None
) -> Signals:
    """Turn forecasts of any shape into signals.

    The likelier of UP and DOWN is the candidate. It is traded unless the forecast is masked (NaN), the inputs are
    stale, its calibrated probability is below `min_confidence`, or the expected edge in its direction does not exceed
    the round-trip cost. Each row is decided on its own: no row reads another, so live and backtest agree.

    Args:
        forecasts: One horizon's calibrated forecasts.
        config: Thresholds, sizes, stops and costs.
        fresh: Bool, broadcastable to `[...]`: the inputs are recent enough to trade on.
        min_confidence: Least confidence to trade on, in place of the config's; sizes go by the config's all the same.
    """
    down, up = forecasts.probabilities[..., DOWN], forecasts.probabilities[..., UP]
    side = np.where(up >= down, 1, -1).astype(np.int8)
    confidence = np.maximum(up, down)
    edge = expected_edge(forecasts, config)
    least = config.min_confidence if min_confidence is None else min_confidence
    reasons = [
        (forecasts.masked, HoldReason.MASKED),
        (np.broadcast_to(~np.asarray(fresh), confidence.shape), HoldReason.STALE),
        (~(confidence >= least), HoldReason.LOW_CONFIDENCE),
        (~(side * edge > config.cost_multiple * config.costs.round_trip), HoldReason.COST),
    ]  # written so that NaN never trades
    reason = np.select([holds for holds, _ in reasons], [int(code) for _, code in reasons], 0).astype(np.int8)
    action = np.where(reason == HoldReason.NONE, side, Action.HOLD).astype(np.int8)
    size = np.where(action != 0, position_size(forecasts.annual_volatility, confidence, config), 0.0)
    signed = size if config.allow_short else np.where(action > 0, size, 0.0)
    stop, take = stop_distances(forecasts, side, config)
    return Signals(
        action=action,
        reason=reason,
        side=side,
        position_size=signed,
        confidence=confidence,
        stop_loss_pct=stop,
        take_profit_pct=take,
        expected_edge=edge,
        market_regime=_likeliest_regime(forecasts.regime),
        predicted_volatility=forecasts.volatility,
    )


def _likeliest_regime(regime: np.ndarray) -> np.ndarray:
    known = ~np.isnan(regime).any(axis=-1)
    return np.where(known, np.nan_to_num(regime).argmax(axis=-1), -1).astype(np.int8)
