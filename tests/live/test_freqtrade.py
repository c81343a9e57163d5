"""freqtrade's own backtest trades the signals, and its look-ahead analysis finds nothing in them.

Needs freqtrade in an environment of its own, named by CRYPTOML_FREQTRADE (the executable), and real candles.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.live.freqtrade import CryptomlStrategy
from cryptoml.live.signal_source import BundleSignals
from cryptoml.pipeline import Pipeline, open_market
from tests.tiny import tiny_experiment

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
TRADED = ("BTCUSDT", "ETHUSDT")
TRAIN = (pd.Timestamp("2023-06-01", tz="UTC"), pd.Timestamp("2023-12-01", tz="UTC"))
TEST = (pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-02-01", tz="UTC"))
TIMERANGE = "20240101-20240201"
HOUR = pd.Timedelta(hours=1)
WALLET = 100_000
TRADING = {
    "min_confidence": 0.0,
    "cost_multiple": 0.0,
    "position_size": 0.1,
    "max_position": 0.2,
    "holding_bars": 2,
    "stop_loss_multiple": 0.6,
    "take_profit_multiple": 0.8,
}


@pytest.fixture(scope="module")
def freqtrade() -> Path:
    executable = os.environ.get("CRYPTOML_FREQTRADE")
    if not executable:
        pytest.skip("CRYPTOML_FREQTRADE does not name a freqtrade executable")
    return Path(executable)


@pytest.fixture(scope="module")
def candles(shared_data: Path) -> dict[str, pd.DataFrame]:
    return {symbol: pd.read_parquet(shared_data / "candles_1h" / f"{symbol}.parquet") for symbol in SYMBOLS}


@pytest.fixture(scope="module")
def bundle(candles: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "candles").mkdir()
    for symbol, frame in candles.items():
        frame[frame["timestamp"].between(*TRAIN)].to_parquet(folder / "candles" / f"{symbol}.parquet")
    known = AdvancedFeatureEngineer({"categories": ["price", "time"]}).catalogue()
    quick = known["name"][known["lookback"] <= 250].tolist()  # a forecast needs 215 bars
    config = tiny_experiment(
        trading=TRADING, features={"categories": None, "include": quick}, sweep={"num_trials": 0}, shuffled_label_run=False
    )
    pipeline = Pipeline.open(config, open_market(str(folder / "candles"), config), folder / "run")
    with pipeline.run:
        pipeline.train()
    return folder / "run" / "bundle"


@pytest.fixture(scope="module")
def endpoint(freqtrade: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from tests.live.served import served

    with served(bundle, tmp_path_factory.mktemp("served")) as address:
        yield address


@pytest.fixture(scope="module")
def exchange(freqtrade: Path) -> Iterator[str]:
    from tests.live.freqtrade_user import loopback_exchange

    with loopback_exchange(SYMBOLS) as address:
        yield address


@pytest.fixture(scope="module")
def user(
    freqtrade: Path,
    exchange: str,
    endpoint: str,
    candles: dict[str, pd.DataFrame],
    bundle: Path,
    shared_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    from tests.live.freqtrade_user import FreqtradeUser

    user = FreqtradeUser(freqtrade, tmp_path_factory.mktemp("freqtrade") / "user_data", exchange, TRADED)
    for symbol, frame in candles.items():
        rates = shared_data / "funding_8h" / f"{symbol}.parquet"
        user.write_candles(symbol, frame[frame["timestamp"] > TRAIN[0]], pd.read_parquet(rates))
    user.write_strategies(bundle, endpoint)
    return user


@dataclass
class Position:
    """An open trade of the plain simulation."""

    opened: pd.Timestamp
    side: int
    stop: float
    target: float


@pytest.mark.slow
def test_trades_follow_the_signals_bar_by_bar(user: Any, bundle: Path, candles: dict[str, pd.DataFrame]) -> None:
    user.run("backtesting", "Follower", TIMERANGE, "--cache", "none")
    trades = user.trades("Follower")
    source = BundleSignals(bundle)
    first = TEST[0] - source.history_bars * HOUR
    frames = {name: frame[frame["timestamp"].between(first, TEST[1])] for name, frame in candles.items()}
    tables = {symbol: source.signals(symbol, frames) for symbol in TRADED}
    for symbol in TRADED:
        found = trades[trades["pair"].str.startswith(symbol.removesuffix("USDT"))].sort_values("open_date")
        expected = simulated(tables[symbol], frames[symbol].set_index("timestamp").loc[TEST[0] :])
        assert len(expected) > 30
        assert {one[2] for one in expected} == {1, -1}
        assert {one[3] for one in expected} >= {"exit_signal", "stop_loss", "roi"}
        sides = np.where(found["is_short"], -1, 1)
        assert list(zip(found["open_date"], found["close_date"], sides, found["exit_reason"], strict=True)) == expected
    check_stakes(trades, tables)
    check_prices(trades, tables, candles)


def simulated(
    table: pd.DataFrame, bars: pd.DataFrame, sides: tuple[int, ...] = (1, -1)
) -> list[tuple[pd.Timestamp, pd.Timestamp, int, str]]:
    """Trade one symbol by a plain loop: decide at a close, fill at the next open, stop and target inside the bar."""
    trades, held, last = [], None, {1: None, -1: None}
    codes = {"BUY": 1, "SELL": -1, "HOLD": 0}
    for number, (stamp, bar) in enumerate(bars.iterrows()):
        if stamp - HOUR < TEST[0]:
            continue
        signal = table.loc[stamp - HOUR]
        side = codes[signal["action"]]
        for code in (1, -1):
            seen = table["action"].loc[stamp - TRADING["holding_bars"] * HOUR : stamp - HOUR].map(codes)
            last[code] = (seen == code).any()
        final = number == len(bars) - 1
        for _ in range(2):
            entered = held is None and side in sides and not final
            if entered:
                stop, target = (
                    bar["open"] * (1 - side * signal["stop_loss_pct"]),
                    bar["open"] * (1 + side * signal["take_profit_pct"]),
                )
                held = Position(stamp, side, stop, target)
            reason = leave(held, bar, side, last, final)
            if reason is None:
                break
            trades.append((held.opened, stamp, held.side, reason))
            flipped, held = side == -held.side, None
            if not flipped:
                break
    return trades


def leave(held: Position | None, bar: pd.Series, side: int, recent: dict[int, bool], final: bool) -> str | None:
    if held is None:
        return None
    if side != held.side and (side == -held.side or not recent[held.side]):
        return "exit_signal"
    adverse, favourable = (bar["low"], bar["high"]) if held.side > 0 else (bar["high"], bar["low"])
    if held.side * (adverse - held.stop) <= 0:
        return "stop_loss"
    if held.side * (favourable - held.target) >= 0:
        return "roi"
    return "force_exit" if final else None


def check_stakes(trades: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> None:
    """The first trade is the signal's share of the wallet, and every later one of what the account then is."""
    closed = trades.sort_values("close_date")
    for one in trades.itertuples():
        size = tables[one.pair.split("/")[0] + "USDT"]["position_size"].loc[one.open_date - HOUR]
        closed_before, closed_now = closed["close_date"] < one.open_date, closed["close_date"] == one.open_date
        account, same_bar = WALLET + closed["profit_abs"][closed_before].sum(), closed["profit_abs"][closed_now].abs().sum()
        slack = 2e-3 * account + same_bar  # the order of pairs within a bar is freqtrade's
        assert one.stake_amount == pytest.approx(size * account, abs=size * slack)


def check_prices(trades: pd.DataFrame, tables: dict[str, pd.DataFrame], candles: dict[str, pd.DataFrame]) -> None:
    """Entries fill at the open, stops and targets at their distance."""
    for one in trades.itertuples():
        symbol = one.pair.split("/")[0] + "USDT"
        opens = candles[symbol].set_index("timestamp")["open"]
        signal = tables[symbol].loc[one.open_date - HOUR]
        side = -1 if one.is_short else 1
        assert one.open_rate == pytest.approx(opens[one.open_date], rel=1e-9)
        if one.exit_reason == "exit_signal":
            assert one.close_rate == pytest.approx(opens[one.close_date], rel=1e-9)
        elif one.exit_reason in ("stop_loss", "roi"):
            move = -signal["stop_loss_pct"] if one.exit_reason == "stop_loss" else signal["take_profit_pct"]
            assert one.close_rate == pytest.approx(one.open_rate * (1 + side * move), rel=1e-5)  # freqtrade rounds to a tick


@pytest.mark.slow
def test_spot_goes_long_alone(user: Any, bundle: Path, candles: dict[str, pd.DataFrame]) -> None:
    spot = replace(user, trading_mode="spot")
    spot.run("backtesting", "Spot", TIMERANGE, "--cache", "none")
    trades = spot.trades("Spot")
    assert not trades["is_short"].any()
    source = BundleSignals(bundle)
    first = TEST[0] - source.history_bars * HOUR
    frames = {name: frame[frame["timestamp"].between(first, TEST[1])] for name, frame in candles.items()}
    tables = {symbol: source.signals(symbol, frames) for symbol in TRADED}
    for symbol in TRADED:
        found = trades[trades["pair"] == f"{symbol.removesuffix('USDT')}/USDT"].sort_values("open_date")
        expected = simulated(tables[symbol], frames[symbol].set_index("timestamp").loc[TEST[0] :], sides=(1,))
        assert len(expected) > 10
        assert list(zip(found["open_date"], found["close_date"], found["exit_reason"], strict=True)) == [
            (opened, closed, reason) for opened, closed, _, reason in expected
        ]
    check_stakes(trades, tables)
    check_prices(trades, tables, candles)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_served_model_makes_the_trades_of_its_bundle(user: Any) -> None:
    results = []
    for strategy in ("Follower", "Served"):
        user.run("backtesting", strategy, "20240101-20240102", "--cache", "none")
        results.append(user.trades(strategy).sort_values(["pair", "open_date"], ignore_index=True))
    assert len(results[0]) > 5
    columns = ["pair", "open_date", "close_date", "is_short", "exit_reason"]
    pd.testing.assert_frame_equal(results[0][columns], results[1][columns])
    np.testing.assert_allclose(results[0]["profit_abs"], results[1]["profit_abs"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dry_run_starts_and_decides_as_the_bundle_does(
    freqtrade: Path, bundle: Path, candles: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    from tests.live.freqtrade_user import FreqtradeUser, loopback_exchange

    now = pd.Timestamp.now(tz="UTC")
    present = {name: redated(frame[frame["timestamp"] < TEST[1]].tail(1200), now) for name, frame in candles.items()}
    with loopback_exchange(SYMBOLS, present) as exchange:
        user = FreqtradeUser(freqtrade, tmp_path / "user_data", exchange, TRADED, "spot")
        user.write_strategies(bundle)
        log = user.watch("Teller", lambda text: text.count("teller - INFO") >= len(TRADED) and "Bot heartbeat" in text, 150)
    told = re.findall(r"teller - INFO - (\w+)/USDT (\S+ \S+) (\w+) ([\d.]+)", log)
    assert {f"{base}USDT" for base, *_ in told} == set(TRADED), log[-4000:]
    assert "strategy_wrapper - ERROR" not in log
    closed = {name: frame.iloc[:-1] for name, frame in present.items()}
    source = BundleSignals(bundle)
    for base, stamp, action, size in told:
        row = source.signals(f"{base}USDT", closed).loc[pd.Timestamp(stamp)]
        assert row["action"] == action
        assert float(size) == pytest.approx(row["position_size"], abs=1e-4)


def redated(frame: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """Shift candles so that the last one is open now."""
    return frame.assign(timestamp=frame["timestamp"] + (now.floor("h") - frame["timestamp"].iloc[-1])).reset_index(drop=True)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "biased"), [("Follower", False), ("Leaker", True)])
def test_lookahead_analysis(user: Any, strategy: str, biased: bool) -> None:
    export = user.folder / f"{strategy}.csv"
    counts = ("--minimum-trade-amount", "5", "--targeted-trade-amount", "6", "--lookahead-analysis-exportfilename", str(export))
    user.run("lookahead-analysis", strategy, "20240101-20240111", *counts)
    row = pd.read_csv(export).iloc[0]
    assert row["has_bias"] == biased
    assert row["total_signals"] >= 5
    if not biased:
        assert (row["biased_entry_signals"], row["biased_exit_signals"]) == (0, 0)


def test_without_freqtrade_the_class_says_so() -> None:
    with pytest.raises(ImportError, match="install cryptoml into freqtrade's environment"):
        CryptomlStrategy({})
