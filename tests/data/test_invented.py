"""Invented regimes are markets like any other, and where nothing is bent they are the history itself."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.data.invented import InventionConfig, invent_regimes
from cryptoml.data.panel import Panel
from cryptoml.data.synthetic import MarketConfig, synthetic_market

NOTHING = InventionConfig(volatility_spread=0.0, drift_spread=0.0, fade_share=0.0)


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Three symbols with tables, one listed late, one with a gap."""
    found = synthetic_market(MarketConfig(num_assets=3, num_bars=600)).panel
    candles = found.candles.copy()
    candles[1, :100] = np.nan
    candles[2, 300:305] = np.nan
    return replace(found, candles=candles)


def test_without_spread_nothing_changes(panel: Panel) -> None:
    bent, _ = invent_regimes(panel, NOTHING, np.random.default_rng(0))
    np.testing.assert_allclose(bent.candles, panel.candles, rtol=1e-9)
    for key, frame in bent.tables["venue_candles"].items():
        original = panel.tables["venue_candles"][key]
        np.testing.assert_allclose(frame["close"], original["close"], rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_candles_are_candles(panel: Panel, seed: int) -> None:
    bent, starts = invent_regimes(panel, InventionConfig(mean_bars=50), np.random.default_rng(seed))
    assert np.array_equal(bent.present, panel.present)
    assert (np.diff(starts) > 0).all()
    assert starts[0] == 0
    opened, high, low, close = (bent.field(name)[bent.present] for name in ("open", "high", "low", "close"))
    assert np.isfinite(bent.candles[bent.present]).all()
    assert (low > 0).all()
    assert (high >= np.maximum(opened, close)).all()
    assert (low <= np.minimum(opened, close)).all()


def test_regimes_differ_in_volatility(panel: Panel) -> None:
    config = InventionConfig(mean_bars=100, volatility_spread=1.0, drift_spread=0.0, fade_share=0.0)
    bent, starts = invent_regimes(panel, config, np.random.default_rng(1))
    before, after = (np.diff(np.log(one.field("close")[0])) for one in (panel, bent))
    for start, stop in zip(starts, [*starts[1:], 600], strict=True):
        if stop - start > 3:
            ratio = after[start : stop - 1] / before[start : stop - 1]
            np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_other_venues_keep_their_distance(panel: Panel) -> None:
    bent, _ = invent_regimes(panel, InventionConfig(mean_bars=50), np.random.default_rng(2))
    for key, frame in bent.tables["venue_candles"].items():
        row = panel.symbols.index(key.partition(":")[2])
        place = panel.timestamps.get_indexer(pd.DatetimeIndex(frame["timestamp"]))
        original = panel.tables["venue_candles"][key].set_index("timestamp").loc[frame["timestamp"], "close"].to_numpy()
        before = original / panel.field("close")[row, place]
        after = frame["close"].to_numpy() / bent.field("close")[row, place]
        known = np.isfinite(before)
        np.testing.assert_allclose(after[known], before[known], rtol=1e-9)


def test_the_original_is_left_alone(panel: Panel) -> None:
    print_before = panel.fingerprint()
    invent_regimes(panel, InventionConfig(), np.random.default_rng(3))
    assert panel.fingerprint() == print_before
