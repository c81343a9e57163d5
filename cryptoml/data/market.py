"""The data of one run: the built-in market, a folder of candle files, or a lake."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptoml.data.loading import load_panel
from cryptoml.data.panel import Panel
from cryptoml.data.synthetic import MarketConfig, SyntheticMarket, synthetic_market
from cryptoml.data.validation.health import HealthSummary
from cryptoml.errors import ConfigError

__all__ = ["SYNTHETIC", "Market", "read_market"]

SYNTHETIC = "synthetic"


@dataclass(frozen=True, eq=False)
class Market:
    """Data of one run.

    Attributes:
        panel: Candles and tables.
        health: What validation found.
        name: As the report shows it.
        synthetic: The truth behind the built-in market; None for real data.
    """

    panel: Panel
    health: HealthSummary
    name: str
    synthetic: SyntheticMarket | None = None


def read_market(
    source: str, *, timeframe: str | None = None, symbols: Sequence[str] = (), synthetic: MarketConfig | None = None
) -> Market:
    """Open the built-in market (`"synthetic"`), a folder of candle files, or a lake.

    Args:
        source: `"synthetic"`, a folder, or the address of a lake.
        timeframe: Length of a bar; needed where the data holds several.
        symbols: Markets to use; all by default.
        synthetic: Settings of the built-in market.

    Raises:
        DataError: Nothing there can be used.
        ConfigError: Symbols are asked of the built-in market, which names its own.
    """
    if source == SYNTHETIC:
        if symbols:
            raise ConfigError(f"symbols cannot be chosen in the built-in market, which names its own; were {list(symbols)}")
        market = synthetic_market(synthetic or MarketConfig())
        return Market(market.panel, HealthSummary(), "built-in market", market)
    loaded = load_panel(source, timeframe=timeframe, symbols=symbols or None)
    name = source.partition("?")[0].rstrip("/").rpartition("/")[2].rpartition("@")[2]  # no address, no credentials
    return Market(loaded.panel, loaded.health, name)
