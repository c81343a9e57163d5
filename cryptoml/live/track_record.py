"""How good a bot's own forecasts were, from the log of their outcomes; None where that is not known yet."""

from collections.abc import Mapping, Sequence

import numpy as np

from cryptoml.data.schema import bars_per_year, parse_timeframe
from cryptoml.evaluation.performance import sharpe_ratio
from cryptoml.live.outcomes import LoggedForecast, OutcomeLog
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.positions import holding_bars, limit_positions, overlap_tranches

__all__ = ["direction_accuracy", "mean_confidence", "net_returns", "realised_sharpe_ratio"]


def direction_accuracy(log: OutcomeLog) -> float | None:
    """Return the share of settled forecasts whose most probable direction (DOWN, SIDEWAYS, UP) came true."""
    known = [
        (one.direction, one.close, one.threshold, out.final_close) for one, out in log.settled if out.final_close is not None
    ]
    if not known:
        return None
    said, close, threshold, final = np.array(known).T
    move = np.log(final / close)
    return float((said == np.sign(move) * (np.abs(move) > threshold)).mean())


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
    settled = [(one, out.second_open / out.first_open - 1) for one, out in log.settled if out.first_open and out.second_open]
    if not settled:
        return np.empty(0)
    forecasts, (filled, moves) = log.forecasts, zip(*settled, strict=True)
    rows = {symbol: row for row, symbol in enumerate(dict.fromkeys(one.symbol for one in forecasts))}
    places, earning = _places(forecasts, rows, log.timeframe), _places(filled, rows, log.timeframe)
    first, num_bars = places[:, 1].min(), earning[:, 1].max() - places[:, 1].min() + 1
    size, move = np.zeros((len(rows), num_bars)), np.zeros((len(rows), num_bars))
    known = np.zeros(size.shape, dtype=bool)
    inside = places[:, 1] < first + num_bars
    asset, bar = places[inside, 0], places[inside, 1] - first
    size[asset, bar], known[asset, bar] = np.array([one.size for one in forecasts])[inside], True
    move[earning[:, 0], earning[:, 1] - first] = moves
    held = overlap_tranches(size, holding_bars(config, forecasts[0].horizon_bars))
    target = limit_positions(np.where(known, held, 0.0), config)
    traded = np.abs(np.diff(target, axis=1, prepend=0.0))
    return np.asarray((target * move - traded * config.costs.side_bps * 1e-4).sum(axis=0))


def _places(forecasts: Sequence[LoggedForecast], rows: Mapping[str, int], timeframe: str) -> np.ndarray:
    """Return the asset's row and the bar's number since the epoch of each forecast `[forecast, 2]`."""
    step = parse_timeframe(timeframe).value
    return np.array([(rows[one.symbol], one.timestamp.value // step) for one in forecasts])
