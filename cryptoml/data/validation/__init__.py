"""What is wrong with market data: bad rows to quarantine with a reason, the rest counted in a health summary."""

from cryptoml.data.validation.candles import CandleCheck, check_candles, merge_checks
from cryptoml.data.validation.health import FileError, HealthSummary, SymbolHealth
from cryptoml.data.validation.quarantine import QUARANTINE_COLUMNS, REASONS, empty_quarantine, quarantine_rows, to_numbers
from cryptoml.data.validation.timestamps import infer_timeframe, stamp_column, to_utc

__all__ = [
    "QUARANTINE_COLUMNS",
    "REASONS",
    "CandleCheck",
    "FileError",
    "HealthSummary",
    "SymbolHealth",
    "check_candles",
    "empty_quarantine",
    "infer_timeframe",
    "merge_checks",
    "quarantine_rows",
    "stamp_column",
    "to_numbers",
    "to_utc",
]
