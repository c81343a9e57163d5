"""The three promises of the feature contract, for every feature at every bar: no look-ahead, sharding, live parity."""

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.panel import Panel
from cryptoml.errors import ConfigError
from cryptoml.features.contract import Bars, Feature, days, feature, hours
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.market import market_from_panel

RTOL = 1e-6
BAR = pd.Timedelta(hours=6)


@pytest.fixture(scope="module")
def bars(panel):
    return bars_from_panel(panel, "BTCUSDT")


@pytest.fixture(scope="module")
def whole(engineer, bars):
    """float64 `[feature, time]`."""
    return np.stack([one(bars) for one in engineer.features])


@pytest.fixture(scope="module")
def market(panel):
    return market_from_panel(panel)


@pytest.fixture(scope="module")
def whole_market(engineer, market):
    """float64 `[feature, asset, time]`."""
    return np.stack([one(market) for one in engineer.panel_features])


def scrambled(bars: Bars, start: int) -> Bars:
    """Return the bars with every row from `start` on replaced by other numbers, some of them missing."""
    rng = np.random.default_rng(start)
    columns = {name: values.copy() for name, values in bars.columns.items()}
    for values in columns.values():
        values[start:] *= np.exp(rng.normal(0, 1, len(values) - start))
        values[start:][rng.random(len(values) - start) < 0.05] = np.nan
    return Bars(bars.timestamps, bars.timeframe, columns)


def test_every_input_is_present(engineer, bars, whole, whole_market):
    assert sorted({name for one in engineer.features for name in one.inputs} - set(bars.columns)) == []
    assert [one.name for one, row in zip(engineer.features, whole, strict=True) if np.isnan(row).all()] == []
    assert [one.name for one, row in zip(engineer.panel_features, whole_market, strict=True) if np.isnan(row).all()] == []


def test_nothing_is_infinite(whole, whole_market):
    assert not np.isinf(whole).any()
    assert not np.isinf(whole_market).any()


def test_undefined_before_the_lookback_and_defined_at_it(engineer, bars, whole):
    for one, row in zip(engineer.features, whole, strict=True):
        ready = bars.run_length(one.inputs) >= (one.input_run or one.lookback)
        first = int(np.argmax(ready & (np.arange(len(bars)) >= one.lookback - 1)))
        assert np.isnan(row[:first]).all(), one.name
        assert np.isfinite(row[first : first + 50]).any(), f"{one.name} needs more than its {one.lookback} bars"
        assert np.isnan(row[first:]).mean() < 0.02, one.name


@pytest.mark.parametrize("start", [40, 333, 1_200, 2_100, 2_599])
def test_later_rows_change_no_earlier_value(engineer, bars, whole, start):
    other = scrambled(bars, start)
    for one, row in zip(engineer.features, whole, strict=True):
        np.testing.assert_array_equal(one(other)[:start], row[:start], err_msg=one.name)


@pytest.mark.parametrize("start", [1, 77, 400])
def test_rows_older_than_the_lookback_change_nothing(engineer, bars, whole, start):
    rng = np.random.default_rng(start)
    columns = {name: values.copy() for name, values in bars.columns.items()}
    for values in columns.values():
        values[:start] *= np.exp(rng.normal(0, 1, start))
    other = Bars(bars.timestamps, bars.timeframe, columns)
    for one, row in zip(engineer.features, whole, strict=True):
        first = start + one.lookback - 1
        np.testing.assert_allclose(one(other)[first:], row[first:], rtol=RTOL, atol=0, err_msg=one.name)


@pytest.mark.parametrize("stop", [1, 2, 13, 100, 1_000, 2_500])
def test_a_prefix_gives_the_prefix(engineer, bars, whole, stop):
    prefix = bars.slice(0, stop)
    for one, row in zip(engineer.features, whole, strict=True):
        np.testing.assert_allclose(one(prefix), row[:stop], rtol=RTOL, atol=0, err_msg=one.name)


@pytest.mark.parametrize("chunk", [97, 700])
def test_shards_with_warm_up_equal_the_whole(engineer, bars, whole, chunk):
    for one, row in zip(engineer.features, whole, strict=True):
        for start in range(0, len(bars), chunk):
            first = max(start - one.lookback + 1, 0)
            part = one(bars.slice(first, start + chunk))[start - first :]
            np.testing.assert_allclose(part, row[start : start + chunk], rtol=RTOL, atol=0, err_msg=one.name)


def test_every_bar_from_its_own_lookback_alone(engineer, bars, whole):
    """A live buffer holds `lookback` bars; its last value is the batch value, at each of the last bars."""
    for one, row in zip(engineer.features, whole, strict=True):
        for stop in range(len(bars) - 12, len(bars) + 1):
            live = one(bars.slice(max(stop - one.lookback, 0), stop))[-1]
            np.testing.assert_allclose(live, row[stop - 1], rtol=RTOL, atol=0, err_msg=one.name)


def test_a_missing_row_spoils_exactly_its_lookback(engineer, bars, whole):
    columns = {name: values.copy() for name, values in bars.columns.items()}
    for values in columns.values():
        values[2_200] = np.nan
    holed = Bars(bars.timestamps, bars.timeframe, columns)
    for one, row in zip(engineer.features, whole, strict=True):
        values, spoiled = one(holed), slice(2_200, 2_200 + max(one.lookback, 1))
        assert np.isnan(values[spoiled]).all(), one.name
        np.testing.assert_array_equal(values[:2_200], row[:2_200], err_msg=one.name)
        np.testing.assert_allclose(values[spoiled.stop :], row[spoiled.stop :], rtol=RTOL, atol=0, err_msg=one.name)


@pytest.mark.parametrize("cut", [500, 1_900, 2_300])
def test_cross_section_sees_no_later_bar_and_shards(engineer, market, whole_market, cut):
    for one, block in zip(engineer.panel_features, whole_market, strict=True):
        np.testing.assert_allclose(one(market.slice(0, cut)), block[:, :cut], rtol=RTOL, atol=0, err_msg=one.name)
        first = max(cut - one.lookback + 1, 0)
        np.testing.assert_allclose(
            one(market.slice(first, cut + 200))[:, cut - first :], block[:, cut : cut + 200], rtol=RTOL, atol=0, err_msg=one.name
        )


def test_panel_slices_with_tables_equal_the_whole(engineer, panel):
    """The whole way from tables to float32, as sharded builds go it."""
    built = build_features(panel, engineer)
    for start, stop in ((0, 300), (2_300, 2_600)):
        first = max(start - engineer.max_lookback + 1, 0)
        part = build_features(panel.slice_time(first, stop), engineer)
        np.testing.assert_allclose(part.values[:, start - first :], built.values[:, start:stop], rtol=1e-5, atol=0)
    assert np.isnan(built.values[1, :150]).all(), "a symbol has no features before its listing"
    assert built.values.dtype == np.float32
    assert not np.isinf(built.values).any()


def test_external_rows_count_from_available_at(engineer, panel):
    """Rows that become readable after the close of bar t leave every value up to t alone."""
    bar = 2_000
    close = panel.timestamps[bar] + BAR
    tables = {}
    for name, keyed in panel.tables.items():
        tables[name] = {key: frame[frame["available_at"] <= close] for key, frame in keyed.items()}
    cut = Panel(panel.symbols, panel.timeframe, panel.timestamps, panel.candles, tables)
    outside = [one for one in engineer.features if one.category in ("onchain", "cross_exchange", "microstructure")]
    before, after = bars_from_panel(panel, "BTCUSDT"), bars_from_panel(cut, "BTCUSDT")
    for one in outside:
        np.testing.assert_array_equal(one(before)[: bar + 1], one(after)[: bar + 1], err_msg=one.name)


def test_spike_leaves_no_trace_beyond_the_lookback(engineer, bars, whole):
    columns = {name: values.copy() for name, values in bars.columns.items()}
    for name in ("open", "high", "low", "close", "volume"):
        columns[name][5] *= 1e8
    spiked = Bars(bars.timestamps, bars.timeframe, columns)
    for one, row in zip(engineer.features, whole, strict=True):
        np.testing.assert_allclose(one(spiked)[5 + one.lookback :], row[5 + one.lookback :], rtol=RTOL, atol=0, err_msg=one.name)


def test_method_of_a_subclass_is_a_feature_under_the_same_rules(make_candles):
    class Mine(AdvancedFeatureEngineer):
        scale = 2.0

        @feature("price", lookback=lambda n: n + 1, params=(3, days(1)), source="own")
        def doubled(self, bars, n):
            """twice the change over n bars"""
            return self.scale * (bars.log_close - np.roll(bars.log_close, n))

    mine = Mine({"timeframe": "6h", "categories": ("price",)})
    assert mine.symbol_names[-2:] == ("price_doubled_3", "price_doubled_1d")
    row = mine.catalogue().iloc[-1]
    assert (row["lookback"], row["formula"]) == (5, "twice the change over n bars")
    candles = make_candles(20, 0)
    out = mine.extract_all_features(candles)["price_doubled_3"]
    assert out[:3].isna().all()
    np.testing.assert_allclose(out[3:], 2 * np.log(candles["close"]).diff(3)[3:], rtol=1e-5)


def test_a_feature_cannot_return_infinity():
    bad = Feature("x", "price", ("close",), 1, lambda bars: np.full(len(bars), np.inf))
    stamps = pd.date_range("2024", periods=3, freq="h", tz="UTC")
    assert np.isnan(bad(Bars(stamps, "1h", {"close": np.ones(3)}))).all()


def test_windows_in_time_follow_the_timeframe():
    assert [days(5).bars(timeframe) for timeframe in ("15m", "1h", "1d", "1w")] == [480, 120, 5, 1]
    assert hours(30).label == "30h"
    lookbacks = AdvancedFeatureEngineer().catalogue().set_index("name")["lookback"]
    assert lookbacks["volatility_historical_50d"] == 1_201
    assert lookbacks.max() <= 2_200


def test_unknown_category_is_refused():
    with pytest.raises(ConfigError, match="category must be one of"):
        feature("prices", lookback=1)
    with pytest.raises(ConfigError, match="categories"):
        AdvancedFeatureEngineer({"categories": ("prices",)})
    with pytest.raises(ConfigError, match="timeframe"):
        AdvancedFeatureEngineer({"timeframe": "hourly"})
