"""Validation: every row is kept, dropped as a copy, or quarantined with a reason."""

import json

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings

from cryptoml.data.schema import CANDLES, parse_timeframe
from cryptoml.data.validation import (
    QUARANTINE_COLUMNS,
    REASONS,
    FileError,
    HealthSummary,
    SymbolHealth,
    check_candles,
    infer_timeframe,
    merge_checks,
    to_utc,
)
from cryptoml.errors import ConfigError, DataError

HOUR = pd.Timedelta("1h")
START = pd.Timestamp("2021-01-01", tz="UTC")


def candles(num_rows: int = 6, **columns: object) -> pd.DataFrame:
    close = 100.0 + np.arange(num_rows)
    frame = pd.DataFrame(
        {
            "timestamp": START + HOUR * np.arange(num_rows),
            "open": close - 0.5,
            "high": close + 1,
            "low": close - 1,
            "close": close,
            "volume": 10.0,
        }
    )
    return frame.assign(**columns)


def check(frame: pd.DataFrame, timeframe: str = "1h", **options: object):
    return check_candles(frame, symbol="BTCUSDT", timeframe=timeframe, source="made.csv", **options)


def with_value(column: str, row: int, value: object) -> pd.DataFrame:
    frame = candles()
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


def test_good_rows_come_in_the_schema():
    good = check(candles(num_trades=7)).good
    assert list(good.columns) == CANDLES.schema.names
    assert str(good["timestamp"].dtype) == "datetime64[us, UTC]"
    assert good["quote_volume"].isna().all()
    assert good["num_trades"].eq(7).all()


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("close", "abc", "not_a_number"),
        ("open", None, "not_finite"),
        ("high", float("inf"), "not_finite"),
        ("volume", float("nan"), "not_finite"),
        ("low", 0.0, "non_positive_price"),
        ("close", -3.0, "non_positive_price"),
        ("volume", -1.0, "negative_volume"),
        ("high", 90.0, "high_below_low"),
        ("open", 500.0, "open_outside_range"),
        ("close", 500.0, "close_outside_range"),
        ("timestamp", "yesterday", "unreadable_timestamp"),
        ("timestamp", START + HOUR * 2.5, "misaligned"),
    ],
)
def test_one_bad_value_is_quarantined_with_its_place(column, value, reason):
    result = check(with_value(column, 2, value), first_row=2)
    assert len(result.good) == 5
    row = result.quarantine.iloc[0]
    assert tuple(result.quarantine.columns) == QUARANTINE_COLUMNS
    assert (row["source"], row["row"], row["symbol"], row["reason"]) == ("made.csv", 4, "BTCUSDT", reason)
    assert row["column"] == ("high" if reason == "high_below_low" else column)
    assert row["value"] == (str(value) if value is not None else row["value"])
    assert reason in REASONS


def test_fractional_trade_count_is_quarantined():
    assert check(candles(num_trades=[1, 2, 2.5, 3, np.nan, 4])).quarantine["reason"].tolist() == ["not_whole"]


def test_identical_copies_are_dropped_and_contradictions_quarantined():
    frame = candles()
    contradiction = frame.iloc[[1]].assign(volume=99.0)
    result = check(pd.concat([frame, frame.iloc[[1, 1]], contradiction]))
    assert len(result.good) == 6
    assert result.health.duplicates == 2
    assert result.quarantine[["row", "reason"]].to_numpy().tolist() == [[8, "duplicate"]]
    assert result.good["volume"].eq(10.0).all()


def test_a_bad_row_does_not_shadow_a_good_one_at_the_same_time():
    frame = candles()
    result = check(pd.concat([frame.iloc[[1]].assign(volume=-1.0), frame]))
    assert len(result.good) == 6
    assert result.quarantine["reason"].tolist() == ["negative_volume"]


def test_unordered_rows_are_sorted_and_counted():
    result = check(candles().iloc[[0, 2, 1, 3, 5, 4]])
    assert result.health.unordered == 2
    pd.testing.assert_frame_equal(result.good, check(candles()).good)


def test_gaps_are_counted():
    health = check(candles(12).drop(index=[3, 4, 5, 9])).health
    assert (health.gaps, health.missing_bars, health.largest_gap_bars) == (2, 4, 3)


def test_naive_timestamps_say_how_to_declare_a_zone():
    frame = candles()
    with pytest.raises(DataError, match=r"made\.csv: column 'timestamp' is timezone-naive.*assume_timezone"):
        check(frame.assign(timestamp=frame["timestamp"].dt.tz_localize(None)))


def test_missing_column_is_named():
    with pytest.raises(DataError, match=r"made\.csv: column 'close' is missing; columns are"):
        check(candles().drop(columns="close"))


def test_mixed_timeframes_name_both_spacings():
    wide = candles(20)
    wide["timestamp"] = START + 20 * HOUR + 4 * HOUR * np.arange(20)
    with pytest.raises(DataError, match=r"made\.csv: BTCUSDT mixes timeframes.* 1h apart.*from row 20 on are 4h apart"):
        check(pd.concat([candles(20), wide]))


def test_sparse_markets_are_no_mixture():
    random = np.random.default_rng(0)
    for share in (0.1, 0.3, 0.5, 0.9):
        frame = candles(4_000)[random.random(4_000) < share]
        assert len(check(frame).good) == len(frame)


def test_weekly_bars_open_on_monday():
    frame = candles(5)
    frame["timestamp"] = pd.date_range("2021-01-04", periods=5, freq="7D", tz="UTC")
    assert len(check(frame, "1w").good) == 5


def test_an_empty_frame_and_one_candle_pass():
    assert check(candles(0)).health.rows_good == 0
    assert check(candles(1)).health.first == START


def test_merged_checks_equal_the_check_of_the_whole():
    frame = candles(30).drop(index=[4, 17])
    parts = [frame.iloc[:10], frame.iloc[8:20], frame.iloc[20:]]
    merged = merge_checks([check(part) for part in parts])
    pd.testing.assert_frame_equal(merged.good, check(frame).good)
    assert merged.health.duplicates == 2
    assert (merged.health.gaps, merged.health.missing_bars) == (2, 2)


def test_merging_quarantines_contradictions_with_their_place():
    merged = merge_checks([check(candles()), check(candles().assign(volume=5.0), first_row=100)])
    assert merged.quarantine["row"].tolist() == list(range(100, 106))
    assert merged.health.quarantined == {"duplicate": 6}
    with pytest.raises(DataError, match="mixes timeframes: 1m here, 1h in"):
        merge_checks([check(candles()), check(candles(1), "1m")])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("form", ["int", "float", "text"])
def test_epochs_are_told_by_magnitude(unit, form):
    stamps = pd.Series(pd.date_range("2017-01-01", periods=5, freq="1h", tz="UTC").as_unit("us"))
    numbers = stamps.dt.as_unit(unit).astype("int64")
    values = {"int": numbers, "float": numbers.astype(float), "text": numbers.astype("str")}[form]
    pd.testing.assert_series_equal(to_utc(values, source="f"), stamps)


def test_a_change_of_epoch_unit_within_a_file_is_followed():
    stamps = to_utc(pd.Series([1735686000000, 1735689600000000]), source="f")
    assert stamps.tolist() == [pd.Timestamp("2024-12-31T23:00Z"), pd.Timestamp("2025-01-01T00:00Z")]


@pytest.mark.parametrize(
    "text", ["2021-01-01T02:00:00+02:00", "2021-01-01 00:00:00Z", "2021-01-01 00:00:00 UTC", "2020-12-31T19:00-0500"]
)
def test_aware_text_becomes_utc(text):
    assert to_utc(pd.Series([text]), source="f")[0] == START


def test_declared_zone_is_used_and_impossible_local_times_are_not_guessed():
    stamps = to_utc(pd.Series(["2021-03-28 01:30", "2021-03-28 02:30"]), source="f", assume_timezone="Europe/Berlin")
    assert stamps[0] == pd.Timestamp("2021-03-28T00:30Z")
    assert stamps.isna().tolist() == [False, True]
    with pytest.raises(ConfigError, match=r"assume_timezone must be a zone.*'Mars/City'"):
        to_utc(pd.Series(["2021-03-28 01:30"]), source="f", assume_timezone="Mars/City")


@pytest.mark.parametrize("timeframe", ["1m", "5m", "1h", "4h", "1d", "3d", "1w", "90m", "15s"])
def test_timeframe_is_the_median_spacing(timeframe):
    stamps = pd.Series(pd.date_range(START, periods=9, freq=parse_timeframe(timeframe)))
    assert infer_timeframe(stamps.drop(4)) == timeframe
    assert infer_timeframe(stamps[:1]) is None


def test_summary_shows_symbols_totals_reasons_and_unread_files():
    bad = check(with_value("close", 2, "abc")).health
    summary = HealthSummary(
        (check(candles()).health, bad), (FileError("x.zip", "x.zip: cannot be read: File is not a zip file"),)
    )
    text = summary.to_text()
    assert "not_a_number 1" in text
    assert "not read: x.zip: cannot be read" in text
    assert summary.totals()["rows_good"] == 11
    assert not summary.ok
    assert HealthSummary((bad,)).ok
    assert json.loads(json.dumps(summary.to_dict()))["quarantined"] == {"not_a_number": 1}
    assert summary.to_frame()["rows_quarantined"].tolist() == [0, 1]


PRICE = st.one_of(
    st.sampled_from([1.0, 2.0, 3.0, 0.0, -1.0, float("nan"), float("inf"), None, "1.5", "x", ""]), st.floats(0.5, 4.0)
)
STAMP = st.one_of(
    st.integers(0, 30).map(lambda hour: (START + hour * HOUR).isoformat()),
    st.sampled_from(["", "soon", None, "12", "1609459200", "1609459200000", "2021-01-01T00:30:00Z"]),
)
ROW = st.fixed_dictionaries(
    dict.fromkeys(("open", "high", "low", "close", "volume"), PRICE)
    | {"timestamp": STAMP, "num_trades": st.one_of(st.none(), PRICE), "quote_volume": PRICE}
)
SOUND = st.integers(0, 30).map(lambda hour: candles(31).iloc[hour].to_dict() | {"num_trades": 1, "quote_volume": None})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(st.one_of(ROW, SOUND, SOUND), max_size=12))
def test_every_row_has_exactly_one_fate(rows):
    frame = pd.DataFrame(rows, columns=[*candles().columns, "num_trades", "quote_volume"], dtype=object)
    try:
        result = check(frame)
    except DataError as error:
        assume("mixes timeframes" not in str(error))
        raise
    good, health = result.good, result.health
    assert health.rows_read == len(rows) == len(good) + health.duplicates + len(result.quarantine)
    fates = result.origin["row"].tolist() + result.quarantine["row"].tolist()
    assert len(set(fates)) == len(fates) == len(rows) - health.duplicates
    assert set(result.quarantine["reason"]) <= set(REASONS)
    assert good["timestamp"].is_monotonic_increasing
    assert good["timestamp"].is_unique
    assert (good["timestamp"] == good["timestamp"].dt.floor("1h")).all()
    prices = good[["open", "high", "low", "close"]].to_numpy(dtype=float)
    assert np.isfinite(prices).all()
    assert (prices > 0).all()
    assert (good["low"] <= good[["open", "close"]].min(axis=1)).all()
    assert (good["high"] >= good[["open", "close"]].max(axis=1)).all()
    assert good["volume"].ge(0).all()
    assert (good[["quote_volume", "num_trades"]].fillna(0) >= 0).all(axis=None)
    assert health.missing_bars == (
        0 if good.empty else (good["timestamp"].iloc[-1] - good["timestamp"].iloc[0]) // HOUR + 1 - len(good)
    )


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(10)))
def test_order_of_distinct_rows_does_not_matter(order):
    pd.testing.assert_frame_equal(check(candles(10).iloc[list(order)]).good, check(candles(10)).good)


def test_health_rows_are_flat() -> None:
    health = HealthSummary((SymbolHealth("BTCUSDT", "1h", 3, 1, quarantined={"not_finite": 2}, sources=("a.csv",)),))
    (row,) = health.rows()
    assert row["quarantined"] == "not_finite 2"
    assert row["rows_good"] == 1
    assert all(not isinstance(value, dict | list) for value in row.values())


def shifted_to_end(bars_after_now: int, num_rows: int = 48) -> pd.DataFrame:
    """Return candles bar by bar whose newest opens so many bars after the present."""
    frame = candles(num_rows)
    newest = pd.Timestamp.now(tz="UTC").floor("h") + bars_after_now * HOUR
    return frame.assign(timestamp=newest - HOUR * np.arange(num_rows)[::-1])


class TestFuture:
    def test_a_bar_after_the_present_and_a_gap_is_put_aside(self) -> None:
        frame = shifted_to_end(-24)
        late = frame.tail(2).assign(timestamp=frame["timestamp"].tail(2) + pd.Timedelta(days=3650))
        result = check(pd.concat([late, frame], ignore_index=True))
        assert result.quarantine["reason"].tolist() == ["future_leap"] * 2
        assert result.quarantine["row"].tolist() == [0, 1]
        assert (result.health.missing_bars, result.health.last) == (0, frame["timestamp"].iloc[-1])
        assert result.health.rows_read == result.health.rows_good + result.health.rows_quarantined

    @pytest.mark.parametrize("bars", [-24, 24, 24 * 365])
    def test_a_series_that_runs_past_the_present_bar_by_bar_is_allowed(self, bars: int) -> None:
        result = check(shifted_to_end(bars))
        assert len(result.good) == 48
        assert result.quarantine.empty

    def test_a_gap_before_the_present_is_only_counted(self) -> None:
        frame = shifted_to_end(12).drop(index=[20, 21])
        result = check(frame)
        assert result.quarantine.empty
        assert result.health.missing_bars == 2

    def test_batches_together_show_a_leap_that_each_alone_does_not(self) -> None:
        frame = shifted_to_end(-24)
        late = frame.tail(1).assign(timestamp=frame["timestamp"].tail(1) + pd.Timedelta(days=3650))
        parts = [check(frame), check(late, first_row=48)]
        merged = merge_checks(parts)
        assert [len(part.quarantine) for part in parts] == [0, 0]
        assert merged.quarantine[["row", "reason"]].to_numpy().tolist() == [[48, "future_leap"]]
        assert merged.health.missing_bars == 0
        later = merge_checks([check(shifted_to_end(24).head(24)), check(shifted_to_end(24).tail(24), first_row=24)])
        assert later.quarantine.empty
