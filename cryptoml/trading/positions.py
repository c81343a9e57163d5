"""What to hold after a decision: overlapping tranches, limits, the drawdown brake.

Every position is a signed fraction of equity. The same rules exist twice, equal by test: `target_positions` over whole
panels, and `PositionBook`, which takes one bar at a time and keeps the state that a live system must remember.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from cryptoml.data.schema import parse_timeframe
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.signals import Signals, decide
from cryptoml.trading.stops import stop_distances

__all__ = [
    "PositionBook",
    "TradePlan",
    "brake_scale",
    "holding_bars",
    "limit_positions",
    "overlap_tranches",
    "plan_trades",
    "target_positions",
]

LEAST_SCALE = 0.1
"""What the drawdown brake leaves, so that an account can recover."""

_UNITS = 10**9  # sizes are summed as whole billionths of equity: exact, so that no dust of a sum counts as a position
_NEVER = -(2**62)
_EPOCH = pd.Timestamp(0, tz="UTC")


@dataclass(frozen=True, eq=False)
class TradePlan:
    """What a backtest trades, `[asset, time]`, decided at the close of each bar.

    Attributes:
        signals: The decisions.
        target: Position to hold, signed fraction of equity, before the drawdown brake.
        stop_loss_pct: Distance of the stop on the side of `target`, fraction of price.
        take_profit_pct: Distance of the profit target likewise.
    """

    signals: Signals
    target: np.ndarray
    stop_loss_pct: np.ndarray
    take_profit_pct: np.ndarray


def plan_trades(forecasts: Forecasts, config: TradingConfig) -> TradePlan:
    """Go the whole way from forecasts `[asset, time]` to the positions they ask for."""
    signals = decide(forecasts, config)
    target = target_positions(signals, config, forecasts.horizon_bars)
    return TradePlan(signals, target, *stop_distances(forecasts, np.where(target < 0, -1, 1), config))


def target_positions(signals: Signals, config: TradingConfig, horizon_bars: int) -> np.ndarray:
    """Return the position to hold after every decision `[asset, time]`.

    The last decisions of a symbol add up as tranches; a symbol without a forecast (masked or stale) is flat for as long
    as that lasts, while its tranches age; then the limits per symbol and of the account apply. Causal along time.

    Args:
        signals: Decisions `[asset, time]`.
        config: Limits and holding time.
        horizon_bars: Of the forecasts: how long a tranche is held where the config does not say.
    """
    held = overlap_tranches(signals.signed_size, holding_bars(config, horizon_bars))
    return limit_positions(np.where(signals.blind, 0.0, held), config)


def holding_bars(config: TradingConfig, horizon_bars: int) -> int:
    """Return how many bars each decision's tranche is held."""
    return config.holding_bars or horizon_bars


def overlap_tranches(sizes: np.ndarray, num_bars: int) -> np.ndarray:
    """Return the position that overlapping tranches add up to, along the last (time) axis.

    Each decision moves 1/num_bars of its size and is held for `num_bars` bars (Jegadeesh & Titman 1993), as long as its
    forecast looks ahead: the position is the mean of the last decisions, and turnover falls with it. Causal; a decision
    before the first bar, or NaN, counts as flat.
    """
    total = np.cumsum(_whole(sizes), axis=-1)
    held = total.copy()
    held[..., num_bars:] -= total[..., :-num_bars]
    return held / (num_bars * _UNITS)


def limit_positions(target: np.ndarray, config: TradingConfig) -> np.ndarray:
    """Cut each symbol to `max_position` and to what may be shorted, then shrink all alike to `max_gross`.

    The first axis is the asset; NaN is flat.
    """
    lowest = -config.max_position if config.allow_short else 0.0
    capped = np.clip(np.nan_to_num(target), lowest, config.max_position)
    gross = np.abs(capped).sum(axis=0)
    return capped * (config.max_gross / np.maximum(gross, config.max_gross))


def brake_scale(drawdown: float, config: TradingConfig) -> float:
    """Return the share of every position that the account's drawdown leaves, in [0.1, 1].

    In proportion to the cushion above the worst allowed loss (Grossman & Zhou 1993), 1 at the peak and where there is no
    brake.

    Args:
        drawdown: Loss from the highest equity so far, a fraction, 0 at the peak.
        config: `drawdown_brake`.
    """
    if config.drawdown_brake is None:
        return 1.0
    return min(1.0, max(LEAST_SCALE, 1.0 - drawdown / config.drawdown_brake))


class PositionBook:
    """The state of the decision path: each symbol's decisions of the last bars.

    Record every symbol's decision at a bar, then ask for the targets at that bar. The newest bar may be recorded again, which
    replaces what was there; what was decided before it stands. Bars that were missed count as flat decisions, and symbols
    without a decision at the bar are flat.
    Not safe to change from several threads at once.

    Args:
        symbols: In the order of the targets.
        timeframe: Length of a bar.
        config: Limits, holding time, brake.
        horizon_bars: Of the forecasts.
    """

    def __init__(self, symbols: Sequence[str], timeframe: str, config: TradingConfig, horizon_bars: int) -> None:
        self.symbols, self.timeframe, self.config = tuple(symbols), timeframe, config
        self._slots = holding_bars(config, horizon_bars)
        self._sizes = np.zeros((len(self.symbols), self._slots), dtype=np.int64)
        self._bars = np.full((len(self.symbols), self._slots), _NEVER, dtype=np.int64)
        self._sighted = np.full(len(self.symbols), _NEVER, dtype=np.int64)

    def record(self, symbol: str, timestamp: pd.Timestamp, size: float | None) -> None:
        """Note one decision.

        Args:
            symbol: One of `symbols`.
            timestamp: Open of the bar at whose close it was made, UTC.
            size: What it alone would hold, signed fraction of equity (`Signals.signed_size`); None where there is no forecast
                (`Signals.blind`).

        Raises:
            ValueError: The symbol is not in the book.
        """
        if symbol not in self.symbols:
            raise ValueError(f"symbol must be one of {', '.join(self.symbols)}, was {symbol}")
        row, bar = self.symbols.index(symbol), self._bar(timestamp)
        if bar < self._bars[row].max() and self._bars[row, bar % self._slots] >= bar:
            return
        self._sizes[row, bar % self._slots] = 0 if size is None else _whole(np.asarray(size))
        self._bars[row, bar % self._slots] = bar
        if size is not None:
            self._sighted[row] = max(bar, self._sighted[row])
        elif self._sighted[row] == bar:
            self._sighted[row] = _NEVER

    def targets(self, timestamp: pd.Timestamp, drawdown: float = 0.0) -> dict[str, float]:
        """Return the position to hold of every symbol after the decisions at a bar, signed fractions of equity.

        Args:
            timestamp: Open of the bar.
            drawdown: The account's loss from its highest equity, a fraction.
        """
        bar = self._bar(timestamp)
        alive = (self._bars > bar - self._slots) & (self._bars <= bar)
        held = np.where(alive, self._sizes, 0).sum(axis=1) / (self._slots * _UNITS)
        target = limit_positions(np.where(self._sighted == bar, held, 0.0), self.config)
        return dict(zip(self.symbols, (target * brake_scale(drawdown, self.config)).tolist(), strict=True))

    @property
    def newest(self) -> pd.Timestamp | None:
        """Open of the newest bar at which anything was decided; None before that."""
        bar = int(self._bars.max(initial=_NEVER))
        return None if bar == _NEVER else _EPOCH + bar * parse_timeframe(self.timeframe)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain values: symbol -> decisions `[bar, signed billionths of equity]`, last bar forecast."""
        return {
            symbol: {
                "decisions": [[int(bar), int(size)] for bar, size in zip(bars, sizes, strict=True) if bar != _NEVER],
                "sighted": None if sighted == _NEVER else int(sighted),
            }
            for symbol, bars, sizes, sighted in zip(self.symbols, self._bars, self._sizes, self._sighted, strict=True)
        }

    def restored(self, state: Mapping[str, Any]) -> Self:
        """Take over what `to_dict` gave, for the symbols that this book knows; return the book."""
        for row, symbol in enumerate(self.symbols):
            known = state.get(symbol, {"decisions": [], "sighted": None})
            for bar, size in known["decisions"]:
                if bar > self._bars[row, bar % self._slots]:
                    self._bars[row, bar % self._slots], self._sizes[row, bar % self._slots] = bar, size
            self._sighted[row] = _NEVER if known["sighted"] is None else known["sighted"]
        return self

    def _bar(self, timestamp: pd.Timestamp) -> int:
        return int((timestamp - _EPOCH) // parse_timeframe(self.timeframe))


def _whole(sizes: np.ndarray) -> np.ndarray:
    return np.rint(np.nan_to_num(sizes) * _UNITS).astype(np.int64)
