"""What a feature lake holds: the share of missing values per feature, and per category."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cryptoml.data.storage import open_storage
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store.reading import feature_tables

__all__ = ["category_table", "describe_features"]


def describe_features(root: str | Path, engineer: AdvancedFeatureEngineer) -> pd.DataFrame:
    """Return one row per feature of the catalogue, read file by file.

    Args:
        root: Feature lake, a local folder or `s3://`.
        engineer: The features that it was built with.

    Returns:
        Columns name, category, lookback (bars), symbols (how many have any value), missing (share of the existing bars of
        all symbols without a value), missing_where_any (the same share over those symbols).
    """
    rows: Counter[tuple[str, str]] = Counter()
    filled: Counter[tuple[str, str]] = Counter()
    for symbol, table in feature_tables(open_storage(root), engineer.config.timeframe):
        for name in table.schema.names:
            rows[name, symbol] += table.num_rows
            filled[name, symbol] += _filled(table[name])
    counts = pd.DataFrame({"rows": pd.Series(rows, dtype=float), "filled": pd.Series(filled, dtype=float)})
    counts = counts.assign(symbols=counts["filled"] > 0, known=counts["rows"].where(counts["filled"] > 0, 0.0))
    sums = counts.groupby(level=0).sum().reindex(engineer.names)
    frame = engineer.catalogue()[["name", "category", "lookback"]].set_index("name")
    frame["symbols"] = sums["symbols"].fillna(0).astype(int)
    frame["missing"] = 1.0 - sums["filled"] / sums["rows"]
    frame["missing_where_any"] = 1.0 - sums["filled"] / sums["known"].where(sums["known"] > 0)
    return frame.reset_index()


def category_table(features: pd.DataFrame) -> pd.DataFrame:
    """Return one row per category of `describe_features`: how many features, how many with values, shares of missing values."""
    grouped = features.groupby("category", sort=False)
    table = grouped["missing"].agg(["size", "median", "max"]).rename(columns={"size": "features", "max": "worst"})
    table.insert(1, "with_values", grouped["symbols"].agg(lambda symbols: int((symbols > 0).sum())))
    return table.reset_index()


def _filled(column: pa.ChunkedArray) -> int:
    return len(column) - int(pc.sum(pc.is_nan(column)).as_py() or 0)
