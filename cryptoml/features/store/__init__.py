"""The feature lake: features of a market lake as partitioned Parquet files, built item by item and read back.

    features/timeframe=1h/symbol=BTCUSDT/20210101T000000Z.parquet   features of one symbol, a stretch of bars each
    features/timeframe=1h/_manifest.json, _status.csv               what was built from what; one status row per file
    cross_section/timeframe=1h/20210101T000000Z.parquet             features over all symbols, a row group per symbol

Stretches begin at whole multiples of their length since 1970, so new bars touch the last file only. Each file carries
the fingerprints of its input and its catalogue and appears in one atomic step.
"""

from cryptoml.features.store.build import FeatureLakeReport, build_feature_lake
from cryptoml.features.store.compute import run_item
from cryptoml.features.store.manifest import ItemStatus
from cryptoml.features.store.reading import read_feature_panel, read_features
from cryptoml.features.store.summary import category_table, describe_features
from cryptoml.features.store.work_items import WorkItem

__all__ = [
    "FeatureLakeReport",
    "ItemStatus",
    "WorkItem",
    "build_feature_lake",
    "category_table",
    "describe_features",
    "read_feature_panel",
    "read_features",
    "run_item",
]
