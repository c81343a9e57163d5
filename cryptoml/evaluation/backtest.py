"""The backtest: target positions to returns after costs, vectorised over symbols and bars.

Timing. A target decided at the close of bar t is filled at the open of bar t+1 and earns from that open to the next
one. The last bar is valued at its close and left open.

Accounting. Positions are signed fractions of current equity, within the trading config's limits. A fill is charged when
the target changes; the drift of a weight between fills is neither traded nor charged. Funding that is due as a bar opens
is paid by the position of the bar before; funding inside the bar by the position held then.

Missing bars. Nothing fills on an absent bar: the position is carried at the last close, and the jump to the next open
is earned. What was decided at the last close before an open is filled there; with no bar there is no forecast, which
means flat, so a position is closed at the first open after a gap and taken up again as forecasts return. After a
symbol's last bar its position is closed at the last close, at the usual cost.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cryptoml.data.panel import Panel
from cryptoml.evaluation.account import Account, Holdings, settle
from cryptoml.evaluation.funding import Funding
from cryptoml.evaluation.stops import Prices, resolve_stops
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.positions import limit_positions

__all__ = ["BacktestConfig", "backtest", "cost_sweep"]


class BacktestConfig(BaseModel):
    """What the simulation of fills goes into."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use_stops: bool = Field(
        default=False, description="Whether stop loss and take profit of the signals are simulated inside the bar"
    )


def backtest(
    target: np.ndarray,
    panel: Panel,
    trading: TradingConfig | None = None,
    config: BacktestConfig | None = None,
    *,
    stop_loss_pct: np.ndarray | None = None,
    take_profit_pct: np.ndarray | None = None,
    funding: Funding | None = None,
) -> Account:
    """Trade target positions on a panel; the module's text has the rules.

    Args:
        target: Decided at the close of each bar, signed fraction of equity `[asset, time]`; NaN is flat.
        panel: Candles of the same bars.
        trading: Costs, limits, drawdown brake.
        config: Whether stops are simulated.
        stop_loss_pct: Decided with the target, fraction of price `[asset, time]`; NaN or None for no stop.
        take_profit_pct: Likewise.
        funding: Payments on the same bars; None for none.

    Raises:
        ValueError: The target's shape is not that of the panel.
    """
    trading, config = trading or TradingConfig(), config or BacktestConfig()
    if target.shape != panel.present.shape:
        raise ValueError(f"target must have the panel's shape {panel.present.shape}, was {target.shape}")
    position = _fill_at_next_open(limit_positions(target, trading), panel.present)
    mark, end = _marks(panel)
    exited = np.zeros(position.shape, dtype=bool)
    if config.use_stops and (stop_loss_pct is not None or take_profit_pct is not None):
        prices = Prices(panel.field("open"), panel.field("high"), panel.field("low"))
        stops = (_shifted(pct, position.shape) for pct in (stop_loss_pct, take_profit_pct))
        position, exited, exit_price = resolve_stops(position, prices, *stops)
        end = np.where(exited, exit_price, end)
    move = np.divide(end, mark, out=np.ones_like(mark), where=np.isfinite(mark) & np.isfinite(end)) - 1
    nothing = np.zeros((1, 1))
    owed, due = (nothing, nothing) if funding is None else map(np.nan_to_num, funding)
    return settle(Holdings(position, exited, move, owed, due), trading)


def cost_sweep(account: Account, sides_bps: Sequence[float] = (0, 5, 10, 15, 20, 25, 30)) -> dict[float, np.ndarray]:
    """Return net returns `[time]` of the same trades at each cost per side in bps."""
    return {float(bps): account.net_at(bps) for bps in sides_bps}


def _fill_at_next_open(weights: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return positions held from each open: the decision of the bar before where the bar trades, else what was held."""
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


def _shifted(pct: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return distances as known before each open `[asset, time]`."""
    known = np.full(shape, np.nan)
    if pct is not None:
        known[:, 1:] = pct[:, :-1]
    return known
