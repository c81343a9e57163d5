"""Windows and chunks over one array: views, never copies.

A window is what one forecast reads: `length` bars that end at the origin. A chunk is what one dense training pass
reads: consecutive bars, of which the later ones are origins with at least `lookback` bars of context. Copying every
window would take `length` times the memory of the array.
"""

from dataclasses import dataclass

import numpy as np

from cryptoml.errors import ConfigError

__all__ = ["ChunkSpan", "chunk_spans", "windows"]


def windows(values: np.ndarray, length: int) -> np.ndarray:
    """View `[asset, time, ...]` as `[asset, origin, length, ...]`.

    Window k holds the bars `[k, k + length)`, so its origin (its last bar) is bar `k + length - 1`. The result is
    read-only and shares the memory of `values`.

    Raises:
        ConfigError: `length` is below 1 or exceeds the number of bars.
    """
    num_bars = values.shape[1]
    if not 1 <= length <= num_bars:
        raise ConfigError(f"window length must be from 1 to the {num_bars} bars of the array, was {length}")
    view = np.lib.stride_tricks.sliding_window_view(values, length, axis=1)
    return np.moveaxis(view, -1, 2)


@dataclass(frozen=True)
class ChunkSpan:
    """A stretch of bars for one dense pass.

    Attributes:
        start: First bar of the chunk.
        stop: One past its last bar.
        first_origin: Origins `[first_origin, stop)` carry loss; earlier bars are context only.
    """

    start: int
    stop: int
    first_origin: int

    @property
    def bars(self) -> slice:
        """Slice of the time axis that the chunk reads."""
        return slice(self.start, self.stop)

    @property
    def num_origins(self) -> int:
        """Number of origins that carry loss."""
        return self.stop - self.first_origin


def chunk_spans(num_bars: int, chunk_bars: int, lookback: int, *, start: int = 0, stop: int | None = None) -> list[ChunkSpan]:
    """Cut the bars `[start, stop)` into chunks that cover each origin from `start + lookback - 1` on exactly once.

    All chunks are `chunk_bars` long, so that they stack into batches: the last one reaches back over bars whose origins
    an earlier chunk has covered. Only a span shorter than `chunk_bars` gives one shorter chunk.

    Args:
        num_bars: Bars of the whole array.
        chunk_bars: Bars that one chunk reads, context included.
        lookback: Bars of context that an origin needs, its own bar included.
        start: First bar that may be read.
        stop: One past the last origin; the end of the array by default.

    Raises:
        ConfigError: The span lies outside the array, is too short for one origin, or a chunk is shorter than `lookback`.
    """
    stop = num_bars if stop is None else stop
    if not 1 <= lookback <= chunk_bars:
        raise ConfigError(f"lookback must be from 1 to chunk_bars = {chunk_bars}, was {lookback}")
    if not 0 <= start <= stop <= num_bars:
        raise ConfigError(f"chunk span must lie inside [0, {num_bars}), was [{start}, {stop})")
    if stop - start < lookback:
        raise ConfigError(f"chunk span [{start}, {stop}) has {stop - start} bars, one origin needs lookback = {lookback}")
    spans = []
    for first_origin in range(start + lookback - 1, stop, chunk_bars - lookback + 1):
        end = min(first_origin - lookback + 1 + chunk_bars, stop)
        spans.append(ChunkSpan(max(start, end - chunk_bars), end, first_origin))
    return spans
