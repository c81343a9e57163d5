"""Ticks become bars: each row in the bar during which it could be read, the same however the rows are batched."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.data.bar_tables import book_bars, reduce_batches, trade_bars
from cryptoml.data.schema import BOOK_BARS, ORDERBOOK, TRADE_BARS, TRADES

HOUR = pd.Timedelta(hours=1)
MONDAY = pd.Timestamp("2024-01-01", tz="UTC")


def draw_trades(count: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    stamps = MONDAY + pd.to_timedelta(np.sort(rng.integers(0, 12 * 3_600_000, count)), unit="ms")
    return pd.DataFrame(
        {
            "timestamp": stamps,
            "available_at": stamps + pd.to_timedelta(rng.integers(0, 90, count), unit="s"),
            "trade_id": np.arange(count),
            "price": 100.0,
            "size": rng.lognormal(0, 1, count),
            "is_buyer_taker": rng.random(count) > 0.4,
        }
    )


def draw_books(count: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    stamps = MONDAY + pd.to_timedelta(np.sort(rng.integers(0, 12 * 3_600_000, count)), unit="ms")
    depths = rng.integers(1, 23, count)
    sides = {f"{side}_sizes": [rng.lognormal(0, 1, depth) for depth in depths] for side in ("bid", "ask")}
    prices = {"bid_prices": [100.0 - np.arange(d) for d in depths], "ask_prices": [100.5 + np.arange(d) for d in depths]}
    return pd.DataFrame({"timestamp": stamps, "available_at": stamps, **prices, **sides})


def test_a_trade_counts_for_the_bar_in_which_it_became_readable() -> None:
    known = MONDAY + np.array([0.0, 0.5, 1.0, 1.0001, 3.0]) * HOUR
    trades = pd.DataFrame({"available_at": known, "size": [1.0, 2.0, 4.0, 8.0, 16.0], "is_buyer_taker": [True] * 4 + [False]})
    bars = trade_bars(trades, HOUR)
    assert bars["timestamp"].tolist() == [MONDAY + hour * HOUR for hour in (-1, 0, 1, 2)]
    assert (bars["available_at"] - bars["timestamp"] == HOUR).all()
    assert bars["bought"].tolist() == [1.0, 6.0, 8.0, 0.0]
    assert bars["sold"].tolist() == [0.0, 0.0, 0.0, 16.0]


def test_weekly_bars_open_on_monday_and_other_grids_where_they_are_told() -> None:
    trades = draw_trades(50)
    assert trade_bars(trades, pd.Timedelta(days=7))["timestamp"].tolist() == [MONDAY]
    shifted = trade_bars(trades, HOUR, MONDAY + pd.Timedelta(minutes=20))
    assert set(shifted["timestamp"].dt.minute) == {20}


def test_snapshots_are_averaged_and_bad_ones_left_out() -> None:
    def snapshot(hour: float, bid: float, bid_size: float) -> dict[str, object]:
        sides = {"bid_prices": [bid], "bid_sizes": [bid_size], "ask_prices": [101.0], "ask_sizes": [1.0]}
        return {"available_at": MONDAY + hour * HOUR, **sides}

    bars = book_bars(pd.DataFrame([snapshot(0.5, 99, 3.0), snapshot(1.0, 99, 1.0), snapshot(1.5, 102, 9.0)]), HOUR)
    assert bars["num_snapshots"].tolist() == [2]
    assert bars["book_imbalance_1"].tolist() == [0.25]
    assert bars["book_spread"].tolist() == [200.0]


def test_deep_and_shallow_books_side_by_side() -> None:
    books = draw_books(40)
    bars = book_bars(books, pd.Timedelta(hours=12))
    shares = []
    for _, row in books.iterrows():
        bid, ask = row["bid_sizes"][:10].sum(), row["ask_sizes"][:10].sum()
        shares.append((bid - ask) / (bid + ask))
    assert bars["book_imbalance_10"].tolist() == pytest.approx([np.mean(shares)])


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=6), order=st.randoms(use_true_random=False))
def test_any_batches_in_any_order_give_the_same_bars(cuts: list[int], order) -> None:
    edges = [0, *sorted(cuts), 300]
    for spec, rows, reduce in ((TRADES, draw_trades(300), trade_bars), (ORDERBOOK, draw_books(300), book_bars)):
        parts = [rows.iloc[start:stop] for start, stop in itertools.pairwise(edges)]
        order.shuffle(parts)
        pd.testing.assert_frame_equal(reduce_batches(spec, parts, HOUR), reduce(rows, HOUR), rtol=1e-12, check_freq=False)


def test_many_batches_are_merged_on_the_way() -> None:
    rows = draw_trades(1_000)
    parts = [rows.iloc[[number]] for number in range(1_000)]
    pd.testing.assert_frame_equal(reduce_batches(TRADES, iter(parts), HOUR), trade_bars(rows, HOUR), check_freq=False)


@pytest.mark.parametrize(("spec", "bars"), [(TRADES, TRADE_BARS), (ORDERBOOK, BOOK_BARS)])
def test_no_rows_give_no_bars(spec, bars) -> None:
    empty = reduce_batches(spec, [], HOUR)
    assert empty.empty
    assert list(empty.columns) == bars.schema.names
    assert reduce_batches(spec, [spec.schema.empty_table().to_pandas()], HOUR).empty
