"""What a feature lake holds: the share of missing values per feature, and per category."""

from collections import Counter
from pathlib import Path

import numpy as np
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
        all symbols without a value).
    """
    rows: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    owners: dict[str, set[str]] = {}
    for symbol, table in feature_tables(open_storage(root), engineer.config.timeframe):
        for name in table.schema.names:
            count = _filled(table[name])
            rows[name] += table.num_rows
            filled[name] += count
            if count:
                owners.setdefault(name, set()).add(symbol)
    frame = engineer.catalogue()[["name", "category", "lookback"]]
    missing = [1.0 - filled[name] / rows[name] if rows[name] else np.nan for name in frame["name"]]
    return frame.assign(symbols=[len(owners.get(name, ())) for name in frame["name"]], missing=missing)


def category_table(features: pd.DataFrame) -> pd.DataFrame:
    """Return one row per category of `describe_features`: how many features, how many with values, shares of missing values."""
    grouped = features.groupby("category", sort=False)
    table = grouped["missing"].agg(["size", "median", "max"]).rename(columns={"size": "features", "max": "worst"})
    table.insert(1, "with_values", grouped["symbols"].agg(lambda symbols: int((symbols > 0).sum())))
    return table.reset_index()


def _filled(column: pa.ChunkedArray) -> int:
    return len(column) - int(pc.sum(pc.is_nan(column)).as_py() or 0)
