"""Compute every feature of a symbol, or of a panel, under the contract.

Long series are worked through in chunks with `max_lookback` warm-up bars: the derived series of a chunk stay in the
processor's cache and peak memory stays near the float32 output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import ConfigError, DataError
from cryptoml.features import (
    calendar,
    cross_exchange,
    cross_section,
    microstructure,
    momentum,
    onchain,
    patterns,
    price,
    regime,
    volatility,
    volume,
)
from cryptoml.features.contract import CATEGORIES, Bars, Feature, FeatureFamily, families_of
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.live import LiveFeatures
from cryptoml.features.live_plan import LivePlan
from cryptoml.features.market import Market, market_from_panel
from cryptoml.features.public_inputs import panel_from_inputs

__all__ = ["AdvancedFeatureEngineer", "FeatureConfig", "FeaturePanel", "build_features"]

FloatArray = NDArray[np.float32]
CHUNK_BARS = 32_768
MODULES = (
    price,
    volume,
    volatility,
    momentum,
    patterns,
    regime,
    calendar,
    onchain,
    microstructure,
    cross_exchange,
    cross_section,
)
PANEL_CATEGORY = "cross_section"
KEYS_OF_OTHERS = (
    *("input_size", "hidden_size", "num_attention_heads", "num_layers", "dropout"),
    *("batch_size", "learning_rate", "num_epochs", "patience", "grad_clip"),
    *("min_confidence", "position_size", "stop_loss_pct", "take_profit_pct"),
    *("inner_lr", "num_inner_steps", "memory_size", "importance_weight"),
)
"""Keys of a bot's one flat configuration that models, training and trading read; see `cryptoml.live.settings`."""


class FeatureConfig(BaseModel):
    """Which features to compute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeframe: str = Field(default="1h", description="Length of a bar; windows given in hours or days follow it")
    categories: tuple[str, ...] | None = Field(default=None, description="Categories to compute; all when None")
    include: tuple[str, ...] | None = Field(
        default=None, description="Names to compute, with * for any text, such as 'momentum_rsi_*'; all when None"
    )

    @field_validator("timeframe")
    @classmethod
    def _known_timeframe(cls, value: str) -> str:
        try:
            parse_timeframe(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("categories")
    @classmethod
    def _known_categories(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        unknown = sorted(set(value or ()) - set(CATEGORIES))
        if unknown:
            raise ValueError(f"categories must be among {', '.join(CATEGORIES)}, was {unknown[0]!r}")
        return value


@dataclass(frozen=True)
class FeaturePanel:
    """Features of several symbols on one grid.

    Attributes:
        values: float32 `[asset, time, feature]`; NaN is missing, so the mask is `~isnan(values)`. Never infinite.
        names: Names of the last axis.
        symbols: Names of the first axis.
        timestamps: `[time]` opens of the bars, UTC.
        timeframe: Length of a bar.
    """

    values: FloatArray
    names: tuple[str, ...]
    symbols: tuple[str, ...]
    timestamps: pd.DatetimeIndex
    timeframe: str


class AdvancedFeatureEngineer:
    """The features of a timeframe, with the functions that compute them.

    A subclass adds its own by `@feature(...)` on methods `method(self, bars, ...)`.

    Attributes:
        config: The settings.
        features: Features of one symbol, in the order of the output.
        panel_features: Features over all symbols of a panel, which follow them in a `FeaturePanel`.
    """

    def __init__(self, config: FeatureConfig | Mapping[str, Any] | None = None) -> None:
        """Expand every declared feature for the configured timeframe.

        Args:
            config: The settings, or a mapping of them, in which a bot's keys for models, training and trading may stand too.

        Raises:
            ConfigError: A setting is unknown or out of range, or two features have one name.
        """
        self.config = _checked(config)
        declared = [family for module in MODULES for family in families_of(vars(module))]
        found = [one for family in declared for one in family.expand(self.config.timeframe)]
        known = {name for one in found for name in one.inputs} | set(CANDLE_FIELDS)
        found += [_with_known_inputs(one, known) for one in self._own_features()]
        chosen = _chosen(found, self.config)
        self.features: tuple[Feature, ...] = tuple(one for one in chosen if one.category != PANEL_CATEGORY)
        self.panel_features: tuple[Feature, ...] = tuple(one for one in chosen if one.category == PANEL_CATEGORY)
        duplicated = pd.Index(self.names)[pd.Index(self.names).duplicated()]
        if len(duplicated):
            raise ConfigError(f"feature names must differ from each other, {duplicated[0]} is declared twice")

    def _own_features(self) -> list[Feature]:
        return [one for family in _own_families(type(self)) for one in family.expand(self.config.timeframe, self)]

    @property
    def symbol_names(self) -> tuple[str, ...]:
        """Names of the features of one symbol: the columns of `extract_all_features` and `compute`."""
        return tuple(one.name for one in self.features)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all features, those over the panel last: the last axis of a `FeaturePanel`."""
        return tuple(one.name for one in (*self.features, *self.panel_features))

    @property
    def max_lookback(self) -> int:
        """Bars of history that the hungriest feature needs, the current one included."""
        return max((one.lookback for one in (*self.features, *self.panel_features)), default=1)

    def catalogue(self) -> pd.DataFrame:
        """Return one row per feature: name, category, lookback (bars), inputs, formula, source."""
        rows = [
            (one.name, one.category, one.lookback, ", ".join(one.inputs), one.formula, one.source)
            for one in (*self.features, *self.panel_features)
        ]
        return pd.DataFrame(rows, columns=["name", "category", "lookback", "inputs", "formula", "source"])

    def compute(self, bars: Bars, out: FloatArray | None = None) -> FloatArray:
        """Return the features of one symbol, float32 `[time, feature]` in the order of `symbol_names`.

        Args:
            bars: The symbol's bars, in the configured timeframe.
            out: Where to write; allocated when None.
        """
        _check_timeframe(bars.timeframe, self.config.timeframe)
        out = np.empty((len(bars), len(self.features)), np.float32) if out is None else out
        _fill_chunks(bars, self.features, out, max(CHUNK_BARS, self.max_lookback))
        return out

    def compute_market(self, market: Market, out: FloatArray | None = None) -> FloatArray:
        """Return the features over all symbols, float32 `[asset, time, feature]` in the order of `panel_features`."""
        _check_timeframe(market.timeframe, self.config.timeframe)
        num_assets, num_bars = market.present.shape
        out = np.empty((num_assets, num_bars, len(self.panel_features)), np.float32) if out is None else out
        _fill_chunks(market, self.panel_features, out, max(CHUNK_BARS // max(num_assets, 1), 8_192))
        return out

    def newest_market(self, market: Market, num_bars: int) -> FloatArray:
        """Return the last `num_bars` bars of `compute_market`, bit for bit; no feature reads further back than it must."""
        out = np.empty((len(market.present), num_bars, len(self.panel_features)), np.float32)
        of_lookback: dict[int, list[int]] = {}
        for place, one in enumerate(self.panel_features):
            of_lookback.setdefault(one.lookback, []).append(place)
        for lookback, places in of_lookback.items():
            features = tuple(self.panel_features[place] for place in places)
            start = max(market.present.shape[1] - num_bars - lookback + 1, 0)
            out[..., places] = _newest(market.slice(start, market.present.shape[1]), features, num_bars)
        return out

    def extract_all_features(
        self,
        ohlcv: pd.DataFrame,
        onchain: Any = None,
        orderbook: Any = None,
        cross_exchange: Any = None,
        *,
        trades: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Return every feature of one symbol, aligned to `ohlcv` (its index is kept), float32, one column per feature.

        Args:
            ohlcv: Candles with a UTC DatetimeIndex or a `timestamp` column (bar opens), ascending without duplicates.
            onchain: An `OnChainMetrics` reading, applied to the last bar, or a history with `available_at`.
            orderbook: `{"bids": [[price, size], ...], "asks": ...}`, applied to the last bar, or a history.
            cross_exchange: Venue to price (last bar) or to a candle history; `spot` and `future` legs, `funding`.
            trades: Single trades: `available_at`, `size`, `is_buyer_taker`.

        Raises:
            DataError: A column is missing or not numeric, stamps are naive, unsorted or duplicated, a book is empty or
                crossed; the message names the column and the first offending row.
        """
        panel, rows = panel_from_inputs(ohlcv, self.config.timeframe, onchain, orderbook, cross_exchange, trades)
        values = self.compute(bars_from_panel(panel, panel.symbols[0]))[rows]
        return pd.DataFrame(values, index=ohlcv.index, columns=list(self.symbol_names))

    def live(
        self,
        ohlcv: pd.DataFrame,
        onchain: Any = None,
        orderbook: Any = None,
        cross_exchange: Any = None,
        *,
        trades: pd.DataFrame | None = None,
    ) -> LiveFeatures:
        """Return a buffer of the last `max_lookback` bars whose `update(bar)` gives the next row of features.

        Takes and refuses what `extract_all_features` does, whose rows its own equal. Features over a panel are not in it.
        """
        panel, _ = panel_from_inputs(ohlcv, self.config.timeframe, onchain, orderbook, cross_exchange, trades)
        return self.live_from(panel)

    def live_from(self, panel: Panel) -> LiveFeatures:
        """Return the same from a panel of one symbol, with its tables."""
        _check_timeframe(panel.timeframe, self.config.timeframe)
        return LiveFeatures(self._live_plan, panel)

    @cached_property
    def _live_plan(self) -> LivePlan:
        return LivePlan(self.features, self.config.timeframe)


def build_features(
    panel: Panel, engineer: AdvancedFeatureEngineer, *, on_symbol: Callable[[str], object] | None = None
) -> FeaturePanel:
    """Compute all features of a panel: one pass per symbol, then one over the cross-section.

    Args:
        panel: Candles and tables.
        engineer: The features; its timeframe must be the panel's.
        on_symbol: Called with each symbol when it is done.
    """
    _check_timeframe(panel.timeframe, engineer.config.timeframe)
    own = len(engineer.features)
    values = np.empty((len(panel.symbols), len(panel.timestamps), len(engineer.names)), np.float32)
    for row, symbol in enumerate(panel.symbols):
        engineer.compute(bars_from_panel(panel, symbol), values[row, :, :own])
        if on_symbol is not None:
            on_symbol(symbol)
    if engineer.panel_features:
        engineer.compute_market(market_from_panel(panel), values[:, :, own:])
    return FeaturePanel(values, engineer.names, panel.symbols, panel.timestamps, panel.timeframe)


def _fill_chunks(bars: Bars | Market, features: tuple[Feature, ...], out: FloatArray, chunk_bars: int) -> None:
    """Write `out[..., time, feature]` chunk by chunk, each with the longest lookback as warm-up."""
    warm_up = max((one.lookback for one in features), default=1) - 1
    num_bars = out.shape[-2]
    for start in range(0, num_bars, chunk_bars):
        stop, first = min(start + chunk_bars, num_bars), max(start - warm_up, 0)
        chunk = bars.slice(first, stop)
        block = np.empty((len(features), *out.shape[:-2], stop - start), np.float32)
        for index, one in enumerate(features):
            with np.errstate(over="ignore", under="ignore"):
                block[index] = one(chunk)[..., start - first :]
        block[np.isinf(block)] = np.nan  # beyond float32
        out[..., start:stop, :] = np.moveaxis(block, 0, -1)


def _newest(market: Market, features: tuple[Feature, ...], num_bars: int) -> FloatArray:
    """Return the last bars of some features, `[asset, bar, feature]`."""
    out = np.empty((*market.present.shape, len(features)), np.float32)
    _fill_chunks(market, features, out, out.shape[1])
    return out[:, -num_bars:]


def _checked(config: FeatureConfig | Mapping[str, Any] | None) -> FeatureConfig:
    if isinstance(config, FeatureConfig):
        return config
    if not isinstance(config or {}, Mapping):
        raise ConfigError(f"config must be a FeatureConfig or a mapping of its fields, was {config!r}")
    try:
        return FeatureConfig(**{key: value for key, value in (config or {}).items() if key not in KEYS_OF_OTHERS})
    except ValidationError as error:
        first = error.errors()[0]
        field, rule = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] == "value_error" else f", was {first['input']!r}"
        raise ConfigError(f"{field}: {rule}{given}") from error


def _chosen(found: list[Feature], config: FeatureConfig) -> list[Feature]:
    """Return the features of the wanted categories whose name matches a wanted pattern."""
    chosen = [one for one in found if one.category in (config.categories or CATEGORIES)]
    if config.include is None:
        return chosen
    idle = [pattern for pattern in config.include if not any(fnmatchcase(one.name, pattern) for one in found)]
    if idle:
        raise ConfigError(f"include must name features of the catalogue, {idle[0]!r} matches none")
    return [one for one in chosen if any(fnmatchcase(one.name, pattern) for pattern in config.include)]


def _own_families(kind: type) -> list[FeatureFamily]:
    """Return the families declared on an engineer's subclasses, base classes first; an override replaces its base."""
    found: dict[str, FeatureFamily] = {}
    for ancestor in reversed(kind.__mro__):
        found |= {family.name: family for family in families_of(vars(ancestor))}
    return list(found.values())


def _with_known_inputs(one: Feature, known: set[str]) -> Feature:
    unknown = sorted(set(one.inputs) - known)
    if unknown:
        raise ConfigError(f"inputs of {one.name} must be among {', '.join(sorted(known))}, was {unknown[0]!r}")
    return one


def _check_timeframe(actual: str, wanted: str) -> None:
    if parse_timeframe(actual) != parse_timeframe(wanted):
        raise DataError(f"timeframe must be {wanted!r} as configured for the features, was {actual!r}")
