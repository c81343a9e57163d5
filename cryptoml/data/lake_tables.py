"""Read what is joined to candles: the rows that can matter for a span of bars, ticks reduced to bars on the way."""

from collections.abc import Iterable, Iterator

import pandas as pd

from cryptoml.data.bar_tables import REDUCED, reduce_batches
from cryptoml.data.lake import Lake
from cryptoml.data.lake_files import TablePart
from cryptoml.data.schema import BOOK_BARS, CANDLES, ORDERBOOK, TRADE_BARS, TRADES, VENUE_CANDLES, parse_timeframe
from cryptoml.data.sources.venues import venue_candles

__all__ = ["read_tables", "stamps_within"]

LATEST = pd.Timedelta(days=1)
BY_BAR = (BOOK_BARS, CANDLES, ORDERBOOK, TRADE_BARS, TRADES, VENUE_CANDLES)
"""Tables whose rows matter to the bars around their stamps only; rows of the others stay valid for days."""

Tables = dict[str, dict[str, pd.DataFrame]]


def read_tables(lake: Lake, parts: Iterable[TablePart], timeframe: str, start: pd.Timestamp, stop: pd.Timestamp) -> Tables:
    """Return tables as a panel holds them: name -> key -> rows that were readable by `stop`.

    Args:
        lake: The lake.
        parts: Partitions to read.
        timeframe: Length of a bar.
        start: Open of the first bar. Series that stay valid for days come from their beginning.
        stop: Close of the last bar.
    """
    tables: Tables = {}
    for part in parts:
        tables.setdefault(part.panel_table, {})[part.panel_key] = _read(lake, part, timeframe, start, stop)
    return tables


def stamps_within(
    part: TablePart, timeframe: str, start: pd.Timestamp, stop: pd.Timestamp
) -> tuple[pd.Timestamp | None, pd.Timestamp]:
    """Return from which stamp on, and up to before which, rows of a partition can matter for bars in `[start, stop)`."""
    step = parse_timeframe(timeframe)
    return start - _latest(step) if part.spec in BY_BAR else None, stop + step


def _latest(step: pd.Timedelta) -> pd.Timedelta:
    """Return how long after its stamp a tick or a bar may become readable and still count."""
    return max(LATEST, 3 * step)


def _read(lake: Lake, part: TablePart, timeframe: str, start: pd.Timestamp, stop: pd.Timestamp) -> pd.DataFrame:
    since, until = stamps_within(part, timeframe, start, stop)
    if part.table in REDUCED:
        bars = reduce_batches(part.spec, _prompt_ticks(lake, part, timeframe, start, stop), parse_timeframe(timeframe))
        return bars[bars["timestamp"] >= start].reset_index(drop=True)
    rows = lake.read(part.spec, part.partition, since, until)
    rows = venue_candles(rows, timeframe) if part.spec is CANDLES else rows
    return rows[rows["available_at"] <= stop].reset_index(drop=True)


def _prompt_ticks(lake: Lake, part: TablePart, timeframe: str, start: pd.Timestamp, stop: pd.Timestamp) -> Iterator[pd.DataFrame]:
    columns = [name for name in part.spec.schema.names if name not in ("trade_id", "price")]
    for ticks in lake.scan(part.spec, part.partition, *stamps_within(part, timeframe, start, stop), columns):
        known = ticks["available_at"]
        yield ticks[(known <= stop) & (known - ticks["timestamp"] <= _latest(parse_timeframe(timeframe)))]
