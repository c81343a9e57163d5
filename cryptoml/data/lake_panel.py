"""Write a panel into a lake, from which the same panel can be loaded."""

from cryptoml.data.lake import Lake
from cryptoml.data.panel import Panel
from cryptoml.data.schema import CANDLES, OWN_VENUE, TABLES, TableSpec

__all__ = ["write_panel"]


def write_panel(lake: Lake, panel: Panel) -> None:
    """Append the present bars of every symbol and the rows of every table; what the lake holds already stays.

    Raises:
        DataError: A table does not follow its schema.
    """
    for symbol in panel.symbols:
        lake.append(CANDLES, {"timeframe": panel.timeframe, "symbol": symbol}, panel.frame(symbol))
    for name, frames in panel.tables.items():
        for key, frame in frames.items():
            spec, partition = _place(TABLES[name], key, panel.timeframe)
            lake.append(spec, partition, frame[[column for column in spec.schema.names if column in frame]])


def _place(spec: TableSpec, key: str, timeframe: str) -> tuple[TableSpec, dict[str, str]]:
    venue, _, market = key.rpartition(":")
    if venue == OWN_VENUE:
        return CANDLES, {"timeframe": timeframe, "symbol": market}
    values = {"venue": venue, "timeframe": timeframe, "symbol": market, "asset": key}
    return spec, {name: values[name] for name in spec.partitions}
