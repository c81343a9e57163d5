"""A panel written to a lake is the panel loaded from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryptoml.data.lake import Lake
from cryptoml.data.lake_panel import write_panel
from cryptoml.data.loading import load_panel
from cryptoml.data.schema import VENUE_CANDLES
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.errors import DataError


def test_round_trip_with_ticks_tables_and_the_legs_of_a_triangle(tmp_path: Path) -> None:
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=400, orderbook_assets=2)).panel
    write_panel(Lake(tmp_path / "first"), panel)
    leg = panel.tables["venue_candles"]["second:ETHUSDT"]
    Lake(tmp_path / "first").append(VENUE_CANDLES, {"venue": "second", "timeframe": "1h", "symbol": "ETHBTC"}, leg)
    loaded = load_panel(tmp_path / "first", symbols=["BNB/USDT", "ETH/USDT"]).panel
    assert set(loaded.tables) == {"funding", "onchain", "venue_candles", "book_bars"}
    assert "own:BTCUSDT" in loaded.tables["venue_candles"]
    write_panel(Lake(tmp_path / "second"), loaded)
    again = load_panel(tmp_path / "second", symbols=loaded.symbols).panel
    assert again.fingerprint() == loaded.fingerprint()
    np.testing.assert_array_equal(again.candles, panel.candles[[2, 1]])


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    panel = synthetic_market(MarketConfig(num_assets=2, num_bars=50)).panel
    write_panel(Lake(tmp_path), panel)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    write_panel(Lake(tmp_path), panel)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}


def test_a_table_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    panel = synthetic_market(MarketConfig(num_assets=1, num_bars=50)).panel
    funding = panel.tables["funding"]["BTCUSDT"].drop(columns="funding_rate")
    with pytest.raises(DataError, match="funding_rate"):
        write_panel(Lake(tmp_path), replace(panel, tables={"funding": {"BTCUSDT": funding}}))
