"""Real markets through the whole engine: tables from raw files, and an order book with its trades in bars of 15 seconds."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.features import missing_shares, real_panel
from cryptoml.data.batches import FilesConfig
from cryptoml.data.ingest import ingest_files
from cryptoml.data.lake import Lake
from cryptoml.data.schema import ORDERBOOK, TRADES
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features

BAR = pd.Timedelta(seconds=15)


@pytest.fixture(scope="module")
def book_and_trades(shared_data, tmp_path_factory):
    lake = Lake(tmp_path_factory.mktemp("lake"))
    folder = shared_data / "orderbook"
    ingest_files(lake, [folder / "btcusdt_usdm_depth20.parquet"], FilesConfig(kind="orderbook", symbol="BTCUSDT"))
    ingest_files(lake, [folder / "btcusdt_usdm_trades.parquet"], FilesConfig(kind="trades", symbol="BTCUSDT"))
    return lake.read(ORDERBOOK, {"symbol": "BTCUSDT"}), lake.read(TRADES, {"symbol": "BTCUSDT"})


def candles_of(trades):
    grouped = trades.set_index("available_at").groupby(pd.Grouper(freq=BAR))
    candles = grouped["price"].ohlc().assign(volume=grouped["size"].sum()).dropna()
    return candles.assign(
        taker_buy_volume=trades[trades["is_buyer_taker"]].groupby(trades["available_at"].dt.floor(BAR))["size"].sum()
    )


def test_order_book_and_trades(book_and_trades):
    book, trades = book_and_trades
    candles = candles_of(trades)
    engineer = AdvancedFeatureEngineer({"timeframe": "15s", "categories": ("microstructure",)})
    out = engineer.extract_all_features(candles, orderbook=book, trades=trades)
    inner = out.iloc[1:-1]
    for depth in (1, 5, 10, 20):
        assert inner[f"microstructure_book_imbalance_{depth}"].abs().lt(1).all()
    assert inner["microstructure_relative_spread"].between(0.001, 1).all(), "basis points of the most liquid perpetual"
    assert inner["microstructure_microprice"].abs().lt(1).all()
    assert np.isfinite(inner["microstructure_depth_ratio"]).all()
    np.testing.assert_allclose(
        inner["microstructure_trade_flow_imbalance"], inner["microstructure_taker_imbalance_1"], atol=1e-5
    )  # both ways to count who paid the spread


@pytest.mark.slow
def test_ten_symbols_with_every_leg(shared_data, tmp_path):
    panel = real_panel(shared_data, tmp_path).slice_time("2023-01-01", "2024-01-01")
    built = build_features(panel, AdvancedFeatureEngineer())
    assert len(panel.symbols) == 10
    assert not np.isinf(built.values).any()
    shares = missing_shares(panel, built)
    candle = shares[shares["category"].isin(["price", "momentum", "pattern", "time"])]
    assert (candle["all"] < 2_200 / panel.num_bars).all(), "missing no longer than the longest lookback"
    for name in ("cross_exchange_basis", "cross_exchange_funding_rate", "onchain_net_flow", "cross_exchange_price_difference"):
        assert shares.loc[name, "BTCUSDT"] < 0.35, name
