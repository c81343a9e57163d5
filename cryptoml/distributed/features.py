"""Shard feature engineering over symbols and time with Ray Data.

A work item is a symbol and a range of its bars; a task cuts the bars with the warm-up that the longest lookback needs
and runs the plain `AdvancedFeatureEngineer.compute`. Features over the cross-section follow in a second pass over time
ranges. By the feature contract the result equals the plain one for any chunk size.
"""

from functools import partial

import numpy as np
import ray

from cryptoml.data.panel import Panel
from cryptoml.distributed.items import Row, map_items
from cryptoml.errors import DataError
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeatureConfig, FeaturePanel
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.market import market_from_panel

__all__ = ["build_features", "work_items"]

CHUNK_BARS = 50_000
MARKET_CHUNK_CELLS = 250_000

Item = Row


def work_items(panel: Panel, chunk_bars: int = CHUNK_BARS) -> list[Item]:
    """Return one item per symbol and stretch of its listed life, largest first, and one per stretch of the market."""
    items = []
    for row, symbol in enumerate(panel.symbols):
        listed = np.flatnonzero(panel.present[row])
        first, last = (int(listed[0]), int(listed[-1]) + 1) if len(listed) else (0, 0)
        items += [_item(symbol, row, start, min(start + chunk_bars, last)) for start in range(first, last, chunk_bars)]
    market_bars = max(MARKET_CHUNK_CELLS // panel.num_assets, 1_000)
    items += [_item("", -1, start, min(start + market_bars, panel.num_bars)) for start in range(0, panel.num_bars, market_bars)]
    return sorted(items, key=lambda item: item["start"] - item["stop"])


def _item(symbol: str, row: int, start: int, stop: int) -> Item:
    return {"symbol": symbol, "row": row, "start": start, "stop": stop}


def build_features(panel: Panel, config: FeatureConfig, *, chunk_bars: int = CHUNK_BARS) -> FeaturePanel:
    """Compute all features of a panel on the cluster.

    Raises:
        DataError: A work item failed; the message names the symbol and the first error.
    """
    engineer = AdvancedFeatureEngineer(config)
    shared, own = ray.put(panel), len(engineer.features)
    items = work_items(panel, chunk_bars)
    values = np.full((panel.num_assets, panel.num_bars, len(engineer.names)), np.nan, dtype=np.float32)
    left = {(item["row"], item["start"]): item for item in items}
    for result in map_items(partial(_compute, shared=[shared], config=config), items, "features"):
        if result["error"]:
            raise DataError(f"features of {_named(result)}: {result['error']}")
        bars = slice(result["start"], result["stop"])
        if result["row"] < 0:
            values[:, bars, own:] = result["values"]
        else:
            values[result["row"], bars, :own] = result["values"]
        del left[result["row"], result["start"]]
    if left:
        raise DataError(f"features of {_named(next(iter(left.values())))}: the process that computed them kept dying")
    return FeaturePanel(values, engineer.names, panel.symbols, panel.timestamps, panel.timeframe)


def _named(item: Item) -> str:
    return item["symbol"] or "the cross-section"


def _compute(item: Item, shared: list[ray.ObjectRef], config: FeatureConfig) -> Item:
    """Compute one work item; an error comes back as text so that the other items go on."""
    panel: Panel = ray.get(shared[0])
    try:
        values, error = _values(panel, item, AdvancedFeatureEngineer(config)), ""
    except Exception as failure:
        values, error = np.empty((0, 0), np.float32), f"{type(failure).__name__}: {failure}"
    return {**item, "values": values, "error": error}


def _values(panel: Panel, item: Item, engineer: AdvancedFeatureEngineer) -> np.ndarray:
    start, stop = item["start"], item["stop"]
    first = max(start - engineer.max_lookback + 1, 0)
    part = panel.slice_time(first, stop)
    if item["row"] < 0:
        return engineer.compute_market(market_from_panel(part))[:, start - first :]
    return engineer.compute(bars_from_panel(part, item["symbol"]))[start - first :]
