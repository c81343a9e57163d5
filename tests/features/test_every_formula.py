"""Every feature against its formula written plainly, on drawn, real and nasty markets, from its own lookback alone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryptoml.data.schema import bars_per_year
from cryptoml.features.contract import Bars, Feature
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.joins import bars_from_panel
from tests.features.naive.levels import PRICE, VOLATILITY, VOLUME
from tests.features.naive.patterns import PATTERN
from tests.features.naive.surroundings import CROSS_EXCHANGE, MICROSTRUCTURE, ONCHAIN, TIME
from tests.features.naive.trends import MOMENTUM, REGIME
from tests.features.naive.window import TieError, Window
from tests.features.test_adversarial import bars_of, markets

FORMULAS = {
    "price": PRICE,
    "volume": VOLUME,
    "volatility": VOLATILITY,
    "momentum": MOMENTUM,
    "pattern": PATTERN,
    "regime": REGIME,
    "time": TIME,
    "onchain": ONCHAIN,
    "microstructure": MICROSTRUCTURE,
    "cross_exchange": CROSS_EXCHANGE,
}
ATOL = 1e-9
UNITS = {"momentum": 100.0, "volatility": 100.0, "cross_exchange": 1e4}
"""Rounding of what a formula scales up."""


def plain(one: Feature, bars: Bars, bar: int) -> float:
    """Return the plain formula's value at a bar, NaN where it has none."""
    rows = slice(bar + 1 - one.lookback, bar + 1)
    columns = {name: values[rows] for name, values in bars.columns.items()}
    window = Window(columns, bars.timestamps[bar], bars_per_year(bars.timeframe))
    try:
        with np.errstate(all="ignore"):
            return float(FORMULAS[one.category][one.function.__name__](window, *one.arguments))
    except (ValueError, ZeroDivisionError):  # of the logarithm of 0, and of 0 / 0
        return np.nan


def compare(one: Feature, bars: Bars, count: int, seed: int = 0) -> int:
    """Compare some of the bars at which the inputs are ready; return how many of them had a value."""
    ready = bars.run_length(one.inputs) >= (one.input_run or one.lookback)
    ready &= bars.run_length(("close",)) >= (one.lookback if one.input_run else 1)
    bars_ready = np.flatnonzero(ready)
    chosen = np.random.default_rng(seed).choice(bars_ready, min(count, len(bars_ready)), replace=False)
    values, seen = one(bars), 0
    for bar in chosen:
        try:
            expected = plain(one, bars, bar)
        except TieError:
            continue
        message = f"{one.name} at bar {bar}"
        np.testing.assert_allclose(values[bar], expected, rtol=1e-6, atol=ATOL * UNITS.get(one.category, 1.0), err_msg=message)
        seen += bool(np.isfinite(expected))
    return seen


def test_every_feature_has_a_plain_formula():
    found = [(one.category, one.function.__name__) for one in AdvancedFeatureEngineer().features]
    assert sorted(set(found)) == sorted((category, name) for category, named in FORMULAS.items() for name in named)


@pytest.fixture(scope="module")
def hourly():
    return AdvancedFeatureEngineer()


@pytest.fixture(scope="module")
def real(shared_data):
    frame = pd.read_parquet(shared_data / "candles_1h" / "ETHUSDT.parquet").iloc[-2_600:].reset_index(drop=True)
    return Bars(pd.DatetimeIndex(frame["timestamp"]), "1h", {name: frame[name].to_numpy(float) for name in frame.columns[1:]})


@pytest.mark.parametrize("category", FORMULAS)
def test_drawn_market_with_every_input(engineer, panel, category):
    bars = bars_from_panel(panel, "SOLUSDT")
    for one in engineer.features:
        if one.category == category:
            assert compare(one, bars, 6), one.name


@pytest.mark.parametrize("category", ["price", "volume", "volatility", "momentum", "pattern", "regime", "time"])
def test_real_candles(hourly, real, category):
    for one in hourly.features:
        if one.category == category and all(real.has(name) for name in one.inputs):
            assert compare(one, real, 5), one.name


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(markets(), st.integers(0, 2**16))
def test_any_market(engineer, columns, seed):
    bars = bars_of(columns)
    for one in engineer.features:
        if set(one.inputs) <= set(columns):
            compare(one, bars, 1, seed)
