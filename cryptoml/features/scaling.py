"""Standardise features with parameters fitted on the training span alone."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cryptoml.errors import BundleError, ConfigError, DataError

__all__ = ["FeatureScaler", "ScalingConfig", "TimeSpan"]

TimeSpan = tuple[pd.Timestamp, pd.Timestamp]
"""Half-open interval [start, stop) of bar opens, UTC."""

_BLOCK = 16  # features sorted at a time
_NORMAL_IQR = 1.3489795003921634  # interquartile range of a standard normal


class ScalingConfig(BaseModel):
    """How features are brought to one scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["robust", "standard"] = Field(
        default="robust",
        description="robust: median and interquartile range (as a normal deviation); standard: mean and deviation",
    )
    clip: float = Field(default=8.0, gt=0, description="Largest absolute scaled value, in deviations")


class FeatureScaler:
    """Per-feature shift and scale, pooled over assets, fitted on one training span.

    Attributes:
        center: float32 `[feature]`.
        scale: float32 `[feature]`; zero marks a feature that was constant or absent in training: it becomes 0.
        span: The training span the parameters come from; None before `fit`.
    """

    def __init__(self, config: ScalingConfig | None = None) -> None:
        """Start unfitted."""
        self.config = config or ScalingConfig()
        self.center: NDArray[np.float32] = np.empty(0, np.float32)
        self.scale: NDArray[np.float32] = np.empty(0, np.float32)
        self.span: TimeSpan | None = None

    def fit(self, values: NDArray[np.float32], span: TimeSpan, timestamps: pd.DatetimeIndex) -> "FeatureScaler":
        """Fit on the bars of `values [asset, time, feature]` whose open lies in the half-open `span`; NaN is left out.

        Raises:
            DataError: The span holds no bar of `timestamps`, or the shapes disagree.
        """
        if values.ndim != 3 or values.shape[1] != len(timestamps):
            raise DataError(f"values must be [asset, time={len(timestamps)}, feature], was {values.shape}")
        start, stop = timestamps.searchsorted(span[0]), timestamps.searchsorted(span[1])
        if start >= stop:
            raise DataError(f"training span [{span[0]}, {span[1]}) must hold at least one bar, data is {_extent(timestamps)}")
        fitted = [
            self._fit_one(column)
            for first in range(0, values.shape[2], _BLOCK)
            for column in _sorted_columns(values[:, start:stop, first : first + _BLOCK])
        ]
        self.center, self.scale = np.array(fitted, dtype=np.float32).reshape(-1, 2).T.copy()
        self.span = span
        return self

    def _fit_one(self, ordered: NDArray[np.float32]) -> tuple[float, float]:
        """Return shift and scale of ascending values."""
        if ordered.size == 0 or ordered[0] == ordered[-1]:
            return (float(ordered[0]) if ordered.size else 0.0), 0.0
        if self.config.method == "robust":
            low, median, high = np.interp(np.array([0.25, 0.5, 0.75]) * (ordered.size - 1), np.arange(ordered.size), ordered)
            if high > low:
                return float(median), float(high - low) / _NORMAL_IQR
        return float(ordered.mean(dtype=np.float64)), float(ordered.std(dtype=np.float64))

    def transform(self, values: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Scale and clip `values [..., feature]`; NaN stays NaN, constant features become 0.

        Args:
            values: float32, last axis the features of `fit`.
            out: Where to write; `out=values` works in place and needs no second array.

        Raises:
            ConfigError: The scaler is not fitted, or the number of features differs.
        """
        if self.span is None or values.shape[-1] != len(self.center):
            raise ConfigError(f"values must have the {len(self.center)} features of fit on their last axis, was {values.shape}")
        out = np.empty_like(values) if out is None else out
        inverse = np.divide(1.0, self.scale, out=np.zeros_like(self.scale), where=self.scale > 0)
        np.subtract(values, self.center, out=out)
        np.multiply(out, inverse, out=out)
        return np.clip(out, -self.config.clip, self.config.clip, out=out)

    def check_disjoint(self, span: TimeSpan) -> None:
        """Refuse to serve a test span that overlaps the training span.

        Raises:
            DataError: The half-open spans meet.
            ConfigError: The scaler is not fitted.
        """
        if self.span is None:
            raise ConfigError("scaler must be fitted before its span is compared")
        if span[0] < self.span[1] and self.span[0] < span[1]:
            raise DataError(
                f"test span [{span[0]}, {span[1]}) must not overlap the scaler's training span [{self.span[0]}, {self.span[1]})"
            )

    def to_arrays(self) -> dict[str, NDArray]:
        """Return everything a bundle stores: `center`, `scale`, `clip`, `span_us` (microseconds since 1970, UTC)."""
        if self.span is None:
            raise ConfigError("scaler must be fitted before it is stored")
        stamps = [stamp.value // 1000 for stamp in self.span]
        return {
            "center": self.center,
            "scale": self.scale,
            "clip": np.array([self.config.clip], dtype=np.float64),
            "span_us": np.array(stamps, dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> "FeatureScaler":
        """Rebuild a fitted scaler from `to_arrays`.

        Raises:
            BundleError: An array is missing, or center and scale differ in length.
        """
        missing = [name for name in ("center", "scale", "clip", "span_us") if name not in arrays]
        if missing:
            raise BundleError(f"scaler arrays must hold {missing[0]}, were {sorted(arrays)}")
        if arrays["center"].shape != arrays["scale"].shape:
            raise BundleError(f"scaler center and scale must match, were {arrays['center'].shape}, {arrays['scale'].shape}")
        scaler = cls(ScalingConfig(clip=float(arrays["clip"][0])))
        scaler.center = np.asarray(arrays["center"], np.float32)
        scaler.scale = np.asarray(arrays["scale"], np.float32)
        start, stop = (pd.Timestamp(int(stamp), unit="us", tz="UTC") for stamp in arrays["span_us"])
        scaler.span = (start, stop)
        return scaler


def _sorted_columns(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield each feature of `[asset, time, feature]`, pooled over assets, ascending, without missing values."""
    columns = np.ascontiguousarray(values.reshape(-1, values.shape[-1]).T)
    columns.sort(axis=1)  # NaN last
    for column in columns:
        yield column[: np.searchsorted(column, np.inf)]


def _extent(timestamps: pd.DatetimeIndex) -> str:
    return f"[{timestamps[0]}, {timestamps[-1]}]" if len(timestamps) else "empty"
