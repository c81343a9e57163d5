"""The backtest of 15 symbols x 47,000 bars and the evaluation of one candidate: seconds, and growth with the bars.

python -m benchmarks.backtest [--small]

The market is a random walk with funding every eight hours; targets change at random. Stops are touched often, which is
the slow case. An evaluation makes every figure with its interval from forecasts of two years.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro

from benchmarks.bars import Bar, report
from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.evaluation.backtest import BacktestConfig, backtest
from cryptoml.evaluation.candidates import Candidate, EvaluationInput, gaussian_quantiles
from cryptoml.evaluation.funding import Funding
from cryptoml.evaluation.protocol import evaluate
from cryptoml.features.targets import TargetConfig, make_targets
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts

__all__ = ["Arguments", "main"]

TRAIN_BARS = 1_000


@dataclass(frozen=True)
class Arguments:
    """Measure the backtest and the evaluation.

    Attributes:
        small: A quick run that proves nothing but that it works.
        repeats: Runs per measurement; the fastest counts.
    """

    small: bool = False
    repeats: int = 5


def main(arguments: Arguments) -> int:
    """Print the table; 1 where a bar is missed."""
    symbols, bars, tested = (3, 2_000, 500) if arguments.small else (15, 47_000, 17_520)
    limit = 1.0 if not arguments.small else None
    market = random_market(symbols, 2 * bars)
    half = market.slice_time(0, bars)
    stops, brake = BacktestConfig(use_stops=True), TradingConfig(drawdown_brake=0.2)
    plain = fastest(arguments.repeats, lambda: trade(half, TradingConfig(), BacktestConfig()))
    stopped = fastest(arguments.repeats, lambda: trade(half, TradingConfig(), stops))
    braked = fastest(arguments.repeats, lambda: trade(half, brake, stops))
    twice = fastest(arguments.repeats, lambda: trade(market, brake, stops))
    judged = fastest(1, judge(market.slice_time(0, tested + TRAIN_BARS)))
    size = f"{symbols} symbols x {bars:,} bars"
    return report(
        "backtest",
        [
            Bar("seconds", plain, note=size),
            Bar("seconds with stops and funding", stopped, most=limit, note=size),
            Bar("seconds with stops, funding and drawdown brake", braked, most=limit, note=size),
            Bar("seconds for twice the bars / for the bars", twice / braked, most=2.5 if limit else None),
            Bar("seconds to evaluate one candidate", judged, note=f"{symbols} symbols x {tested:,} bars, 1,000 resamples"),
        ],
    )


def random_market(num_symbols: int, num_bars: int) -> Panel:
    """Return hourly candles of independent random walks."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.006, (num_symbols, num_bars)), axis=1))
    first = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    candles = np.full((num_symbols, num_bars, len(CANDLE_FIELDS)), np.nan)
    for column, values in enumerate((first, np.maximum(first, close) * 1.003, np.minimum(first, close) * 0.997, close)):
        candles[:, :, column] = values
    stamps = pd.date_range("2020-01-01", periods=num_bars, freq="h", tz="UTC")
    return Panel(tuple(f"S{number}USDT" for number in range(num_symbols)), "1h", stamps, candles)


def trade(market: Panel, config: TradingConfig, fills: BacktestConfig) -> float:
    """Trade targets that change at random, with stops a percent away."""
    rng = np.random.default_rng(1)
    shape = market.present.shape
    target = rng.choice([-0.05, 0.0, 0.05], size=shape)
    every_eighth = np.zeros(shape)
    every_eighth[:, ::8] = 1e-4
    distance = np.full(shape, 0.01)
    funding = Funding(every_eighth, np.zeros(shape))
    account = backtest(target, market, config, fills, stop_loss_pct=distance, take_profit_pct=distance, funding=funding)
    return float(account.net.sum())


def judge(market: Panel) -> Callable[[], object]:
    """Return the evaluation of random forecasts."""
    config = TargetConfig()
    inputs = EvaluationInput(
        market, make_targets(market, config), config, (0, TRAIN_BARS - config.horizons[-1]), (TRAIN_BARS, market.num_bars)
    )
    rng, shape = np.random.default_rng(2), inputs.test_panel.present.shape
    quantiles = gaussian_quantiles(inputs)
    forecasts = Forecasts.of(
        rng.dirichlet([2, 1, 2], size=shape),
        inputs.ewma_volatility,
        horizon_bars=inputs.horizon_bars,
        timeframe="1h",
        quantiles=quantiles[:, :, -1],
        quantile_levels=config.quantiles,
        regime=rng.dirichlet([1] * 4, size=shape),
    )
    return lambda: evaluate(inputs, Candidate("random", forecasts, quantiles))


def fastest(repeats: int, run: Callable[[], object]) -> float:
    """Return the least seconds of several runs."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, prog="python -m benchmarks.backtest")))
