"""What a feature is: a name, its inputs, a lookback in bars, and a function of the bars in that lookback.

The value at bar t is a function of rows (t - lookback, t] and nothing else. No look-ahead, exact sharding with
`lookback` warm-up rows, and equality of live and batch values follow from it. `Feature.__call__` keeps the part that no
formula should care about: NaN until `lookback` rows exist, NaN while a row of the lookback misses an input, NaN in
place of anything infinite.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import ConfigError, DataError
from cryptoml.features.bars import Bars

__all__ = [
    "CATEGORIES",
    "BarSource",
    "Bars",
    "Feature",
    "FeatureFamily",
    "Span",
    "category_of",
    "days",
    "families_of",
    "feature",
    "hours",
]

FloatArray = NDArray[np.float64]
Formula = TypeVar("Formula", bound=Callable[..., Any])

CATEGORIES = (
    "price",
    "volume",
    "volatility",
    "momentum",
    "pattern",
    "regime",
    "time",
    "microstructure",
    "onchain",
    "cross_exchange",
    "cross_section",
)


def category_of(name: str) -> str:
    """Return the category that a feature's name begins with; `other` where it is none of `CATEGORIES`."""
    return max((category for category in CATEGORIES if name.startswith(f"{category}_")), key=len, default="other")


@dataclass(frozen=True)
class Span:
    """A window in wall-clock time, turned into bars of whatever timeframe is used (at least `at_least`)."""

    length: pd.Timedelta
    label: str
    at_least: int = 1

    def bars(self, timeframe: str) -> int:
        """Return the window in bars, rounded to the nearest whole bar."""
        return max(self.at_least, round(self.length / parse_timeframe(timeframe)))


def hours(count: float, at_least: int = 1) -> Span:
    """Return a window of `count` hours, labelled `24h`; of `at_least` bars where the timeframe is too coarse."""
    return Span(pd.Timedelta(hours=count), f"{count:g}h", at_least)


def days(count: float, at_least: int = 1) -> Span:
    """Return a window of `count` days, labelled `20d`; of `at_least` bars where the timeframe is too coarse."""
    return Span(pd.Timedelta(days=count), f"{count:g}d", at_least)


class BarSource(Protocol):
    """What a feature needs of the object that it is computed on: one symbol's bars, or a market's."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether each bar exists."""

    def has(self, name: str) -> bool:
        """Tell whether a column has any value."""

    def run_length(self, inputs: tuple[str, ...]) -> NDArray[np.int64]:
        """Return consecutive rows up to each with all inputs present."""


@dataclass(frozen=True)
class Feature:
    """One declared feature.

    Attributes:
        name: `category_feature_param`.
        category: One of `CATEGORIES`.
        inputs: Columns that must be present in every row of the lookback.
        lookback: Bars that the value depends on, the current one included.
        function: `function(bars, *arguments) -> [time]`, window-local, free to return NaN or inf.
        arguments: Window lengths in bars, or other constants.
        formula: The formula in words and symbols.
        source: Where it was published.
        input_run: Rows up to each bar in which the inputs must be present, where that is fewer than the lookback: a
            joined column may itself reach back to candles of earlier bars. Zero for the whole lookback.
    """

    name: str
    category: str
    inputs: tuple[str, ...]
    lookback: int
    function: Callable[..., FloatArray] = field(compare=False)
    arguments: tuple[Any, ...] = ()
    formula: str = ""
    source: str = ""
    input_run: int = 0

    def __call__(self, bars: "BarSource") -> FloatArray:
        """Return a new array `[time]`, or `[asset, time]` of a market: NaN where the contract defines no value, never inf."""
        if not all(bars.has(name) for name in self.inputs):
            return np.full(bars.present.shape, np.nan)
        with np.errstate(all="ignore"):
            values = self.formula_values(bars)
        defined = bars.run_length(self.inputs) >= (self.input_run or self.lookback)
        defined &= bars.run_length(("close",)) >= self.lookback if self.input_run else bars.present
        defined &= np.isfinite(values)
        return np.where(defined, values, np.nan)

    def formula_values(self, bars: "BarSource") -> FloatArray:
        """Return what the formula gives, without the contract.

        Raises:
            DataError: It is not one number per bar.
        """
        result = self.function(bars, *self.arguments)
        try:
            values = np.asarray(result, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.name} must return numbers, returned {type(result).__name__}: {error}") from error
        if values.shape != bars.present.shape:
            raise DataError(f"{self.name} must return one value per bar, {bars.present.shape}, returned {values.shape}")
        return values


@dataclass(frozen=True)
class FeatureFamily:
    """One formula with the parameters it is used with; `expand` turns them into features of a timeframe."""

    name: str
    category: str
    function: Callable[..., FloatArray]
    lookback: int | Callable[..., int]
    inputs: tuple[str, ...]
    params: tuple[Any, ...]
    formula: str
    source: str
    input_run: int = 0

    def expand(self, timeframe: str, owner: object | None = None) -> list[Feature]:
        """Return one feature per parameter; a method is bound to its `owner`.

        Raises:
            ConfigError: A lookback is no whole number of bars, or below one.
        """
        function = self.function if owner is None else partial(self.function, owner)
        return [self._feature(function, param, timeframe) for param in self.params or ((),)]

    def _feature(self, function: Callable[..., FloatArray], param: Any, timeframe: str) -> Feature:
        parts = param if isinstance(param, tuple) else (param,)
        arguments = tuple(part.bars(timeframe) if isinstance(part, Span) else part for part in parts)
        labels = [part.label if isinstance(part, Span) else f"{part:g}" for part in parts]
        name = "_".join([self.category, self.name, *labels])
        lookback = _whole_bars(self.lookback(*arguments) if callable(self.lookback) else self.lookback, f"lookback of {name}")
        return Feature(name, self.category, self.inputs, lookback, function, arguments, self.formula, self.source, self.input_run)


def feature(
    category: str,
    *,
    lookback: int | Callable[..., int],
    inputs: Iterable[str] = ("close",),
    params: Iterable[Any] = (),
    source: str = "",
    name: str = "",
    input_run: int = 0,
) -> Callable[[Formula], Formula]:
    """Declare a formula `function(bars, *param) -> [time]` as features; also for methods of an engineer's subclass.

    Args:
        category: One of `CATEGORIES`; first part of the features' names.
        lookback: Bars of history, the current one included; a callable receives the parameters in bars.
        inputs: Columns that the formula reads; a single one may be given by name.
        params: One entry per feature: a number, a `Span`, or a tuple of them passed as several arguments.
        source: Where the formula was published.
        name: Middle part of the features' names; the function's own name by default.
        input_run: Rows in which joined inputs must be present where fewer than the lookback; see `Feature`.

    The first paragraph of the docstring is the formula shown in the catalogue.

    Raises:
        ConfigError: The category is unknown, or a fixed lookback no whole number of bars, or below one.
    """
    if category not in CATEGORIES:
        raise ConfigError(f"category must be one of {', '.join(CATEGORIES)}, was {category!r}")
    if not callable(lookback):
        _whole_bars(lookback, "lookback")

    read = (inputs,) if isinstance(inputs, str) else tuple(inputs)

    def declare(function: Formula) -> Formula:
        formula = " ".join((function.__doc__ or "").split("\n\n")[0].split())
        family = FeatureFamily(
            name or function.__name__, category, function, lookback, read, tuple(params), formula, source, input_run
        )
        function.family = family  # type: ignore[attr-defined]
        return function

    return declare


def _whole_bars(lookback: Any, what: str) -> int:
    if isinstance(lookback, bool) or not isinstance(lookback, int | np.integer) or lookback < 1:
        raise ConfigError(f"{what} must be a whole number of at least 1 bar, was {lookback!r}")
    return int(lookback)


def families_of(namespace: Mapping[str, Any]) -> list[FeatureFamily]:
    """Return the families declared in a module's or class's namespace, in the order of declaration."""
    return [value.family for value in namespace.values() if isinstance(getattr(value, "family", None), FeatureFamily)]
