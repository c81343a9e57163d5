"""What there is to do for a feature lake: stretches of symbols, and of the market, with the files that they read."""

from collections.abc import Iterator, Mapping
from datetime import datetime

import pandas as pd
from pyarrow import fs
from pydantic import BaseModel, ConfigDict, Field

from cryptoml.data.lake_files import LakeFiles, Life, TablePart
from cryptoml.data.lake_tables import stamps_within
from cryptoml.data.schema import parse_timeframe
from cryptoml.features.market import leader_of
from cryptoml.features.store.files import cross_section_folder, features_folder, file_name

__all__ = ["WorkItem", "market_bars", "market_items", "symbol_items"]

MARKET_CELLS, MARKET_BARS = 2_000_000, (1_024, 8_192)


class WorkItem(BaseModel):
    """A stretch of one symbol, or of all symbols for the cross-section; it writes one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="File to write, relative to the root of the feature lake")
    timeframe: str = Field(description="Length of a bar")
    symbol: str = Field("", description="Symbol, empty for the cross-section")
    peers: tuple[str, ...] = Field((), description="Symbols of the cross-section, in order; empty for one symbol")
    start: datetime = Field(description="First open wanted, UTC")
    stop: datetime = Field(description="Opens from here on belong to the next item, UTC")
    since: datetime = Field(description="First bar to read, before `start` for warm-up, UTC")
    num_bars: int = Field(ge=0, description="Size: bars of the stretch within the symbol's life, times symbols")
    tables: tuple[TablePart, ...] = Field((), description="Tables to join")
    catalogue: str = Field(description="Hash of the features to compute")
    signature: str = Field("", description="Hash of paths, sizes and times of the files to read")


def symbol_items(
    files: LakeFiles, symbol: str, life: Life, begin: pd.Timestamp, *, chunk_bars: int, warm_up_bars: int, catalogue: str
) -> list[WorkItem]:
    """Return the items of one symbol, one per stretch of `chunk_bars` that its life touches.

    Args:
        files: The market lake.
        symbol: The symbol.
        life: Its candle files and their spans.
        begin: First bar of the panel: tables are joined from there on, even where the symbol was listed later.
        chunk_bars: Length of a stretch.
        warm_up_bars: Bars to read before a stretch.
        catalogue: Hash of the features.
    """
    if not life:
        return []
    step, tables = parse_timeframe(files.timeframe), files.beside(symbol)
    first, last = _edges(life)
    items = []
    for name, start, stop in _stretches(first, last + step, chunk_bars * step):
        since = max(start - warm_up_bars * step, begin if tables else first)
        beside = [file for part in tables for file in files.within(part, *stamps_within(part, files.timeframe, since, stop))]
        items.append(
            WorkItem(
                path=f"{features_folder(files.timeframe, symbol)}/{name}",
                timeframe=files.timeframe,
                symbol=symbol,
                start=start,
                stop=stop,
                since=since,
                num_bars=int((stop - start) / step),
                tables=tuple(tables),
                catalogue=catalogue,
                signature=files.signature([*_files_within(life, since, stop), *beside], [str(since)]),
            )
        )
    return items


def market_items(files: LakeFiles, lives: Mapping[str, Life], *, warm_up_bars: int, catalogue: str) -> list[WorkItem]:
    """Return the items of the cross-section: the symbols of `lives`, in that order, by time."""
    whole = [entry for life in lives.values() for entry in life]
    if not whole:
        return []
    step, (first, last) = parse_timeframe(files.timeframe), _edges(whole)
    items = []
    for name, start, stop in _stretches(first, last + step, market_bars(len(lives)) * step):
        since = max(start - warm_up_bars * step, first)
        peers = _taking_part(lives, since, stop)
        items.append(
            WorkItem(
                path=f"{cross_section_folder(files.timeframe)}/{name}",
                timeframe=files.timeframe,
                peers=peers,
                start=start,
                stop=stop,
                since=since,
                num_bars=int((stop - start) / step) * len(peers),
                catalogue=catalogue,
                signature=files.signature(_files_within(whole, since, stop), peers),
            )
        )
    return items


def _taking_part(lives: Mapping[str, Life], since: pd.Timestamp, until: pd.Timestamp) -> tuple[str, ...]:
    """Return the symbols with bars in [since, until), in order, and the leader, which the features cannot do without."""
    leader = list(lives)[leader_of(list(lives))]
    return tuple(symbol for symbol, life in lives.items() if symbol == leader or _files_within(life, since, until))


def _edges(life: Life) -> tuple[pd.Timestamp, pd.Timestamp]:
    return min(first for _, first, _ in life), max(last for _, _, last in life)


def _files_within(life: Life, since: pd.Timestamp, until: pd.Timestamp) -> list[fs.FileInfo]:
    return [file for file, first, last in life if first < until and last >= since]


def market_bars(num_symbols: int) -> int:
    """Return a power of two of bars, so that the memory of an item does not grow with the number of symbols."""
    fewest, most = MARKET_BARS
    return max(fewest, min(most, 1 << (MARKET_CELLS // max(num_symbols, 1)).bit_length() - 1))


def _stretches(first: pd.Timestamp, end: pd.Timestamp, length: pd.Timedelta) -> Iterator[tuple[str, pd.Timestamp, pd.Timestamp]]:
    """Yield file name, start and stop of the stretches of [first, end), cut at whole multiples of `length` since 1970."""
    epoch = pd.Timestamp(0, tz="UTC")
    cut = epoch + (first - epoch) // length * length
    while cut < end:
        yield file_name(cut), max(cut, first), min(cut + length, end)
        cut += length
