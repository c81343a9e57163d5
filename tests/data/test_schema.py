"""Names of markets and the grid of bars."""

import pandas as pd
import pytest

from cryptoml.data.schema import grid_anchor, normalise_symbol, split_symbol


@pytest.mark.parametrize("spelling", ["BTC/USDT", "BTC/USDT:USDT", "btc-usdt", "BTC_USDT_USDT", "BTCUSDT", " btcusdt "])
def test_every_spelling_has_the_same_base_and_quote(spelling: str) -> None:
    assert split_symbol(spelling) == ("BTC", "USDT")
    assert split_symbol(normalise_symbol(spelling)) == ("BTC", "USDT")


@pytest.mark.parametrize(
    ("symbol", "base", "quote"),
    [
        ("ETHBTC", "ETH", "BTC"),
        ("BTCDOMUSDT", "BTCDOM", "USDT"),
        ("BTCTUSD", "BTC", "TUSD"),
        ("USDCUSDT", "USDC", "USDT"),
        ("1000PEPEUSDC", "1000PEPE", "USDC"),
        ("ETH/BTC:BTC", "ETH", "BTC"),
        ("SOLEUR", "SOL", "EUR"),
        ("BTCUSD_PERP", "BTC", "USD"),
        ("BTC-USDT-SWAP", "BTC", "USDT"),
        ("BTCUSDTSWAP", "BTC", "USDT"),
        ("ASSET", "ASSET", ""),
        ("USDT", "USDT", ""),
    ],
)
def test_the_longest_base_that_leaves_a_known_quote_is_not_taken(symbol: str, base: str, quote: str) -> None:
    assert split_symbol(symbol) == (base, quote)


def test_weeks_begin_on_monday_and_all_else_at_midnight() -> None:
    assert grid_anchor(pd.Timedelta(days=7)).day_name() == "Monday"
    assert grid_anchor(pd.Timedelta(hours=4)) == pd.Timestamp(0, tz="UTC")
