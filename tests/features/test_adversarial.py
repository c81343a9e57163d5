"""Markets that break indicators: constant, one tick, gaps, no volume, prices of 1e-8 and 1e8, jumps of a thousandfold."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.features.bars import Bars
from cryptoml.features.live import LiveFeatures
from cryptoml.features.live_plan import LivePlan

NUM_BARS = 260
STEPS = st.lists(st.sampled_from([0, 0, 0, 1, -1, 1, -1, 5, -5]), min_size=NUM_BARS, max_size=NUM_BARS)


@st.composite
def markets(draw):
    """Candles float64 by column: every price a whole number of ticks, some bars absent, some without trades."""
    tick = draw(st.sampled_from([1e-8, 1e-4, 0.01, 0.1, 1.0, 1e6]))
    level = draw(st.integers(100, 10_000))
    close = level + np.cumsum(draw(STEPS)) * draw(st.sampled_from([0, 1, 1]))
    jump = draw(st.integers(1, NUM_BARS - 1))
    close = np.maximum(close, 1) * np.where(np.arange(NUM_BARS) >= jump, draw(st.sampled_from([1, 1, 1, 1000])), 1)
    wick = np.array(draw(st.lists(st.integers(0, 2), min_size=NUM_BARS, max_size=NUM_BARS))) * draw(st.sampled_from([0, 1]))
    opens = np.r_[close[:1], close[:-1]]
    high, low = np.maximum(opens, close) + wick, np.maximum(np.minimum(opens, close) - wick, 1)
    idle = np.arange(NUM_BARS) % 5 < draw(st.integers(0, 5))
    volume = np.where(idle, 0.0, draw(st.sampled_from([1e-6, 3.0, 1e9])) * (1 + np.arange(NUM_BARS) % 3))
    columns = {"open": opens * tick, "high": high * tick, "low": low * tick, "close": close * tick, "volume": volume}
    columns |= {"quote_volume": volume * close * tick, "num_trades": np.ceil(volume), "taker_buy_volume": volume / 2}
    gaps = list(draw(st.sets(st.integers(0, NUM_BARS - 1), max_size=2)))
    for name, values in columns.items():
        columns[name] = values.astype(np.float64)
        columns[name][gaps] = np.nan
    return columns


def bars_of(columns):
    return Bars(pd.date_range("2024", periods=NUM_BARS, freq="6h", tz="UTC"), "6h", columns)


def relaxed(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


@relaxed(40)
@given(markets())
def test_contract_on_any_market(engineer, columns):
    bars = bars_of(columns)
    for one in engineer.features:
        values = one(bars)
        assert not np.isinf(values).any(), one.name
        if set(one.inputs) <= set(columns):
            assert np.isnan(values[bars.run_length(one.inputs) < (one.input_run or one.lookback)]).all(), one.name
            assert np.isnan(values[: one.lookback - 1]).all(), one.name


@relaxed(25)
@given(markets(), st.integers(2, NUM_BARS))
def test_live_row_on_any_market(engineer, columns, stop):
    bars = bars_of(columns)
    candles = np.stack([columns[name][:stop] for name in CANDLE_FIELDS], axis=-1)[None]
    history = Panel(("ASSET",), "6h", bars.timestamps[:stop], candles)
    live = LiveFeatures(LivePlan(engineer.features, "6h"), history).latest()
    whole = engineer.compute(bars)[stop - 1]
    np.testing.assert_allclose(live, whole, rtol=1e-6, atol=0, err_msg=str(live.index[~np.isclose(live, whole, equal_nan=True)]))


ORACLES = {
    "price_log_return_5h": (lambda f: np.log(f["close"]).diff(1), 1.0),
    "price_drawdown_7d": (lambda f: np.log(f["close"] / f["close"].rolling(28).max()), 1.0),
    "price_sma_distance_25": (lambda f: np.log(f["close"] / f["close"].rolling(25).mean()), 1.0),
    "price_support_distance_20": (lambda f: np.log(f["close"] / f["low"].rolling(20).min()), 1.0),
    "volatility_parkinson_10d": (
        lambda f: np.sqrt((np.log(f["high"] / f["low"]) ** 2).rolling(40).mean() / np.log(16) * 1460),
        1.0,
    ),
    "momentum_roc_10": (lambda f: 100 * (f["close"] / f["close"].shift(10) - 1), 100.0),
    "pattern_bullish_share_10": (lambda f: np.sign(f["close"] - f["open"]).rolling(10).mean(), 1.0),
    "volume_peak_share_24h": (lambda f: f["volume"].rolling(4).max() / f["volume"].rolling(4).sum(), 1.0),
}


@pytest.mark.parametrize("name", ORACLES)
@relaxed(15)
@given(columns=markets())
def test_oracle_on_any_market(engineer, name, columns):
    """The plain formula, to 1e-6 of the feature's own unit where it is defined; `pandas` itself loses digits after a spike."""
    formula, unit = ORACLES[name]
    one = next(one for one in engineer.features if one.name == name)
    actual = one(bars_of(columns))
    with np.errstate(all="ignore"):
        expected = formula(pd.DataFrame(columns)).to_numpy()
    known = np.isfinite(actual)
    np.testing.assert_allclose(actual[known], expected[known], rtol=1e-6, atol=1e-6 * unit)


@relaxed(25)
@given(columns=markets())
def test_moments_and_smoothing_on_any_market(engineer, columns):
    """Windows one by one, from their own bars alone: no running sum can carry anything from before."""
    bars, named = bars_of(columns), {one.name: one for one in engineer.features}
    change = np.r_[np.nan, np.diff(np.log(columns["close"]))]
    deviation, rsi = named["volatility_historical_5d"](bars), named["momentum_rsi_7"](bars)
    up, down = np.maximum(np.diff(columns["close"], prepend=np.nan), 0), np.maximum(-np.diff(columns["close"], prepend=np.nan), 0)
    window = named["momentum_rsi_7"].lookback - 1
    weights = (6 / 7) ** np.arange(window)[::-1]
    for bar in range(window, NUM_BARS, 37):
        if np.isfinite(deviation[bar]):
            expected = np.std(change[bar - 19 : bar + 1], ddof=1) * np.sqrt(1460)
            np.testing.assert_allclose(deviation[bar], expected, rtol=1e-6, atol=1e-12)
        if np.isfinite(rsi[bar]):
            gains, losses = (weights @ moves[bar - window + 1 : bar + 1] for moves in (up, down))
            np.testing.assert_allclose(rsi[bar], 100 * gains / (gains + losses) if gains + losses else 50, rtol=1e-6, atol=1e-9)
