"""Tables meet bars at the instant they could be read, and no sooner."""

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.panel import panel_from_frames
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.joins import bars_from_panel, join_asof

HOUR = pd.Timedelta(hours=1)
STAMPS = pd.date_range("2024-01-01", periods=8, freq="h", tz="UTC")
CLOSES = (STAMPS + HOUR).as_unit("us").asi8


def rows(available, labels=None):
    available = STAMPS[0] + np.asarray(available) * HOUR
    return pd.DataFrame(
        {"available_at": available, "timestamp": available if labels is None else STAMPS[0] + np.asarray(labels) * HOUR}
    )


def joined(frame, stale=100):
    return join_asof(CLOSES, frame, np.arange(1.0, len(frame) + 1), stale * HOUR)


def panel_with(tables, num_bars=8):
    stamps = pd.date_range("2024-01-01", periods=num_bars, freq="h", tz="UTC")
    frame = pd.DataFrame({"timestamp": stamps, **dict.fromkeys(("open", "high", "low", "close"), 100.0), "volume": 1.0})
    return panel_from_frames({"BTCUSDT": frame}, "1h", tables)


def test_row_counts_at_the_close_it_precedes():
    np.testing.assert_array_equal(joined(rows([3.0])), [np.nan] * 2 + [1] * 6)  # the bar of 02:00 closes at 03:00
    np.testing.assert_array_equal(joined(rows([3.001])), [np.nan] * 3 + [1] * 5)


def test_unordered_rows_and_stale_rows():
    np.testing.assert_array_equal(joined(rows([5, 1])), [2, 2, 2, 2, 1, 1, 1, 1])
    np.testing.assert_array_equal(joined(rows([2]), stale=3), [np.nan, 1, 1, 1, np.nan, np.nan, np.nan, np.nan])


def test_late_revision_of_an_older_label_is_no_news():
    np.testing.assert_array_equal(joined(rows([2, 4], labels=[1, 0])), [np.nan] + [1] * 7)
    np.testing.assert_array_equal(joined(rows([2, 4], labels=[1, 1])), [np.nan, 1, 1, 2, 2, 2, 2, 2])


def test_empty_table():
    assert np.isnan(joined(rows([]))).all()


def test_book_is_averaged_within_the_bar_and_bad_snapshots_are_left_out():
    def snapshot(hour, bid, ask, bid_size):
        sides = {"bid_prices": [bid], "bid_sizes": [bid_size], "ask_prices": [ask], "ask_sizes": [1.0]}
        return {"timestamp": STAMPS[0] + hour * HOUR, "available_at": STAMPS[0] + hour * HOUR, **sides}

    frame = pd.DataFrame(
        [
            snapshot(0.5, 99, 101, 3.0),  # imbalance 1/2
            snapshot(1.0, 99, 101, 1.0),  # 0; readable exactly at the close
            snapshot(1.5, 102, 101, 9.0),  # crossed
            snapshot(-2.0, 99, 101, 9.0),
            snapshot(99.0, 99, 101, 9.0),
        ]
    )
    columns = bars_from_panel(panel_with({"orderbook": {"BTCUSDT": frame}}), "BTCUSDT").columns
    np.testing.assert_allclose(columns["book_imbalance_1"], [0.25] + [np.nan] * 7)


def test_venue_price_meets_the_own_price_of_the_same_open():
    tables = {"venue_candles": {}}
    for venue, lag, factor in (("binance_spot", 0.0, 0.999), ("kraken", 0.1, 1.001), ("slow", 5.0, 2.0)):
        known = {"timestamp": STAMPS, "available_at": STAMPS + (1 + lag) * HOUR, "close": 100 * factor}
        tables["venue_candles"][f"{venue}:BTCUSDT"] = pd.DataFrame(known)
    columns = bars_from_panel(panel_with(tables), "BTCUSDT").columns
    np.testing.assert_allclose(columns["basis"], -np.log(0.999))
    np.testing.assert_allclose(columns["venue_premium"], [np.nan] + [np.log(1.001)] * 7)  # seen one bar late


def test_trades_become_flow():
    stamps = STAMPS[0] + np.array([0.2, 0.3, 1.2]) * HOUR
    frame = pd.DataFrame(
        {"timestamp": stamps, "available_at": stamps, "size": [3.0, 1.0, 1.0], "is_buyer_taker": [True, False, False]}
    )
    columns = bars_from_panel(panel_with({"trades": {"BTCUSDT": frame}}), "BTCUSDT").columns
    np.testing.assert_allclose(columns["trade_flow"], [0.5, -1] + [np.nan] * 6)


def test_real_tables_give_plausible_features(shared_data):
    """Funding, spot, a second venue and on-chain history of BTC, as their publishers have them."""
    start, stop = pd.Timestamp("2023-05-01", tz="UTC"), pd.Timestamp("2023-12-01", tz="UTC")

    def load(folder):
        frame = pd.read_parquet(shared_data / folder / "BTCUSDT.parquet")
        return frame[frame["timestamp"].between(start, stop)]

    funding, chain = load("funding_8h"), pd.read_csv(shared_data / "onchain_1d" / "btc.csv", parse_dates=["time"])
    chain = chain.assign(timestamp=chain["time"].dt.tz_localize("UTC")).query("@start <= timestamp <= @stop")
    chain = chain.melt("timestamp", ["AdrActCnt", "TxCnt", "FlowInExNtv", "FlowOutExNtv", "SplyExNtv"], var_name="metric")
    tables = {
        "funding": {"BTCUSDT": funding.assign(available_at=funding["timestamp"])},
        "onchain": {"BTC": chain.assign(available_at=chain["timestamp"] + 27 * HOUR)},
        "venue_candles": {
            f"{venue}:BTCUSDT": load(folder).assign(available_at=lambda f: f["timestamp"] + HOUR)
            for venue, folder in (("binance_spot", "spot_1h"), ("kraken", "kraken_1h"))
        },
    }
    engineer = AdvancedFeatureEngineer({"categories": ("onchain", "cross_exchange")})
    built = build_features(panel_from_frames({"BTCUSDT": load("candles_1h")}, "1h", tables), engineer)
    last = pd.DataFrame(built.values[0, 800:], columns=list(built.names))
    for name in ("cross_exchange_basis", "cross_exchange_price_difference", "cross_exchange_funding_arbitrage"):
        assert last[name].isna().mean() < 0.01
        assert last[name].abs().median() < 50, "basis points"
    assert last["onchain_net_flow"].abs().max() < 1
    assert last["onchain_active_addresses_zscore_30d"].std() == pytest.approx(1, abs=0.5)
    assert last["onchain_stablecoin_supply_change_7d"].isna().all()
