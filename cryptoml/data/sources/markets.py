"""Which market the rows of a file belong to."""

from collections.abc import Iterator

import pandas as pd

from cryptoml.data.schema import normalise_symbol
from cryptoml.data.sources.file_names import FileName
from cryptoml.errors import ConfigError, DataError

__all__ = ["split_by_market"]


def split_by_market(frame: pd.DataFrame, symbol: str | None, named: FileName, source: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each market and its rows: by `symbol` if given, else by the column `symbol`, else by the file's name.

    Args:
        frame: Rows with a column `row` and perhaps a column `symbol`.
        symbol: Market of all rows.
        named: What the file's name says.
        source: File or frame, for messages.

    Raises:
        DataError: None of the three names a market.
    """
    if symbol is None and "symbol" in frame:
        for value, rows in frame.groupby("symbol", sort=False, dropna=False):
            yield _market(value, source, rows), rows.reset_index(drop=True)
        return
    name = symbol or named.symbol
    if name is None:
        raise DataError(f"{source}: symbol is missing; name the file after it (BTCUSDT-1h.csv), or add a column 'symbol'")
    yield _market(name, source, frame), frame


def _market(value: object, source: str, rows: pd.DataFrame) -> str:
    try:
        return normalise_symbol(str(value))
    except ConfigError as error:
        raise DataError(f"{source}: row {rows['row'].iloc[0]}, column 'symbol': {error}") from error
