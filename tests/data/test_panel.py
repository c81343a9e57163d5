"""Panels: alignment, masks, views, and errors that name the culprit."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.data.panel import CANDLE_FIELDS, Panel, panel_from_frames, panel_on_grid
from cryptoml.errors import DataError

START = pd.Timestamp("2024-01-01", tz="UTC")


def candles(start: int, stop: int, *, skip: tuple[int, ...] = (), base: float = 100.0) -> pd.DataFrame:
    """Hourly candles of bars [start, stop) after START without those in `skip`; close = base + bar number."""
    bars = np.array([bar for bar in range(start, stop) if bar not in skip])
    close = base + bars.astype(float)
    columns = {"open": close - 0.5, "high": close + 1, "low": close - 1, "close": close, "volume": np.full(len(bars), 2.0)}
    return pd.DataFrame({"timestamp": START + bars * pd.Timedelta("1h"), **columns})


def funding(*hours: int) -> pd.DataFrame:
    stamps = pd.DatetimeIndex([START + hour * pd.Timedelta("1h") for hour in hours])
    return pd.DataFrame({"timestamp": stamps, "available_at": stamps, "funding_rate": np.arange(float(len(hours)))})


@pytest.fixture
def panel() -> Panel:
    frames = {"AUSDT": candles(0, 10, skip=(4,)), "BUSDT": candles(3, 14, base=500.0), "CUSDT": candles(8, 20)}
    tables = {"funding": {"AUSDT": funding(0, 8, 16), "BUSDT": funding(8)}, "onchain": {"A": onchain()}}
    return panel_from_frames(frames, "1h", tables)


def onchain() -> pd.DataFrame:
    return pd.DataFrame(
        {"timestamp": [START], "available_at": [START + pd.Timedelta("27h")], "metric": ["TxCnt"], "value": [1.0]}
    )


def test_listing_delisting_and_gaps_become_a_mask(panel: Panel) -> None:
    assert panel.candles.shape == (3, 20, len(CANDLE_FIELDS))
    assert [list(np.flatnonzero(row)) for row in panel.present] == [
        [0, 1, 2, 3, 5, 6, 7, 8, 9], list(range(3, 14)), list(range(8, 20)),
    ]  # fmt: skip
    assert panel.timestamps[0] == START
    assert panel.timestamps.freq is not None
    assert str(panel.timestamps.tz) == "UTC"
    assert np.isnan(panel.candles[0, 4]).all()
    assert np.isnan(panel.field("num_trades")).all()
    assert panel.field("close")[1, 3] == 503.0


def test_frame_returns_what_went_in(panel: Panel) -> None:
    given_frame = candles(0, 10, skip=(4,))
    returned = panel.frame("AUSDT")[list(given_frame.columns)]
    pd.testing.assert_frame_equal(returned, given_frame, check_freq=False)
    assert panel_from_frames({"AUSDT": panel.frame("AUSDT")}, "1h").num_bars == 10


def test_weekly_bars_open_on_mondays() -> None:
    frame = candles(0, 3).assign(timestamp=pd.date_range("2024-01-01", periods=3, freq="7D", tz="UTC"))
    assert list(panel_from_frames({"A": frame}, "1w").timestamps) == list(frame["timestamp"])


def test_fields_and_time_slices_are_views(panel: Panel) -> None:
    part = panel.slice_time(5, 12)
    assert np.shares_memory(part.candles, panel.candles)
    assert np.shares_memory(panel.field("close"), panel.candles)
    assert panel.field("close").flags.c_contiguous
    assert part.timestamps.equals(panel.timestamps[5:12])


@pytest.mark.parametrize("bound", [8, "2024-01-01 08:00", START + pd.Timedelta("8h"), -12])
def test_slices_by_index_and_by_instant_agree(panel: Panel, bound: object) -> None:
    assert panel.slice_time(stop=bound).num_bars == 8  # type: ignore[arg-type]
    assert panel.slice_time(bound).num_bars == 12  # type: ignore[arg-type]


def test_time_slice_drops_table_rows_of_the_future_and_keeps_the_past(panel: Panel) -> None:
    part = panel.slice_time(6, 9)
    assert len(part.tables["funding"]["AUSDT"]) == 2
    assert len(part.tables["onchain"]["A"]) == 0
    assert len(panel.slice_time(0, 0).tables["funding"]["AUSDT"]) == 3


def test_select_orders_symbols_and_their_tables(panel: Panel) -> None:
    part = panel.select(["CUSDT", "AUSDT"])
    assert part.symbols == ("CUSDT", "AUSDT")
    np.testing.assert_array_equal(part.field("close")[1], panel.field("close")[0])
    assert set(part.tables["funding"]) == {"AUSDT"}
    assert set(part.tables["onchain"]) == {"A"}


def test_fingerprint_follows_content_not_layout(panel: Panel) -> None:
    copied = Panel(panel.symbols, "1h", panel.timestamps, np.ascontiguousarray(panel.candles), panel.tables)
    assert copied.fingerprint() == panel.fingerprint()
    changed = panel.candles.copy()
    changed[2, 19, 3] += 1e-9
    assert Panel(panel.symbols, "1h", panel.timestamps, changed, panel.tables).fingerprint() != panel.fingerprint()
    assert Panel(panel.symbols, "1h", panel.timestamps, panel.candles).fingerprint() != panel.fingerprint()


def test_memory_is_one_array() -> None:
    frames = {f"S{i}USDT": candles(0, 20_000) for i in range(4)}
    tracemalloc.start()
    panel = panel_from_frames(frames, "1h")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * panel.candles.nbytes


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.integers(0, 40), min_size=1), min_size=1, max_size=4))
def test_presence_is_exactly_the_rows_given(bars: list[set[int]]) -> None:
    frames = {}
    for number, own in enumerate([*bars, set(range(41))]):
        skip = tuple(set(range(41)) - own)
        frames[f"S{number}"] = candles(0, 41, skip=skip)
    panel = panel_from_frames(frames, "1h")
    for number, own in enumerate(bars):
        assert set(np.flatnonzero(panel.present[number])) == own


def broken(**columns: object) -> pd.DataFrame:
    return candles(0, 5).assign(**columns)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({}, "at least one symbol"),
        ({"A": candles(0, 0)}, "A has no candles"),
        ({"A": candles(0, 5), "B": candles(3, 9), "LONE": candles(50, 60)}, "LONE has no bar in common"),
        ({"A": candles(0, 5).drop(columns="close")}, "A lack column 'close'"),
        ({"A": broken(close="12,5")}, "'close' of A must hold numbers"),
        ({"A": broken(low=[1.0, 2.0, np.nan, 1.0, 1.0])}, "'low' of A row 2"),
        ({"A": broken(num_trades=np.inf)}, "'num_trades' of A row 0"),
        ({"A": broken(timestamp=range(5))}, "timestamp of A must be timezone-aware"),
        ({"A": candles(0, 5).iloc[[0, 1, 1, 2]]}, "timestamp of A row 2"),
        ({"A": candles(0, 5).iloc[::-1]}, "timestamp of A row 1"),
        ({"A": candles(0, 5).assign(timestamp=lambda rows: rows["timestamp"] + pd.Timedelta("7min"))}, "not on the grid"),
        ({"A": candles(0, 5).assign(timestamp=lambda rows: rows["timestamp"].dt.tz_localize(None))}, "timezone-aware"),
    ],
)
def test_bad_frames_are_named(frames: dict[str, pd.DataFrame], message: str) -> None:
    with pytest.raises(DataError, match=message):
        panel_from_frames(frames, "1h")


def test_unknown_names_and_wrong_shapes_are_refused(panel: Panel) -> None:
    with pytest.raises(DataError, match="'XUSDT'"):
        panel.frame("XUSDT")
    with pytest.raises(DataError, match="'price'"):
        panel.field("price")
    with pytest.raises(DataError, match="shape"):
        Panel(("A",), "1h", panel.timestamps, panel.candles)
    with pytest.raises(DataError, match="differ"):
        Panel(("A", "B", "A"), "1h", panel.timestamps, panel.candles)


def test_a_table_that_breaks_its_schema_is_named(panel: Panel) -> None:
    broken_panel = Panel(panel.symbols, "1h", panel.timestamps, panel.candles, {"funding": {"AUSDT": funding(0)[["timestamp"]]}})
    with pytest.raises(DataError, match="funding of AUSDT"):
        broken_panel.fingerprint()


def test_a_grid_from_edge_to_edge_whatever_bars_there_are() -> None:
    stop = START + pd.Timedelta("6h")
    frames = {"AUSDT": candles(2, 5)[["timestamp", "close"]], "BUSDT": candles(0, 0)}
    panel = panel_on_grid(frames, "1h", START - pd.Timedelta("1h"), stop)
    assert (panel.timestamps[0], panel.timestamps[-1]) == (START - pd.Timedelta("1h"), START + pd.Timedelta("5h"))
    assert np.flatnonzero(panel.present[0]).tolist() == [3, 4, 5]
    assert not panel.present[1].any()
    assert np.isnan(panel.field("open")).all()
    assert panel_on_grid({"BUSDT": frames["BUSDT"]}, "1h", stop, stop).num_bars == 0


def test_weeks_on_a_grid_open_on_monday() -> None:
    thursday = pd.Timestamp("2024-01-04", tz="UTC")
    panel = panel_on_grid({"AUSDT": candles(0, 0)}, "1w", thursday, thursday + pd.Timedelta(days=14))
    assert panel.timestamps.tolist() == [pd.Timestamp("2024-01-08", tz="UTC"), pd.Timestamp("2024-01-15", tz="UTC")]
