"""How good a bot's own forecasts were, from the log of their outcomes; None where that is not known yet."""

import numpy as np

from cryptoml.data.schema import bars_per_year, parse_timeframe
from cryptoml.evaluation.performance import sharpe_ratio
from cryptoml.live.outcomes import LoggedForecast, OutcomeLog
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.positions import holding_bars, limit_positions, overlap_tranches

__all__ = ["direction_accuracy", "mean_confidence", "net_returns", "realised_sharpe_ratio"]


def direction_accuracy(log: OutcomeLog) -> float | None:
    """Return the share of settled forecasts whose most probable direction (DOWN, SIDEWAYS, UP) came true."""
    hits = [one.direction == _realised(one, out.final_close) for one, out in log.settled if out.final_close is not None]
    return float(np.mean(hits)) if hits else None


def mean_confidence(log: OutcomeLog) -> float | None:
    """Return the mean confidence of all forecasts."""
    return float(np.mean([one.confidence for one in log.forecasts])) if log.forecasts else None


def realised_sharpe_ratio(log: OutcomeLog, config: TradingConfig) -> float | None:
    """Return the annualised Sharpe ratio of `net_returns`."""
    ratio = sharpe_ratio(net_returns(log, config), bars_per_year(log.timeframe))
    return ratio if np.isfinite(ratio) else None


def net_returns(log: OutcomeLog, config: TradingConfig) -> np.ndarray:
    """Return what the decisions earned per bar after costs `[time]`, from the first bar to the last with an outcome.

    As in the backtest: decisions add up as tranches under the config's limits, fill at the next open and earn until the one
    after; a symbol without a forecast at a bar is flat. Stops, funding and the drawdown brake are not in it.
    """
    moves = [(one, out.second_open / out.first_open - 1) for one, out in log.settled if out.first_open and out.second_open]
    if not moves:
        return np.empty(0)
    step, first = parse_timeframe(log.timeframe), min(one.timestamp for one in log.forecasts)
    rows = {symbol: row for row, symbol in enumerate(dict.fromkeys(one.symbol for one in log.forecasts))}

    def place(one: LoggedForecast) -> tuple[int, int]:
        return rows[one.symbol], int((one.timestamp - first) // step)

    shape = (len(rows), max(place(one)[1] for one, _ in moves) + 1)
    size, move, known = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    for one in log.forecasts:
        if place(one)[1] < shape[1]:
            size[place(one)], known[place(one)] = one.size, True
    for one, value in moves:
        move[place(one)] = value
    held = overlap_tranches(size, holding_bars(config, log.forecasts[0].horizon_bars))
    target = limit_positions(np.where(known, held, 0.0), config)
    traded = np.abs(np.diff(target, axis=1, prepend=0.0))
    return np.asarray((target * move - traded * config.costs.side_bps * 1e-4).sum(axis=0))


def _realised(one: LoggedForecast, final_close: float) -> int:
    move = np.log(final_close / one.close)
    return int(move > one.threshold) - int(move < -one.threshold)
