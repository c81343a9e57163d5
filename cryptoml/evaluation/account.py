"""What a backtest leaves behind: positions, returns and costs of every bar, and the drawdown brake between them."""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from cryptoml.evaluation.performance import equity_curve
from cryptoml.evaluation.stops import run_starts
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.positions import brake_scale

__all__ = ["Account", "Holdings", "settle"]

_BPS = 1e-4


@dataclass(frozen=True, eq=False)
class Holdings:
    """Positions and what one unit of them meets, `[asset, time]`.

    Attributes:
        position: Held from the open of each bar, signed fraction of equity.
        exited: Bool: closed inside the bar by a stop or target.
        move: Return of one unit from the bar's open to the next, or to the exit.
        owed: Funding rate due at the open, for the position of the bar before.
        due: Funding rate due inside the bar.
    """

    position: np.ndarray
    exited: np.ndarray
    move: np.ndarray
    owed: np.ndarray
    due: np.ndarray

    @property
    def before(self) -> np.ndarray:
        """Position as each bar opens, before the fill at that open."""
        before = np.zeros_like(self.position)
        before[:, 1:] = np.where(self.exited, 0.0, self.position)[:, :-1]
        return before


@dataclass(frozen=True, eq=False)
class Account:
    """Per-bar outcome `[asset, time]`, every number a fraction of equity.

    Attributes:
        position: Held from the open of each bar.
        price_return: Position times price move.
        owed: Funding paid at the open by the position of the bar before; negative where received.
        paid: Funding paid inside the bar by the position held; negative where received.
        opened: Traded notional at the open that starts or enlarges a position.
        closed: Traded notional at the open that shrinks or ends the position of the bar before.
        exited: Traded notional of stops and targets inside the bar.
        side_bps: Cost per side in bps of traded notional.
    """

    position: np.ndarray
    price_return: np.ndarray
    owed: np.ndarray
    paid: np.ndarray
    opened: np.ndarray
    closed: np.ndarray
    exited: np.ndarray
    side_bps: float

    @property
    def funding(self) -> np.ndarray:
        """Funding paid in each bar `[asset, time]`; negative where received."""
        return self.owed + self.paid

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

    def of_assets(self, assets: slice) -> "Account":
        """Return what some assets alone contribute."""
        held = {part.name: getattr(self, part.name)[assets] for part in fields(self) if part.name != "side_bps"}
        return replace(self, **held)

    def trade_returns(self) -> np.ndarray:
        """Return the net result of every trade `[trade]`: a run of bars whose position keeps its sign.

        What is paid at an open to close the position of the bar before, and the funding that it owes there, count
        against the old trade.
        """
        cost = self.side_bps * _BPS
        own = self.price_return - self.paid - (self.opened + self.exited) * cost
        left = self.owed + self.closed * cost
        own[:, :-1] -= left[:, 1:]
        starts = np.flatnonzero(run_starts(self.position).ravel())
        sums = np.add.reduceat(own.ravel(), starts) if starts.size else np.empty(0)
        return sums[self.position.ravel()[starts] != 0]


def settle(holdings: Holdings, config: TradingConfig) -> Account:
    """Charge what was held; the drawdown brake, if there is one, shrinks it first."""
    scale, cost = np.ones(holdings.position.shape[1]), config.costs.side_bps
    if config.drawdown_brake is not None:
        scale = _brake_scales(holdings, config)
    position, before = holdings.position * scale, holdings.before
    before[:, 1:] *= scale[:-1]
    kept = np.where(before * position > 0, np.minimum(np.abs(before), np.abs(position)), 0.0)
    return Account(
        position=position,
        price_return=position * holdings.move,
        owed=before * holdings.owed,
        paid=_paid_inside(position, holdings),
        opened=np.abs(position) - kept,
        closed=np.abs(before) - kept,
        exited=np.abs(position) * holdings.exited,
        side_bps=cost,
    )


def _paid_inside(position: np.ndarray, holdings: Holdings) -> np.ndarray:
    """Return funding paid inside the bar; whether a stopped position still met it is unknown, so it pays but never receives."""
    paid = position * holdings.due
    return np.where(holdings.exited, np.maximum(paid, 0.0), paid)


def _brake_scales(holdings: Holdings, config: TradingConfig) -> np.ndarray:
    """Return the share of the position that is held from each open `[time]`.

    The drawdown at bar t's decision is that of the last open before it: the returns of bars to t - 2 are in.
    """
    position, before, cost = holdings.position, holdings.before, config.costs.side_bps * _BPS
    exits = (np.abs(position) * holdings.exited).sum(axis=0)
    held = (position * holdings.move - _paid_inside(position, holdings)).sum(axis=0) - cost * exits
    owed, plain = (before * holdings.owed).sum(axis=0), np.abs(position - before).sum(axis=0)
    scales = np.ones(position.shape[1])
    equity = peak = last_equity = last_peak = 1.0
    for bar in range(1, len(scales)):
        now, was = brake_scale(1 - last_equity / last_peak, config), scales[bar - 1]
        traded = now * plain[bar] if now == was else np.abs(now * position[:, bar] - was * before[:, bar]).sum()
        scales[bar], last_equity, last_peak = now, equity, peak
        equity *= 1 + now * held[bar] - was * owed[bar] - cost * traded
        peak = max(peak, equity)
    return scales
