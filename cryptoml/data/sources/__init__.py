"""Market data from files and frames, streaming, each table in its schema of `cryptoml.data.schema`."""

from cryptoml.data.sources.candles import RawCandles, candle_files, frame_candles, read_candle_file
from cryptoml.data.sources.file_names import FileName, has_readable_suffix, parse_file_name
from cryptoml.data.sources.funding import read_funding_file
from cryptoml.data.sources.onchain import PUBLICATION_DELAY, read_onchain_file
from cryptoml.data.sources.orderbook import read_orderbook_file
from cryptoml.data.sources.tables import TableRows
from cryptoml.data.sources.trades import read_trades_file
from cryptoml.data.sources.venues import read_venue_file, venue_candles

__all__ = [
    "PUBLICATION_DELAY",
    "FileName",
    "RawCandles",
    "TableRows",
    "candle_files",
    "frame_candles",
    "has_readable_suffix",
    "parse_file_name",
    "read_candle_file",
    "read_funding_file",
    "read_onchain_file",
    "read_orderbook_file",
    "read_trades_file",
    "read_venue_file",
    "venue_candles",
]
