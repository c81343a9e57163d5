"""Adaptation on real candles: trained on one past, adapted again and again in the year after it.

python -m benchmarks.adaptation_real DIR

Nobody knows the regimes of a real market. Every `every` bars of the test year the model is adapted to the newest bars and
judged on the 96 bars that follow, as in `benchmarks.adaptation`; lines are told apart by the regime label of the bar that
begins the support, which neither model nor adaptation sees.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro

from benchmarks.adaptation import SHOTS, Row, judge
from benchmarks.adaptation_methods import LONGEST, QUERY_BARS, Arena, told_beliefs, tuned_rate
from benchmarks.bars import Bar, report
from benchmarks.regime_markets import TARGETS, train_on
from cryptoml.data.loading import load_panel
from cryptoml.data.panel import Panel
from cryptoml.features.targets import REGIMES, TargetConfig, make_targets, with_regimes
from cryptoml.training.adaptation import AdaptationConfig

__all__ = ["RealArguments", "main"]


@dataclass(frozen=True)
class RealArguments:
    """Train on the candles of one span, adapt in the next, and print the losses. Exit code 1 where a bar is missed."""

    data: tyro.conf.Positional[Path]
    """Folder of candle files, one per symbol."""
    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", "ADAUSDT", "DOGEUSDT")
    train_start: str = "2021-07-01"
    train_end: str = "2022-12-31"
    test_end: str = "2023-12-31"
    every: int = 170
    """Bars from one adaptation to the next."""
    epochs: int = 15
    """Epochs of training at most."""
    fine_tuned: int = 16
    """Adaptations per regime beside which fine-tuning is tried: it is slow."""
    models: Path | None = None
    """Folder to keep the trained models in, and to take them from."""
    seed: int = 0


def main(arguments: RealArguments) -> int:
    """Run the benchmark and return the exit code."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    whole = load_panel(
        arguments.data, symbols=arguments.symbols, start=arguments.train_start, end=arguments.test_end, timeframe="1h"
    ).panel
    cut = int(whole.timestamps.searchsorted(pd.Timestamp(arguments.train_end, tz="UTC")))
    past = whole.slice_time(None, cut)
    regimes = _market_regimes(past, with_regimes(TARGETS, past))
    trained = train_on(past, regimes, arguments.seed, arguments.epochs, arguments.models and arguments.models / "real")
    arrays = trained.rehearse(AdaptationConfig())
    rate = tuned_rate(trained, arrays)
    sys.stdout.write(f"prepared in {time.perf_counter() - began:.0f} s, fine-tuning at {rate:g}; {told_beliefs(arrays)}\n")
    followed = _market_regimes(whole, trained.targets)
    starts = range(cut, whole.num_bars - LONGEST - QUERY_BARS - TARGETS.primary_horizon, arguments.every)
    arena = Arena.of(trained, whole, arrays, starts)
    rows: list[Row] = []
    for code, name in enumerate(REGIMES):
        chosen = [start for start in starts if followed[start] == code]
        for shots in SHOTS if len(chosen) > 1 else ():
            rows.append(judge(name, arena, chosen, shots, rate, arguments.fine_tuned))
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    found = [Bar(f"{row.regime} {row.shots}: adapted - unadapted", row.knobs.high, most=0.0, note=f"{row.knobs}") for row in rows]
    return report("Adaptation on real candles: upper end of the interval of the difference in loss", found)


def _market_regimes(panel: Panel, targets: TargetConfig) -> np.ndarray:
    """Return the market's regime label at each bar, -1 where there is none."""
    return make_targets(panel, targets).regime.max(axis=0)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(RealArguments)))
