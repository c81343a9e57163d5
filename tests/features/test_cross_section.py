"""Features over a panel: by hand, in any order of symbols, and with peers and a leader chosen from the past alone."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from cryptoml.data.panel import Panel
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.features import cross_section
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.market import leader_of, market_from_panel
from tests.features.naive.crowd import FORMULAS, Crowd

RTOL = 1e-6


@pytest.fixture(scope="module")
def cross() -> AdvancedFeatureEngineer:
    return AdvancedFeatureEngineer({"timeframe": "6h", "categories": ("cross_section",)})


@pytest.fixture(scope="module")
def crowd() -> Panel:
    """Twenty symbols, two of which miss bars."""
    panel = synthetic_market(MarketConfig(num_assets=20, num_bars=900, timeframe="6h", with_tables=False)).panel
    candles = panel.candles.copy()
    candles[3, 400] = candles[5, :300] = np.nan
    return Panel(panel.symbols, panel.timeframe, panel.timestamps, candles)


@pytest.fixture(scope="module")
def built(crowd, cross):
    return build_features(crowd, cross)


def column(built, name):
    return built.values[:, :, built.names.index(name)].astype(np.float64)


def test_order_of_symbols_changes_nothing(crowd, cross, built):
    order = np.random.default_rng(0).permutation(len(crowd.symbols))
    other = build_features(crowd.select([crowd.symbols[row] for row in order]), cross)
    np.testing.assert_allclose(other.values, built.values[order], rtol=1e-5, atol=1e-9)


def test_peers_are_the_largest_by_turnover_of_the_past(crowd, built, monkeypatch):
    """Written plainly at a few bars, with three peers instead of sixteen."""
    monkeypatch.setattr(cross_section, "NUM_PEERS", 3)
    engineer = AdvancedFeatureEngineer({"timeframe": "6h", "include": ("cross_section_peer_lead_*",)})
    actual = column(build_features(crowd, engineer), "cross_section_peer_lead_16h_60d")
    market = market_from_panel(crowd)
    returns, turnover = market.log_return, market.columns["close"] * market.columns["volume"]
    trailing, n = column(built, "cross_section_trailing_return_16h"), 240
    seen = 0
    for bar in (500, 777, 899):
        window = slice(bar - n + 1, bar + 1)
        size = turnover[:, window].sum(axis=1)
        peers = np.argsort(-np.nan_to_num(size))[:3]
        for row in range(len(crowd.symbols)):
            total = 0.0
            for peer in set(peers) - {row}:
                strength = np.corrcoef(returns[row, window], trailing[peer, bar - n : bar])[0, 1]
                if abs(strength) > 3 / np.sqrt(n):
                    total, seen = total + strength * trailing[peer, bar], seen + 1
            if np.isfinite(actual[row, bar]):
                np.testing.assert_allclose(actual[row, bar], total, rtol=1e-4, atol=1e-6)
    assert seen > 3, "some peer leads"
    assert np.isfinite(actual[:, [500, 777, 899]]).mean() > 0.8


def test_ranks_and_deviations_against_scipy(crowd, built):
    for bar in (420, 898):
        change = np.log(crowd.field("close")[:, bar] / crowd.field("close")[:, bar - 4])
        known = np.isfinite(column(built, "cross_section_rank_return_1d")[:, bar])
        change, count = change[known], known.sum()
        rank = (rankdata(change) - 1) / (count - 1) - 0.5
        np.testing.assert_allclose(column(built, "cross_section_rank_return_1d")[known, bar], rank, rtol=RTOL, atol=1e-7)
        deviation = (change - change.mean()) / change.std()
        np.testing.assert_allclose(column(built, "cross_section_deviation_return_1d")[known, bar], deviation, rtol=1e-5)


def test_beta_and_correlation_against_numpy(crowd, built):
    market = market_from_panel(crowd)
    leader = market.leader_return
    for name, reference in (("market", market.market_return), ("leader", leader)):
        window = slice(899 - 19, 900)
        cov = [np.cov(own, reference[window]) for own in market.log_return[:, window]]
        beta, corr = [c[0, 1] / c[1, 1] for c in cov], [c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in cov]
        np.testing.assert_allclose(column(built, f"cross_section_beta_{name}_5d")[:, 899], beta, rtol=1e-5)
        np.testing.assert_allclose(column(built, f"cross_section_correlation_{name}_5d")[:, 899], corr, rtol=1e-5)


def windows_of(name: str) -> tuple[str, list[int]]:
    """Split a feature's name into that of its formula and its windows in bars of six hours."""
    words = name.removeprefix("cross_section_").split("_")
    spans = [word for word in words if word[0].isdigit()]
    hours = [int(span.rstrip("hd")) * {"h": 1, "d": 24}.get(span[-1], 6) for span in spans]
    return "_".join(words[: len(words) - len(spans)]), [max(1, math.ceil(hour / 6)) for hour in hours]


def test_every_formula_a_second_time(crowd, built):
    market = market_from_panel(crowd)
    plain = Crowd(*(crowd.field(name) for name in ("high", "low", "close", "volume")), market.leader)
    for name in built.names:
        formula, windows = windows_of(name)
        for row, bar in [(0, 700), (3, 860), (7, 899)]:
            actual = column(built, name)[row, bar]
            expected = FORMULAS[formula](plain, row, bar, *windows)
            assert np.isfinite(actual), (name, row, bar)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=f"{name} of asset {row} at bar {bar}")


@pytest.mark.parametrize("chunk", [97, 500])
def test_shards_with_warm_up_equal_the_whole_at_every_bar(crowd, cross, chunk):
    market = market_from_panel(crowd)
    num_bars = len(crowd.timestamps)
    for one in cross.panel_features:
        whole = one(market)
        for start in range(0, num_bars, chunk):
            first = max(start - one.lookback + 1, 0)
            part = one(market.slice(first, start + chunk))[:, start - first :]
            np.testing.assert_allclose(part, whole[:, start : start + chunk], rtol=RTOL, atol=0, err_msg=one.name)


@pytest.mark.parametrize("start", [60, 500, 899])
def test_later_rows_of_any_symbol_change_no_earlier_value(crowd, cross, start):
    candles = crowd.candles.copy()
    rng = np.random.default_rng(start)
    candles[:, start:] *= np.exp(rng.normal(0, 1, candles[:, start:].shape))
    candles[:, start:][rng.random(candles[:, start:].shape[:2]) < 0.1] = np.nan
    before, after = market_from_panel(crowd), market_from_panel(Panel(crowd.symbols, "6h", crowd.timestamps, candles))
    for one in cross.panel_features:
        np.testing.assert_array_equal(one(after)[:, :start], one(before)[:, :start], err_msg=one.name)


@pytest.mark.parametrize("base", [1e-8, 1.0, 1e8])
def test_markets_that_stand_still_or_trade_nothing(cross, base):
    candles = np.full((3, 800, 8), base)
    candles[0, :, 4:] = 0.0
    stamps = pd.date_range("2023", periods=800, freq="6h", tz="UTC")
    values = build_features(Panel(("A", "B", "C"), "6h", stamps, candles), cross).values
    assert not np.isinf(values).any()
    assert set(np.unique(values[np.isfinite(values)])) <= {-0.5, 0.0, 0.5, 0.25, -0.25}


@pytest.mark.parametrize(
    ("symbols", "leader"),
    [
        (("ETHUSDT", "BTCUSDT"), "BTCUSDT"),
        (("BTCDOMUSDT", "BTCUSDT"), "BTCUSDT"),
        (("ETHBTC", "BTC-PERP"), "BTC-PERP"),
        (("SOLUSDT", "ADAUSDT"), "ADAUSDT"),
    ],
)
def test_leader_is_bitcoin_or_the_first_by_name(symbols, leader):
    assert symbols[leader_of(symbols)] == symbols[::-1][leader_of(symbols[::-1])] == leader
