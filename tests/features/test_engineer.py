"""The public face: what it accepts, what it refuses, and that bad markets yield NaN rather than noise."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.data.panel import Panel
from cryptoml.errors import ConfigError, DataError
from cryptoml.features.contract import CATEGORIES, Bars
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeatureConfig, build_features
from cryptoml.features.joins import bars_from_panel, split_symbol
from cryptoml.features.onchain import OnChainMetrics
from cryptoml.features.selection import CORE_FEATURES

HOUR = pd.Timedelta(hours=1)


@pytest.fixture(scope="module")
def hourly():
    return AdvancedFeatureEngineer()


@pytest.fixture
def candles(make_candles):
    return make_candles(300, 1).assign(timestamp=pd.date_range("2024", periods=300, freq="h", tz="UTC"))


def test_catalogue_covers_every_category_and_documents_every_feature(hourly):
    table = hourly.catalogue()
    assert len(table) >= 150
    assert tuple(table["name"]) == hourly.names
    wanted = dict(zip(CATEGORIES, (30, 15, 10, 25, 10, 8, 10, 5, 7, 5, 10), strict=True))
    assert {name: count for name, count in wanted.items() if (table["category"] == name).sum() < count} == {}
    assert (table[["formula", "source", "inputs"]].map(len) > 3).all(axis=None)
    assert all(row.name.startswith(row.category + "_") for row in table.set_index("name", drop=False).itertuples(index=False))
    assert hourly.max_lookback <= 2_200


def test_keys_of_other_parts_may_stand_in_a_bots_configuration():
    bot = {"input_size": 150, "hidden_size": 160, "grad_clip": 1.0, "min_confidence": 0.65, "importance_weight": 0.5}
    assert AdvancedFeatureEngineer(bot | {"timeframe": "4h"}).config == FeatureConfig(timeframe="4h")
    with pytest.raises(ConfigError, match="hiden_size"):
        AdvancedFeatureEngineer({"hiden_size": 160})


def test_categories_select(candles):
    engineer = AdvancedFeatureEngineer({"categories": ("time", "cross_section")})
    assert {one.category for one in engineer.features} == {"time"}
    assert {one.category for one in engineer.panel_features} == {"cross_section"}
    assert engineer.extract_all_features(candles).shape == (300, len(engineer.features))


def test_include_selects_by_name_and_shortens_the_lookback(hourly):
    engineer = AdvancedFeatureEngineer({"include": ("momentum_rsi_*", "time_hour_sin", "cross_section_breadth_1d")})
    assert engineer.names == ("momentum_rsi_7", "momentum_rsi_14", "momentum_rsi_28", "time_hour_sin", "cross_section_breadth_1d")
    assert engineer.max_lookback < hourly.max_lookback
    with pytest.raises(ConfigError, match="'momentum_rsj_14' matches none"):
        AdvancedFeatureEngineer({"include": ("momentum_rsj_14",)})


def test_core_choice_is_small_and_touches_every_category():
    core = AdvancedFeatureEngineer({"include": CORE_FEATURES})
    assert 40 <= len(core.names) <= 80
    assert {one.category for one in (*core.features, *core.panel_features)} == set(CATEGORIES)


@pytest.mark.parametrize("indexed", [True, False])
def test_output_is_aligned_to_the_frame(hourly, candles, indexed):
    frame = candles.set_index("timestamp") if indexed else candles.set_index(np.arange(300) + 7)
    out = hourly.extract_all_features(frame)
    assert out.index.equals(frame.index)
    assert tuple(out.columns) == hourly.symbol_names
    assert set(out.dtypes) == {np.dtype("float32")}
    np.testing.assert_allclose(out["momentum_roc_10"].iloc[10:], candles["close"].pct_change(10)[10:] * 100, rtol=1e-5, atol=1e-6)


def test_gap_rows_are_not_in_the_output(hourly, candles):
    holed = candles.drop(index=[100, 101])
    out = hourly.extract_all_features(holed)
    assert len(out) == 298
    assert np.isnan(out.loc[102, "price_log_return_1h"])
    assert np.isfinite(out.loc[103, "price_log_return_1h"])


def test_short_series_gives_missing_rows(hourly, candles):
    for length in (0, 1, 2, 20):
        out = hourly.extract_all_features(candles.iloc[:length])
        assert len(out) == length
        assert out["volatility_historical_50d"].isna().all()


def test_missing_optional_columns_and_tables_are_missing_features(hourly, candles):
    out = hourly.extract_all_features(candles[["timestamp", "open", "high", "low", "close", "volume"]])
    for name in ("microstructure_taker_imbalance_4", "cross_exchange_basis", "onchain_net_flow", "volume_trade_count_ratio_20"):
        assert out[name].isna().all()


def test_onchain_reading_counts_for_the_last_bar(hourly, candles):
    out = hourly.extract_all_features(candles, onchain=OnChainMetrics(exchange_inflows=2000, exchange_outflows=3000))
    assert out["onchain_net_flow"].iloc[:-1].isna().all()
    assert out["onchain_net_flow"].iloc[-1] == pytest.approx(-0.2)


@pytest.mark.parametrize("wide", [True, False])
def test_onchain_history_is_joined_as_of(hourly, candles, wide):
    known = candles["timestamp"].iloc[[50, 100]] + HOUR / 2
    frame = pd.DataFrame({"available_at": known, "FlowInExNtv": [3.0, 1.0], "FlowOutExNtv": [1.0, 1.0]})
    frame["timestamp"] = frame["available_at"] - 27 * HOUR
    if not wide:
        frame = frame.melt(["timestamp", "available_at"], var_name="metric")
    flow = hourly.extract_all_features(candles, onchain=frame)["onchain_net_flow"]
    assert flow.iloc[:50].isna().all()
    assert set(flow.iloc[50:100]) == {0.5}
    assert set(flow.iloc[100:196]) == {0.0}
    assert flow.iloc[197:].isna().all(), "a row of four days ago is stale"


def test_cross_exchange_legs(hourly, candles):
    close = candles["close"]
    spot = pd.DataFrame({"timestamp": candles["timestamp"], "close": close * 0.999})
    given = {"spot": spot, "kraken": float(close.iloc[-1] * 1.002), "okx": float(close.iloc[-1]), "funding": 0.0003}
    out = hourly.extract_all_features(candles, cross_exchange=given)
    np.testing.assert_allclose(out["cross_exchange_basis"].iloc[1:], -1e4 * np.log(0.999), rtol=1e-4)
    last = out.iloc[-1]
    assert last["cross_exchange_price_difference"] == pytest.approx(1e4 * np.log(1.002) / 2, rel=1e-4)
    assert last["cross_exchange_dispersion"] == pytest.approx(1e4 * np.log(1.002), rel=1e-4)
    assert last["cross_exchange_funding_rate"] == pytest.approx(3)


BAD_CANDLES = {
    "volume": lambda f: f.drop(columns="volume"),
    "close must be numeric.*row 3 was 'x'": lambda f: f.assign(close=f["close"].astype(object).where(f.index != 3, "x")),
    "timezone-aware": lambda f: f.assign(timestamp=f["timestamp"].dt.tz_localize(None)),
    "ascending, row 1 ": lambda f: f.iloc[::-1],
    "duplicates, row 1 ": lambda f: f.iloc[[0, 0, 1]],
    "grid.*row 5 ": lambda f: f.assign(timestamp=f["timestamp"] + pd.to_timedelta((f.index >= 5).astype(int), unit="min")),
    "ohlcv must have the column timestamp": lambda f: f.drop(columns="timestamp"),
}


@pytest.mark.parametrize("message", BAD_CANDLES)
def test_bad_candles_are_named(hourly, candles, message):
    with pytest.raises(DataError, match=message):
        hourly.extract_all_features(BAD_CANDLES[message](candles))


BAD_BOOKS = {
    "bids, keys": {"asks": [[2, 1]]},
    "prices of asks must not be empty, row 0": {"bids": [[1, 1]], "asks": []},
    "prices of bids must lie below prices of asks, row 0": {"bids": [[2, 1]], "asks": [[2, 1]]},
}


@pytest.mark.parametrize("message", BAD_BOOKS)
def test_bad_books_are_named(hourly, candles, message):
    with pytest.raises(DataError, match=message):
        hourly.extract_all_features(candles, orderbook=BAD_BOOKS[message])


def test_onchain_rows_from_the_future_are_refused(hourly, candles):
    late = pd.DataFrame({"available_at": candles["timestamp"].iloc[[5, 299]] + 2 * HOUR, "active_addresses": 1.0})
    with pytest.raises(DataError, match=r"onchain available_at must not lie after.*row 1"):
        hourly.extract_all_features(candles, onchain=late)


def test_wrong_timeframe_and_config_are_named(hourly, panel):
    with pytest.raises(DataError, match="timeframe must be '1h'"):
        build_features(panel, hourly)
    with pytest.raises(ConfigError, match="timeframes"):
        AdvancedFeatureEngineer({"timeframes": "1h"})


def test_panel_pass_equals_the_symbol_pass(engineer, panel):
    done = []
    built = build_features(panel, engineer, on_symbol=done.append)
    assert done == list(panel.symbols)
    assert built.names == engineer.names
    own = len(engineer.features)
    np.testing.assert_array_equal(built.values[2, :, :own], engineer.compute(bars_from_panel(panel, "SOLUSDT")))


def test_chunks_of_the_engine_leave_no_seam(engineer, panel, monkeypatch):
    whole = build_features(panel, engineer).values
    monkeypatch.setattr("cryptoml.features.engineer.CHUNK_BARS", 501)
    np.testing.assert_allclose(build_features(panel, engineer).values, whole, rtol=1e-5, atol=0)


def test_cross_section_by_hand(engineer, panel):
    built = build_features(panel, engineer)
    day = np.log(panel.field("close")[:, 2_000] / panel.field("close")[:, 1_996])

    def at(name):
        return built.values[:, 2_000, built.names.index(name)]

    np.testing.assert_allclose(at("cross_section_rank_return_1d"), day.argsort().argsort() / 2 - 0.5)
    np.testing.assert_allclose(at("cross_section_deviation_return_1d"), (day - day.mean()) / day.std(), rtol=1e-5)
    np.testing.assert_allclose(at("cross_section_breadth_1d"), np.sign(day).mean(), rtol=1e-6)
    changes = np.diff(np.log(panel.field("close")[:, 1_980:2_001]), axis=1)
    market = changes.mean(axis=0)
    betas = [np.cov(own, market)[0, 1] / market.var(ddof=1) for own in changes]
    np.testing.assert_allclose(at("cross_section_beta_market_5d"), betas, rtol=1e-5)


def test_market_of_one_asset_has_neutral_ranks(engineer, panel):
    alone = build_features(panel.select(["BTCUSDT"]), engineer)
    np.testing.assert_array_equal(alone.values[0, 100:, alone.names.index("cross_section_rank_return_1d")], 0)


def test_split_symbol():
    assert split_symbol("BTCUSDT") == ("BTC", "USDT")
    assert split_symbol("ETHBTC") == ("ETH", "BTC")
    assert split_symbol("XYZ") == ("XYZ", "")


def extreme_candles(draw_values, base, tick, idle, gaps):
    """Candles that stand still, jump one tick, trade nothing or are missing, around any price."""
    steps = np.array(draw_values, dtype=float)
    close = base * (1 + tick * np.cumsum(steps) / 1e4)
    volume = np.where(np.arange(len(close)) % 7 < idle, 0.0, 5.0)
    columns = {"open": close, "high": close, "low": close, "close": close, "volume": volume, "taker_buy_volume": volume / 2}
    columns = {name: values.copy() for name, values in columns.items()} | {"num_trades": volume.copy()}
    for values in columns.values():
        values[list(gaps)] = np.nan
    stamps = pd.date_range("2024", periods=len(close), freq="6h", tz="UTC")
    return Bars(stamps, "6h", columns)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-1, 1), min_size=220, max_size=220),
    st.sampled_from([1e-8, 1e-3, 1.0, 0.1, 1e8]),
    st.integers(0, 1),
    st.integers(0, 7),
    st.sets(st.integers(0, 219), max_size=3),
)
def test_extreme_markets_give_no_infinity_and_no_warning(engineer, steps, base, tick, idle, gaps):
    values = engineer.compute(extreme_candles(steps, base, tick, idle, gaps))
    assert not np.isinf(values).any()


@pytest.mark.parametrize("base", [1e-8, 0.1, 3.3, 1e8])
def test_constant_prices_are_zero_or_missing_not_noise(engineer, base):
    bars = extreme_candles([0] * 700, base, 0, 3, ())
    values = {
        one.name: one(bars)[600:] for one in engineer.features if one.category in ("price", "momentum", "regime", "volatility")
    }
    for name, row in values.items():
        known = row[np.isfinite(row)]
        assert len(np.unique(np.round(known, 9))) <= 1, name
        assert known.size == 0 or abs(known[0]) < 1e-9 or abs(known[0]) >= 0.1, name


def test_absent_symbol_is_all_missing(engineer, panel):
    candles = panel.candles.copy()
    candles[1] = np.nan
    built = build_features(Panel(panel.symbols, panel.timeframe, panel.timestamps, candles, panel.tables), engineer)
    assert np.isnan(built.values[1]).all()
    assert np.isfinite(built.values[0]).any()
