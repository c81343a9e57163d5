"""Windows given in hours and days hold for any timeframe: names stay, lookbacks convert."""

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.panel import panel_from_frames
from cryptoml.data.schema import parse_timeframe
from cryptoml.features.bars import Bars
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features

TIMEFRAMES = ("5m", "15m", "1h", "4h", "1d")
WALL_CLOCK = {  # name -> window, and the rows beside it that the lookback counts
    "price_log_return_30h": ("30h", 1),
    "price_log_return_1d": ("1d", 1),
    "price_drawdown_7d": ("7d", 0),
    "volatility_historical_5d": ("5d", 1),
    "volatility_historical_10d": ("10d", 1),
    "volatility_historical_20d": ("20d", 1),
    "volatility_historical_50d": ("50d", 1),
    "volatility_parkinson_10d": ("10d", 0),
    "volume_seasonal_ratio_24h": ("7d", 1),
    "momentum_t_statistic_3d": ("3d", 1),
    "cross_exchange_funding_mean_3d": ("3d", 0),
    "onchain_whale_zscore_30d": ("30d", 0),
    "cross_section_beta_market_20d": ("20d", 1),
}


@pytest.fixture(scope="module")
def engineers():
    return {timeframe: AdvancedFeatureEngineer({"timeframe": timeframe}) for timeframe in TIMEFRAMES}


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_names_are_stable_and_lookbacks_convert(engineers, timeframe):
    engineer = engineers[timeframe]
    assert engineer.names == engineers["1h"].names
    lookbacks = engineer.catalogue().set_index("name")["lookback"]
    for name, (window, extra) in WALL_CLOCK.items():
        bars = max(1, round(parse_timeframe(window) / parse_timeframe(timeframe)))
        assert lookbacks[name] == bars + extra, name
    assert lookbacks["momentum_rsi_14"] == engineers["1h"].catalogue().set_index("name")["lookback"]["momentum_rsi_14"]


def test_longest_lookback_of_hourly_bars(engineers):
    assert engineers["1h"].max_lookback <= 2_200


@pytest.mark.parametrize(("timeframe", "num_bars"), [("5m", 17_600), ("4h", 2_200), ("1d", 2_200)])
def test_every_candle_feature_is_defined_in_the_end(engineers, make_candles, timeframe, num_bars):
    engineer, frame = engineers[timeframe], make_candles(num_bars, 5)
    stamps = pd.date_range("2017", periods=num_bars, freq=parse_timeframe(timeframe), tz="UTC")
    bars = Bars(stamps, timeframe, {name: frame[name].to_numpy(float) for name in frame.columns[1:]})
    values = engineer.compute(bars)
    fed = np.array([set(one.inputs) <= set(bars.columns) for one in engineer.features])
    undefined = [one.name for one, row in zip(engineer.features, values[-50:].T, strict=True) if np.isnan(row).all()]
    flat = {"1d": {"volatility", "regime"}}.get(timeframe, set())  # ratios of windows of a bar or two
    assert [
        name
        for name, ready in zip(engineer.symbol_names, fed, strict=True)
        if ready and name in undefined and name.split("_")[0] not in flat
    ] == []
    assert not np.isinf(values).any()


@pytest.mark.parametrize("timeframe", ["5m", "4h"])
def test_a_day_is_a_day(engineers, make_candles, timeframe):
    step = parse_timeframe(timeframe)
    per_day = int(pd.Timedelta(days=1) / step)
    frame = make_candles(6 * per_day, 6)
    frame["timestamp"] = pd.date_range("2024", periods=len(frame), freq=step, tz="UTC")
    out = engineers[timeframe].extract_all_features(frame)
    returns = np.log(frame["close"]).diff()
    np.testing.assert_allclose(out["price_log_return_1d"], np.log(frame["close"]).diff(per_day), rtol=1e-4, atol=1e-9)
    annual = returns.rolling(5 * per_day).std() * np.sqrt(365 * per_day)
    np.testing.assert_allclose(out["volatility_historical_5d"], annual, rtol=1e-5)


@pytest.mark.parametrize("timeframe", ["3d", "1w", "4w"])
def test_the_lookback_holds_where_windows_shrink_to_a_bar_or_two(make_candles, timeframe):
    """The longer of two windows in days may then be the shorter one in bars."""
    engineer, frame, num_bars = AdvancedFeatureEngineer({"timeframe": timeframe}), make_candles(80, 6), 80
    stamps = pd.date_range("2012", periods=num_bars, freq=parse_timeframe(timeframe), tz="UTC")
    bars = Bars(stamps, timeframe, {name: frame[name].to_numpy(float) for name in frame.columns[1:]})
    few = [one for one in engineer.features if one.lookback <= num_bars and set(one.inputs) <= set(bars.columns)]
    assert len(few) > 100
    for one in few:
        alone = one(bars.slice(num_bars - one.lookback, num_bars))[-1]
        np.testing.assert_allclose(alone, one(bars)[-1], rtol=1e-9, err_msg=one.name)


def test_every_feature_over_the_panel_is_defined_on_daily_bars(make_candles):
    stamps = pd.date_range("2020", periods=200, freq="D", tz="UTC")
    frames = {
        symbol: make_candles(200, seed).assign(timestamp=stamps) for seed, symbol in enumerate(["BTCUSDT", "ETHUSDT", "SOLUSDT"])
    }
    features = build_features(
        panel_from_frames(frames, "1d"), AdvancedFeatureEngineer({"timeframe": "1d", "include": ("cross_section_*",)})
    )
    undefined = np.isnan(features.values[:, -1]).any(axis=0)
    assert [name for name, missing in zip(features.names, undefined, strict=True) if missing] == []


@pytest.mark.parametrize("timeframe", ["1d", "1w"])
def test_no_window_in_days_shrinks_to_a_silent_zero(make_candles, timeframe):
    named = ("volatility_historical_*", "volatility_parkinson_*", "volatility_yang_zhang_*", "volume_price_correlation_*")
    engineer, frame = AdvancedFeatureEngineer({"timeframe": timeframe, "include": named}), make_candles(100, 7)
    stamps = pd.date_range("2012", periods=100, freq=parse_timeframe(timeframe), tz="UTC")
    values = engineer.compute(Bars(stamps, timeframe, {name: frame[name].to_numpy(float) for name in frame.columns[1:]}))
    assert [name for name, row in zip(engineer.symbol_names, values.T, strict=True) if not np.nanstd(row) > 0] == []
