"""The feature engine on one core: cells per second, against `ta`, peak memory, and the live row.

python -m benchmarks.features [--quick] [--real DIR]

A cell is one feature at one bar. With `--real` the tables of a folder of raw market data are brought into a lake, and
the counts per category and the share of missing values per feature are printed instead.
"""

import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import ta
import tyro

from benchmarks.bars import Bar, report
from cryptoml.data.batches import FilesConfig
from cryptoml.data.ingest import ingest_files
from cryptoml.data.lake import Lake
from cryptoml.data.loading import load_panel
from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.features.contract import Bars
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeaturePanel, build_features
from cryptoml.features.onchain import METRICS, OnChainMetrics

__all__ = ["FeatureArguments", "main", "missing_shares", "real_panel"]

SIDE_BY_SIDE_BARS = 10_000
LIVE_UPDATES = 1_000
TRADES_PER_BAR = 100
RAW_FOLDERS = {
    "candles_1h": FilesConfig(),
    "funding_8h": FilesConfig(kind="funding"),
    "onchain_1d": FilesConfig(kind="onchain"),
    "spot_1h": FilesConfig(kind="venue_candles", venue="binance_spot"),
    "kraken_1h": FilesConfig(kind="venue_candles", venue="kraken"),
}


@dataclass(frozen=True)
class FeatureArguments:
    """What to measure.

    Attributes:
        num_bars: Bars of the long series.
        repeats: Runs of which the fastest counts.
        quick: A tenth of the bars and of the live updates.
        real: Folder of raw market data (`candles_1h`, `funding_8h`, ...) whose features are counted instead.
    """

    num_bars: int = 1_000_000
    repeats: int = 3
    quick: bool = False
    real: str = ""


def main(arguments: FeatureArguments) -> int:
    """Run the benchmark and return the exit code."""
    if arguments.real:
        return _report_real(Path(arguments.real))
    scale = 10 if arguments.quick else 1
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        speed, memory = fresh.submit(_long_series, arguments.num_bars // scale, arguments.repeats).result()
    ours, theirs = _side_by_side(arguments.repeats)
    candles, everything = (_live(LIVE_UPDATES // scale, external) for external in (False, True))
    candle_bars = f"{arguments.num_bars // scale:,} bars, {len(_candle_engineer().features)} candle features"
    return report(
        "The feature engine on one core",
        [
            Bar("million cells per second", speed / 1e6, least=30, note=candle_bars),
            Bar(f"cells per second / ta at {SIDE_BY_SIDE_BARS:,} bars", ours / theirs, least=40, note=f"ta {theirs / 1e6:.2f} M"),
            Bar("peak memory / float32 output", memory, most=2.5, note="inputs included"),
            Bar("live row of candle features, p50 ms", float(np.quantile(candles, 0.5)), most=5),
            Bar("live row of candle features, p99 ms", float(np.quantile(candles, 0.99))),
            Bar("live row of all features, p50 ms", float(np.quantile(everything, 0.5)), most=5),
            Bar("live row of all features, p99 ms", float(np.quantile(everything, 0.99))),
        ],
    )


def _candle_engineer() -> AdvancedFeatureEngineer:
    """Return an engineer of the features that candles alone feed."""
    fed = [one.name for one in AdvancedFeatureEngineer().features if set(one.inputs) <= set(CANDLE_FIELDS)]
    return AdvancedFeatureEngineer({"include": tuple(fed)})


def _draw(num_bars: int) -> pd.DataFrame:
    """Return hourly candles of a random walk."""
    rng = np.random.default_rng(0)
    close = 100.0 * np.exp(np.cumsum(0.003 * rng.standard_normal(num_bars)))
    opens = np.r_[close[:1], close[:-1]]
    high, low = np.maximum(opens, close), np.minimum(opens, close)
    volume = rng.lognormal(3.0, 1.0, num_bars)
    columns = {
        "open": opens,
        "high": high * np.exp(0.001 * rng.random(num_bars)),
        "low": low * np.exp(-0.001 * rng.random(num_bars)),
    }
    columns |= {"close": close, "volume": volume, "quote_volume": volume * close}
    columns |= {"num_trades": rng.poisson(50.0, num_bars) + 1.0, "taker_buy_volume": volume * rng.random(num_bars)}
    stamps = pd.date_range("1990-01-01", periods=num_bars, freq="h", tz="UTC").as_unit("us")
    return pd.DataFrame({"timestamp": stamps, **columns})


def _bars(frame: pd.DataFrame) -> Bars:
    return Bars(pd.DatetimeIndex(frame["timestamp"]), "1h", {name: frame[name].to_numpy() for name in CANDLE_FIELDS})


def _fastest(run: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _long_series(num_bars: int, repeats: int) -> tuple[float, float]:
    """Return cells per second, and the peak memory over the size of the output; to be run in a fresh process."""
    engineer, before = _candle_engineer(), _peak_bytes()
    bars = _bars(_draw(num_bars))
    cells = num_bars * len(engineer.features)
    seconds = _fastest(lambda: engineer.compute(bars), 1)
    peak = _peak_bytes() - before
    out = np.empty((num_bars, len(engineer.features)), np.float32)
    seconds = min(seconds, _fastest(lambda: engineer.compute(bars, out), repeats - 1)) if repeats > 1 else seconds
    return cells / seconds, peak / (4.0 * cells)


def _peak_bytes() -> int:
    return 1_024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _side_by_side(repeats: int) -> tuple[float, float]:
    """Return cells per second of this engine and of `ta`, both from a frame of candles to a frame of features."""
    frame, engineer = _draw(SIDE_BY_SIDE_BARS), _candle_engineer()
    ours = engineer.extract_all_features(frame).size / _fastest(lambda: engineer.extract_all_features(frame), repeats)

    def peer() -> pd.DataFrame:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return ta.add_all_ta_features(frame.copy(), "open", "high", "low", "close", "volume")

    added = peer().shape[1] - frame.shape[1]
    return ours, SIDE_BY_SIDE_BARS * added / _fastest(peer, repeats)


def _live(updates: int, external: bool) -> np.ndarray:
    """Return milliseconds of each live update `[update]`, with a reading of every external input where wanted."""
    engineer = AdvancedFeatureEngineer() if external else _candle_engineer()
    frame = _draw(engineer.max_lookback + 100 + updates)
    start = len(frame) - updates
    inputs = _readings(frame) if external else [{} for _ in range(len(frame))]
    live = engineer.live(frame.iloc[: engineer.max_lookback], **inputs[0])
    took = []
    for bar, given in zip(frame.to_dict("records")[engineer.max_lookback :], inputs[engineer.max_lookback :], strict=True):
        begun = time.perf_counter()
        live.update(bar, **given)
        took.append(1e3 * (time.perf_counter() - begun))
    return np.array(took[start - engineer.max_lookback :])


def _readings(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Return what comes with each bar: the chain once a day, funding every 8 bars; trades, a book, three prices every time."""
    rng, readings = np.random.default_rng(1), []
    levels = 0.01 * np.arange(1, 21)
    for row, close in enumerate(frame["close"]):
        venues = {"spot": close * 0.999, "kraken": close * 1.001, "triangle": close}
        sizes = rng.lognormal(0.0, 1.0, (2, 20))
        book = {"bids": np.c_[close - levels, sizes[0]].tolist(), "asks": np.c_[close + levels, sizes[1]].tolist()}
        given: dict[str, object] = {"orderbook": book, "cross_exchange": venues, "trades": _trades(frame["timestamp"][row], rng)}
        if row % 8 == 0:
            given["cross_exchange"] = venues | {"funding": 1e-4 * rng.standard_normal()}
        if row % 24 == 0:
            given["onchain"] = OnChainMetrics(**dict.fromkeys(METRICS, float(rng.lognormal(10.0, 0.1))))
        readings.append(given)
    return readings


def _trades(opened: pd.Timestamp, rng: np.random.Generator) -> pd.DataFrame:
    seconds = np.sort(rng.uniform(0.0, 3_600.0, TRADES_PER_BAR))
    stamps = opened + pd.to_timedelta(seconds, unit="s")
    taken = rng.random(TRADES_PER_BAR) < 0.5
    return pd.DataFrame({"available_at": stamps, "size": rng.lognormal(size=TRADES_PER_BAR), "is_buyer_taker": taken})


def real_panel(folder: Path, lake: Path) -> Panel:
    """Bring a folder of raw market data into a new lake and return its panel with every table."""
    for name, config in RAW_FOLDERS.items():
        ingest_files(Lake(lake), [folder / name], config)
    return load_panel(lake, timeframe="1h").panel


def missing_shares(panel: Panel, built: FeaturePanel) -> pd.DataFrame:
    """Return per feature its category, and the share of missing values among the bars that exist: of all symbols, of BTC."""
    missing = np.isnan(built.values)
    overall = missing[panel.present].mean(axis=0)
    leader = panel.index_of("BTCUSDT")
    own = missing[leader][panel.present[leader]].mean(axis=0)
    catalogue = AdvancedFeatureEngineer().catalogue().set_index("name")
    return pd.DataFrame({"category": catalogue.loc[list(built.names), "category"], "all": overall, "BTCUSDT": own})


def _report_real(folder: Path) -> int:
    with tempfile.TemporaryDirectory() as lake:
        panel = real_panel(folder, Path(lake))
    begun = time.perf_counter()
    shares = missing_shares(panel, built := build_features(panel, AdvancedFeatureEngineer()))
    seconds = time.perf_counter() - begun
    by_category = shares.groupby("category", sort=False)["all"]
    table = pd.DataFrame({"features": by_category.size(), "present": by_category.apply(lambda share: (share < 1).sum())})
    table["median share missing"] = by_category.median()
    head = f"{len(panel.symbols)} symbols x {panel.num_bars:,} bars x {len(built.names)} features in {seconds:.1f} s"
    sys.stdout.write(f"{head}\n\n{table.to_string(float_format='%.4f')}\n\nShare of missing values per feature\n\n")
    sys.stdout.write(shares.to_string(float_format="%.4f") + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(FeatureArguments, prog="python -m benchmarks.features")))
