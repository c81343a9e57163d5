"""The backtest once more as a plain loop, one bar and one symbol at a time, sharing no code with it."""

from dataclasses import dataclass, field

import numpy as np

from cryptoml.data.panel import Panel


@dataclass
class Rules:
    """What the loop needs to know."""

    side_bps: float = 5.0
    max_position: float = 1.0
    max_gross: float = 1.0
    use_stops: bool = False
    brake: float | None = None


@dataclass
class Book:
    """One symbol's state."""

    held: float = 0.0
    side: int = 0
    levels: tuple[float, float] = (np.nan, np.nan)
    blocked: bool = False
    last_close: float = np.nan
    unscaled: float = 0.0
    paid: list[float] = field(default_factory=list)


def run(target, panel: Panel, rules: Rules, stop, take, at_open, inside) -> np.ndarray:
    """Return every symbol's net contribution `[asset, time]`."""
    num_assets, num_bars = target.shape
    last_bar = [
        int(np.flatnonzero(panel.present[asset])[-1]) if panel.present[asset].any() else -1 for asset in range(num_assets)
    ]
    books = [Book() for _ in range(num_assets)]
    net, equities = np.zeros(target.shape), [1.0]
    for bar in range(num_bars):
        known = equities[: max(bar - 1, 0) + 1]  # up to the open before the decision for this bar
        drawdown = 1 - known[-1] / max(known)
        scale = 1.0 if rules.brake is None else min(1.0, max(0.1, 1 - drawdown / rules.brake))
        wanted = limited(target[:, bar - 1], rules) if bar else np.zeros(num_assets)
        for asset, book in enumerate(books):
            alive = bar <= last_bar[asset]
            distances = (stop[asset, bar - 1], take[asset, bar - 1])
            net[asset, bar] = one_bar(
                book, panel, asset, bar, wanted[asset], scale, alive, distances, at_open[asset, bar], inside[asset, bar], rules
            )
        equities.append(equities[-1] * (1 + net[:, bar].sum()))
    return net


def limited(wanted, rules: Rules) -> list[float]:
    cut = [0.0 if np.isnan(one) else max(-rules.max_position, min(rules.max_position, one)) for one in wanted]
    gross = sum(abs(one) for one in cut)
    return [one * rules.max_gross / gross for one in cut] if gross > rules.max_gross else cut


def one_bar(
    book: Book, panel: Panel, asset, bar, wanted, scale, alive, distances, rate_at_open, rate_inside, rules: Rules
) -> float:
    cost = rules.side_bps * 1e-4
    open_, high, low, close = panel.candles[asset, bar, :4]
    trades = np.isfinite(open_)
    gained = -book.held * rate_at_open
    unscaled = book.unscaled
    if trades:
        side = int(np.sign(wanted))
        if side != book.side:
            book.side, book.blocked = side, False
            book.levels = (open_ * (1 - side * distances[0]), open_ * (1 + side * distances[1]))
        unscaled = 0.0 if book.blocked else wanted
    if not alive:
        unscaled = 0.0
    new = unscaled * scale
    gained -= abs(new - book.held) * cost
    book.held, book.unscaled = new, unscaled
    start = open_ if trades else book.last_close
    book.last_close = close if np.isfinite(close) else book.last_close
    following = panel.candles[asset, bar + 1, 0] if bar + 1 < panel.num_bars else np.nan
    end = following if np.isfinite(following) else book.last_close
    if not book.held:
        return gained
    exit_price = stopped_at(book, open_, high, low) if rules.use_stops and trades else None
    if exit_price is None:
        return gained + book.held * (end / start - 1) - book.held * rate_inside
    gained += book.held * (exit_price / start - 1) - abs(book.held) * cost - max(0.0, book.held * rate_inside)
    book.held, book.unscaled, book.blocked = 0.0, 0.0, True
    return gained


def stopped_at(book: Book, open_, high, low) -> float | None:
    """Return the price at which the position is left inside the bar: the stop before the target, a gap at the open."""
    stop, take = book.levels
    if book.side > 0:
        if low <= stop:
            return min(open_, stop)
        return take if high >= take else None
    if high >= stop:
        return max(open_, stop)
    return take if low <= take else None
