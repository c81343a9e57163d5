"""The backtest: target positions to returns after costs, vectorised over symbols and bars.

Timing. A target decided at the close of bar t is filled at the open of bar t+1 and earns from that open to the next
one. The last bar is valued at its close and left open.

Accounting. Positions are fractions of current equity. A fill is charged when the target changes; the drift of a weight
between fills is neither traded nor charged. Funding of bar t is paid by the position that was held as the bar
opened, before the fill at that open.

Missing bars. Nothing fills on an absent bar: the position is carried at the last close, and the jump to the next open
is earned. No decision stands after a gap (its forecast is masked), so the position is closed at the first open after
it. After a symbol's last bar its position is closed at the last close, at the usual cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from cryptoml.data.panel import Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.evaluation.performance import equity_curve
from cryptoml.evaluation.stops import Prices, resolve_stops, run_starts
from cryptoml.trading.config import CostConfig

__all__ = ["BacktestConfig", "BacktestResult", "backtest", "cost_sweep", "funding_rates"]

_BPS = 1e-4


class BacktestConfig(BaseModel):
    """How targets of several symbols share one account."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allocation: Literal["equal", "gross"] = Field(
        default="equal",
        description="equal: each symbol owns 1/N of the capital; gross: targets share max_gross among those that trade",
    )
    max_gross: float = Field(default=1.0, gt=0, description="Largest sum of absolute positions, as a multiple of equity")
    use_stops: bool = Field(
        default=False, description="Whether stop loss and take profit of the signals are simulated inside the bar"
    )


@dataclass(frozen=True, eq=False)
class BacktestResult:
    """Per-bar outcome `[asset, time]`, every number a fraction of equity.

    Attributes:
        position: Held from the open of each bar.
        price_return: Position times price move.
        funding: Paid to the other side; negative where received.
        opened: Traded notional at the open that starts or enlarges a position.
        closed: Traded notional at the open that shrinks or ends the position of the bar before.
        exited: Traded notional of stops and targets inside the bar.
        side_bps: Cost per side in bps of traded notional.
    """

    position: np.ndarray
    price_return: np.ndarray
    funding: np.ndarray
    opened: np.ndarray
    closed: np.ndarray
    exited: np.ndarray
    side_bps: float

    @cached_property
    def asset_turnover(self) -> np.ndarray:
        """Traded notional `[asset, time]`."""
        return self.opened + self.closed + self.exited

    @cached_property
    def asset_net(self) -> np.ndarray:
        """Contribution of each symbol to the net return `[asset, time]`."""
        return self.price_return - self.funding - self.asset_turnover * (self.side_bps * _BPS)

    @cached_property
    def turnover(self) -> np.ndarray:
        """Traded notional of the account `[time]`."""
        return self.asset_turnover.sum(axis=0)

    @cached_property
    def gross(self) -> np.ndarray:
        """Return of the account before trading costs, after funding `[time]`."""
        return (self.price_return - self.funding).sum(axis=0)

    @property
    def net(self) -> np.ndarray:
        """Return of the account after all costs `[time]`."""
        return self.net_at(self.side_bps)

    @property
    def equity(self) -> np.ndarray:
        """Account value `[time]` after each bar, from 1."""
        return equity_curve(self.net)

    def net_at(self, side_bps: float) -> np.ndarray:
        """Return the net returns `[time]` of the same trades at another cost per side."""
        return self.gross - self.turnover * (side_bps * _BPS)

    def trade_returns(self) -> np.ndarray:
        """Return the net result of every trade `[trade]`: a run of bars whose position keeps its sign.

        What is paid at an open to close the position of the bar before, and the funding that it owes there, count
        against the old trade.
        """
        cost = self.side_bps * _BPS
        own = self.price_return - (self.opened + self.exited) * cost
        owed = self.funding + self.closed * cost
        own[:, :-1] -= owed[:, 1:]
        starts = np.flatnonzero(run_starts(self.position).ravel())
        sums = np.add.reduceat(own.ravel(), starts) if starts.size else np.empty(0)
        return sums[self.position.ravel()[starts] != 0]


def backtest(
    target: np.ndarray,
    panel: Panel,
    costs: CostConfig | None = None,
    config: BacktestConfig | None = None,
    *,
    stop_loss_pct: np.ndarray | None = None,
    take_profit_pct: np.ndarray | None = None,
    funding: np.ndarray | None = None,
) -> BacktestResult:
    """Trade target positions on a panel; the module's text has the rules.

    Args:
        target: Decided at the close of each bar, in [-1, 1] `[asset, time]`; beyond is cut off, NaN is flat.
        panel: Candles of the same bars.
        costs: Default 5 bps per side.
        config: Allocation, gross limit, whether stops are simulated.
        stop_loss_pct: Decided with the target, fraction of price `[asset, time]`; NaN or None for no stop.
        take_profit_pct: Likewise.
        funding: Rate that longs pay at the open of each bar `[asset, time]`; NaN counts as 0.

    Raises:
        ValueError: The target's shape is not that of the panel.
    """
    costs, config = costs or CostConfig(), config or BacktestConfig()
    if target.shape != panel.present.shape:
        raise ValueError(f"target must have the panel's shape {panel.present.shape}, was {target.shape}")
    prices = Prices(panel.field("open"), panel.field("high"), panel.field("low"))
    position = _fill_at_next_open(_allocate(target, config), panel.present)
    mark, end = _marks(panel)
    exited = np.zeros(position.shape, dtype=bool)
    if config.use_stops and (stop_loss_pct is not None or take_profit_pct is not None):
        stops = (_shifted(pct, position.shape) for pct in (stop_loss_pct, take_profit_pct))
        position, exited, exit_price = resolve_stops(position, prices, *stops)
        end = np.where(exited, exit_price, end)
    move = np.divide(end, mark, out=np.ones_like(mark), where=np.isfinite(mark) & np.isfinite(end)) - 1
    before = np.zeros_like(position)
    before[:, 1:] = np.where(exited, 0.0, position)[:, :-1]
    opened, closed = _traded(before, position)
    return BacktestResult(
        position=position,
        price_return=position * move,
        funding=before * np.nan_to_num(funding) if funding is not None else np.zeros_like(position),
        opened=opened,
        closed=closed,
        exited=np.abs(position) * exited,
        side_bps=costs.side_bps,
    )


def cost_sweep(result: BacktestResult, sides_bps: Sequence[float] = (0, 5, 10, 15, 20, 25, 30)) -> dict[float, np.ndarray]:
    """Return net returns `[time]` of the same trades at each cost per side in bps."""
    return {float(bps): result.net_at(bps) for bps in sides_bps}


def funding_rates(panel: Panel) -> np.ndarray | None:
    """Put the funding table on the grid: rates `[asset, time]` due in the bar that holds their stamp, else 0.

    None where the panel has no funding table; a symbol without one pays nothing.
    """
    table = panel.tables.get("funding")
    if not table:
        return None
    rates, end = np.zeros(panel.present.shape), panel.timestamps[-1] + parse_timeframe(panel.timeframe)
    for row, symbol in enumerate(panel.symbols):
        if symbol in table:
            _add_rates(rates[row], table[symbol], panel.timestamps, end)
    return rates


def _add_rates(rates: np.ndarray, frame: pd.DataFrame, timestamps: pd.DatetimeIndex, end: pd.Timestamp) -> None:
    bars = timestamps.searchsorted(pd.DatetimeIndex(frame["timestamp"]), side="right") - 1
    inside = (bars >= 0) & (frame["timestamp"] < end).to_numpy()
    np.add.at(rates, bars[inside], frame["funding_rate"].to_numpy(dtype=np.float64)[inside])


def _allocate(target: np.ndarray, config: BacktestConfig) -> np.ndarray:
    """Return fractions of equity `[asset, time]`."""
    target = np.clip(np.nan_to_num(target), -1, 1).astype(np.float64)
    if config.allocation == "equal":
        return target * (config.max_gross / target.shape[0])
    return target * (config.max_gross / np.maximum(np.abs(target).sum(axis=0), 1.0))


def _fill_at_next_open(weights: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return positions held from each open: yesterday's decision where the bar trades, else what was held."""
    desired = np.zeros_like(weights)
    desired[:, 1:] = weights[:, :-1]
    bars = np.arange(weights.shape[1])
    last_fill = np.maximum.accumulate(np.where(present, bars, -1), axis=1)
    held = np.where(last_fill >= 0, np.take_along_axis(desired, np.maximum(last_fill, 0), axis=1), 0.0)
    last_bar = np.where(present, bars, -1).max(axis=1, keepdims=True)
    return np.where(bars <= last_bar, held, 0.0)


def _marks(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Return the value of one unit at each open and at the next one `[asset, time]`; NaN before the listing."""
    bars = np.arange(panel.num_bars)
    last = np.maximum.accumulate(np.where(panel.present, bars, -1), axis=1)
    close = np.where(last >= 0, np.take_along_axis(panel.field("close"), np.maximum(last, 0), axis=1), np.nan)
    mark = np.where(panel.present, panel.field("open"), close)
    end = close.copy()
    end[:, :-1] = mark[:, 1:]
    return mark, end


def _traded(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return opened and closed notional at each open `[asset, time]`."""
    same = before * after > 0
    kept = np.where(same, np.minimum(np.abs(before), np.abs(after)), 0.0)
    return np.abs(after) - kept, np.abs(before) - kept


def _shifted(pct: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return distances as known before each open `[asset, time]`."""
    known = np.full(shape, np.nan)
    if pct is not None:
        known[:, 1:] = pct[:, :-1]
    return known
