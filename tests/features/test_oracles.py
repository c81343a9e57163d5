"""Indicators against `ta`, TA-Lib, and the formula written plainly, to rtol 1e-6 after warm-up."""

import numpy as np
import pandas as pd
import pytest
import ta
import talib

from cryptoml.features.contract import Bars
from cryptoml.features.engineer import AdvancedFeatureEngineer

NUM_BARS = 1_500
YEAR = np.sqrt(24 * 365)


@pytest.fixture(scope="module")
def engineer():
    return AdvancedFeatureEngineer()


@pytest.fixture(scope="module", params=["drawn", "real"])
def frame(request, make_candles):
    """Candles without external inputs: drawn ones with every column, and real ones where they are at hand."""
    if request.param == "drawn":
        drawn = make_candles(NUM_BARS, 3)
        return drawn.assign(timestamp=pd.date_range("2024", periods=NUM_BARS, freq="h", tz="UTC"))
    folder = request.getfixturevalue("shared_data")
    return pd.read_parquet(folder / "candles_1h" / "ETHUSDT.parquet").iloc[-NUM_BARS:].reset_index(drop=True)


@pytest.fixture(scope="module")
def bars(frame):
    return Bars(pd.DatetimeIndex(frame["timestamp"]), "1h", {name: frame[name].to_numpy(float) for name in frame.columns[1:]})


def ewm(values, span):
    return pd.Series(values).ewm(span=span, adjust=False).mean()


def sums(values, n):
    return pd.Series(values).rolling(n).sum()


def returns(frame):
    return np.log(frame["close"]).diff()


def vwap(frame, n):
    typical = (frame["high"] + frame["low"] + frame["close"]) / 3
    return (typical * frame["volume"]).rolling(n).sum() / frame["volume"].rolling(n).sum()


def yang_zhang(frame, n):
    o, h, l, c = (np.log(frame[name]) for name in ("open", "high", "low", "close"))  # noqa: E741
    rs = ((h - c) * (h - o) + (l - c) * (l - o)).rolling(n).mean()
    k = 0.34 / (1.34 + (n + 1) / (n - 1))
    return np.sqrt((o - c.shift()).rolling(n).var() + k * (c - o).rolling(n).var() + (1 - k) * rs)


def tsi(frame):
    change = frame["close"].diff()[1:]
    return 100 * ewm(ewm(change, 25), 13) / ewm(ewm(change.abs(), 25), 13)


def position(frame, n):
    low, high = frame["low"].rolling(n).min(), frame["high"].rolling(n).max()
    return (frame["close"] - low) / (high - low)


ORACLES = {
    "price_return_5h": lambda f: f["close"].pct_change(5),
    "price_log_return_7d": lambda f: np.log(f["close"]).diff(168),
    "price_sma_distance_99": lambda f: np.log(f["close"] / talib.SMA(f["close"], 99)),
    "price_ema_distance_25": lambda f: np.log(f["close"] / talib.EMA(f["close"], 25)),
    "price_wma_distance_25": lambda f: np.log(f["close"] / talib.WMA(f["close"], 25)),
    "price_support_distance_50": lambda f: np.log(f["close"] / talib.MIN(f["low"], 50)),
    "price_resistance_distance_50": lambda f: np.log(talib.MAX(f["high"], 50) / f["close"]),
    "price_range_position_100": lambda f: position(f, 100),
    "price_midpoint_distance_26": lambda f: np.log(f["close"] / talib.MIDPRICE(f["high"], f["low"], 26)),
    "price_drawdown_7d": lambda f: np.log(f["close"] / f["close"].rolling(168).max()),
    "price_scaled_return_1_5d": lambda f: returns(f) / returns(f).rolling(120).std(),
    "volume_ratio_20": lambda f: np.log1p(f["volume"] / f["volume"].rolling(20).mean()),
    "volume_obv_20": lambda f: sums(talib.OBV(f["close"], f["volume"]), 1).diff(20) / sums(f["volume"], 20),
    "volume_accumulation_distribution_20": lambda f: ta.volume.chaikin_money_flow(
        f["high"], f["low"], f["close"], f["volume"], 20
    ),
    "volume_mfi_14": lambda f: talib.MFI(f["high"], f["low"], f["close"], f["volume"], 14),
    "volume_vwap_distance_1d": lambda f: np.log(f["close"] / vwap(f, 24)),
    "volume_force_index_13": lambda f: ewm((returns(f) * f["volume"])[1:], 13) / ewm(f["volume"], 13),
    "volume_concentration_24h": lambda f: 24 * sums(f["volume"] ** 2, 24) / sums(f["volume"], 24) ** 2,
    "volatility_historical_10d": lambda f: returns(f).rolling(240).std() * YEAR,
    "volatility_parkinson_24h": lambda f: np.sqrt((np.log(f["high"] / f["low"]) ** 2).rolling(24).mean() / np.log(16)) * YEAR,
    "volatility_garman_klass_24h": lambda f: (
        np.sqrt(
            (0.5 * np.log(f["high"] / f["low"]) ** 2 - (2 * np.log(2) - 1) * np.log(f["close"] / f["open"]) ** 2)
            .rolling(24)
            .mean()
        )
        * YEAR
    ),
    "volatility_yang_zhang_24h": lambda f: yang_zhang(f, 24) * YEAR,
    "volatility_atr_14": lambda f: talib.ATR(f["high"], f["low"], f["close"], 14) / f["close"],
    "volatility_bollinger_width_20": lambda f: ta.volatility.bollinger_wband(f["close"], 20) / 100 * np.sqrt(20 / 19),
    "volatility_ewma_48h": lambda f: np.sqrt((returns(f)[1:] ** 2).ewm(halflife=48, adjust=False).mean()) * YEAR,
    "volatility_downside_share_1d": lambda f: sums(np.minimum(returns(f), 0) ** 2, 24) / sums(returns(f) ** 2, 24),
    "momentum_rsi_7": lambda f: talib.RSI(f["close"], 7),
    "momentum_rsi_14": lambda f: ta.momentum.rsi(f["close"], 14),
    "momentum_rsi_28": lambda f: talib.RSI(f["close"], 28),
    "momentum_stochastic_rsi_14": lambda f: ta.momentum.stochrsi(f["close"], 14),
    "momentum_cmo_14": lambda f: 100 * sums(f["close"].diff(), 14) / sums(f["close"].diff().abs(), 14),
    "momentum_macd_12_26_9": lambda f: ta.trend.macd(f["close"]) / f["close"],
    "momentum_macd_signal_12_26_9": lambda f: ta.trend.macd_signal(f["close"]) / f["close"],
    "momentum_macd_histogram_12_26_9": lambda f: ta.trend.macd_diff(f["close"]) / f["close"],
    "momentum_stochastic_k_14": lambda f: ta.momentum.stoch(f["high"], f["low"], f["close"], 14),
    "momentum_stochastic_d_14_3": lambda f: ta.momentum.stoch_signal(f["high"], f["low"], f["close"], 14, 3),
    "momentum_williams_r_42": lambda f: talib.WILLR(f["high"], f["low"], f["close"], 42),
    "momentum_roc_10": lambda f: talib.ROC(f["close"], 10),
    "momentum_cci_20": lambda f: talib.CCI(f["high"], f["low"], f["close"], 20),
    "momentum_awesome_oscillator_5_34": lambda f: ta.momentum.awesome_oscillator(f["high"], f["low"]) / f["close"],
    "momentum_ultimate_oscillator_7_14_28": lambda f: talib.ULTOSC(f["high"], f["low"], f["close"]),
    "momentum_tsi_25_13": tsi,
    "momentum_trix_15": lambda f: 100 * np.log1p(talib.TRIX(f["close"], 15) / 100),
    "momentum_aroon_25": lambda f: talib.AROONOSC(f["high"], f["low"], 25),
    "momentum_vortex_14": lambda f: (
        ta.trend.vortex_indicator_pos(f["high"], f["low"], f["close"])
        - ta.trend.vortex_indicator_neg(f["high"], f["low"], f["close"])
    ),
    "momentum_bull_power_13": lambda f: (f["high"] - ewm(f["close"], 13)) / f["close"],
    "momentum_t_statistic_3d": lambda f: np.log(f["close"]).diff(72) / returns(f).rolling(72).std() / np.sqrt(72),
    "regime_adx_14": lambda f: talib.ADX(f["high"], f["low"], f["close"], 14),
    "regime_directional_index_14": lambda f: (
        talib.PLUS_DI(f["high"], f["low"], f["close"], 14) - talib.MINUS_DI(f["high"], f["low"], f["close"], 14)
    ),
    "regime_efficiency_ratio_10": lambda f: np.log(f["close"]).diff(10) / sums(returns(f).abs(), 10),
    "regime_autocorrelation_5d": lambda f: returns(f).rolling(120).corr(returns(f).shift()),
    "regime_variance_ratio_4h_5d": lambda f: np.log(
        np.log(f["close"]).diff(4).rolling(120).var() / returns(f).rolling(120).var() / 4
    ),
    "pattern_engulfing": lambda f: pd.Series(np.sign(talib.CDLENGULFING(*ohlc(f)))),
}

PATTERNS = ("doji", "dragonfly_doji", "hammer", "hanging_man", "harami", "marubozu", "spinning_top")
GAPPING = {"shooting_star": "SHOOTINGSTAR", "inverted_hammer": "INVERTEDHAMMER", "piercing": "PIERCING"}


def ohlc(frame):
    return [frame[name].to_numpy(float) for name in ("open", "high", "low", "close")]


@pytest.mark.parametrize("name", ORACLES)
def test_indicator_equals_its_oracle(engineer, frame, bars, name):
    one = next(one for one in engineer.features if one.name == name)
    expected = np.full(NUM_BARS, np.nan)
    given = pd.Series(ORACLES[name](frame))
    expected[-len(given) :] = given
    first = max(one.lookback + 30, NUM_BARS // 2)  # the oracles' own seeds must fade too
    scale = np.nanmedian(np.abs(expected[first:]))
    np.testing.assert_allclose(one(bars)[first:], expected[first:], rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_agrees_with_talib_but_for_ties(engineer, frame, bars, name):
    one = next(one for one in engineer.features if one.name == f"pattern_{name}")
    expected = np.sign(getattr(talib, f"CDL{name.upper().replace('_', '')}")(*ohlc(frame)))
    actual = one(bars)
    known = np.isfinite(actual)
    assert (actual[known] != expected[known]).mean() < 0.002
    assert (expected[known] != 0).any()


@pytest.mark.parametrize("name", GAPPING)
def test_gapping_pattern_fires_wherever_talib_does(engineer, frame, bars, name):
    one = next(one for one in engineer.features if one.name == f"pattern_{name}")
    expected = np.sign(getattr(talib, f"CDL{GAPPING[name]}")(*ohlc(frame)))
    actual = one(bars)
    fired = np.isfinite(actual) & (expected != 0)
    np.testing.assert_array_equal(actual[fired], expected[fired])
    assert (actual[np.isfinite(actual)] != 0).any()


def test_book_and_flow_figures_by_hand(engineer):
    stamps = pd.date_range("2024", periods=4, freq="h", tz="UTC")
    candles = pd.DataFrame({"timestamp": stamps, **dict.fromkeys(("open", "high", "low", "close"), 100.0), "volume": 10.0})
    candles["taker_buy_volume"] = [10.0, 5.0, 0.0, 8.0]
    book = {"bids": [[99.0, 3.0], [98.0, 1.0]], "asks": [[101.0, 1.0], [102.0, 1.0]]}
    out = engineer.extract_all_features(candles, orderbook=book).iloc[-1]
    assert out["microstructure_taker_imbalance_4"] == pytest.approx((46 - 40) / 40)
    assert out["microstructure_book_imbalance_1"] == pytest.approx(0.5)
    assert out["microstructure_book_imbalance_5"] == pytest.approx(2 / 6)
    assert out["microstructure_relative_spread"] == pytest.approx(200)
    assert out["microstructure_depth_ratio"] == pytest.approx(np.log(2))
    assert out["microstructure_microprice"] == pytest.approx(1e4 * ((99 * 1 + 101 * 3) / 4 / 100 - 1))
