"""Dense chunks: batches of consecutive bars, gathered from one shared array as they are needed.

A chunk of T bars trains a causal forecaster at up to T forecast origins in one pass. Only the batch itself is ever
copied; the feature array stays where it is (process memory, a memory map, or a device).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor

from cryptoml.data.windows import ChunkSpan
from cryptoml.errors import DataError
from cryptoml.features.targets import TargetConfig, Targets

__all__ = ["Batch", "ChunkLoader", "normalised_labels", "shifted_spans"]


class Batch(NamedTuple):
    """One training step's data.

    Attributes:
        features: Scaled features, 0 where missing.
        mask: True where a feature is present.
        targets: `direction`, `regime` int64 (-1 missing); `volatility`, `position_size` float32 (NaN missing), all
            `[batch asset time]`; `returns [batch asset time horizon]`. Returns and volatility are in sigmas.
        origin_mask: Forecast origins that carry loss.
        spans: Bars `[start, stop)` that each chunk covers before padding.
    """

    features: Float[Tensor, "batch asset time feature"]
    mask: Bool[Tensor, "batch asset time feature"]
    targets: dict[str, Shaped[Tensor, "batch asset time ..."]]
    origin_mask: Bool[Tensor, "batch asset time"]
    spans: tuple[ChunkSpan, ...]

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to a device."""
        targets = {name: values.to(device, non_blocking=True) for name, values in self.targets.items()}
        moved = (self.features.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))
        return self._replace(
            features=moved[0], mask=moved[1], targets=targets, origin_mask=self.origin_mask.to(device, non_blocking=True)
        )


def shifted_spans(spans: Sequence[ChunkSpan], phase: int) -> list[ChunkSpan]:
    """Cut the same forecast origins at other places: every run of adjoining spans is cut `phase` origins earlier.

    Each origin is still covered exactly once and keeps at least the context it had. Gaps between runs (purged spans)
    stay gaps. A phase of 0 gives the spans back.
    """
    if phase == 0:
        return list(spans)
    shifted: list[ChunkSpan] = []
    for run in _adjoining_runs(spans):
        first, last = run[0], run[-1]
        length, stride = max(span.stop - span.start for span in run), max(span.num_origins for span in run)
        context = first.first_origin - first.start
        edges = [first.first_origin, *range(first.first_origin + stride - phase % stride, last.stop, stride), last.stop]
        shifted += [ChunkSpan(max(first.start, min(begin - context, end - length)), end, begin) for begin, end in pairwise(edges)]
    return shifted


def _adjoining_runs(spans: Sequence[ChunkSpan]) -> list[list[ChunkSpan]]:
    runs: list[list[ChunkSpan]] = []
    for span in sorted(spans, key=lambda span: span.first_origin):
        if runs and runs[-1][-1].stop == span.first_origin:
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


class ChunkLoader:
    """Iterate batches of dense chunks; the order depends on (seed, epoch) alone, so a run can be resumed anywhere.

    Args:
        features: Scaled features `[asset time feature]`, NaN = missing. Shared, never written.
        targets: Labels of the same assets and bars.
        spans: Chunks to visit; see `cryptoml.data.windows.chunk_spans`.
        batch_size: Chunks per batch.
        target_config: What the targets were made with; its horizons normalise them.
        origin_mask: Origins `[asset time]` that may carry loss; all by default.
        shuffle: Visit the chunks in a new order each epoch.
        random_phase: Cut the chunks at another place each epoch, an augmentation for training.
        seed: Seed of order and phase.
        symbols: Names of the assets, for messages.
        timestamps: Bar opens, for messages.
        device: Where to hold the arrays; a device copy makes loading free of transfers.
        shard: (rank, ranks) of data-parallel workers. The ranks' batches number i together are batch i of one worker with
            `ranks` times the batch size. A rank for which no chunk is left gets one without an origin that carries loss.

    Raises:
        DataError: Shapes disagree, or there is no span, or one lies outside the array.
    """

    def __init__(
        self,
        features: Float32[np.ndarray, "asset time feature"],
        targets: Targets,
        spans: Sequence[ChunkSpan],
        *,
        batch_size: int,
        target_config: TargetConfig,
        origin_mask: Bool[np.ndarray, "asset time"] | None = None,
        shuffle: bool = False,
        random_phase: bool = False,
        seed: int = 0,
        symbols: Sequence[str] | None = None,
        timestamps: pd.DatetimeIndex | Sequence[object] | None = None,
        device: torch.device | str = "cpu",
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        _check(features, targets, spans, batch_size, target_config.horizons, shard)
        grid = features.shape[:2]
        self.features = _shared(features, device)
        self.origin_mask = _shared(np.ones(grid, bool) if origin_mask is None else origin_mask, device)
        self.labels = {
            name: _shared(getattr(targets, name), device)
            for name in ("sigma", "log_return", "direction", "volatility", "regime", "position_size")
        }
        self.spans, self.batch_size = tuple(spans), batch_size
        self.chunk_bars = max(span.stop - span.start for span in spans)
        self.target_config = target_config
        self.shuffle, self.random_phase, self.seed, self.epoch = shuffle, random_phase, seed, 0
        self.symbols, self.timestamps, self.shard = symbols, timestamps, shard

    def __len__(self) -> int:
        """Batches in the current epoch; a random phase can add one chunk per run of spans."""
        return -(-len(self._epoch_spans(self.epoch)) // (self.batch_size * self.shard[1]))

    def __iter__(self) -> Iterator[Batch]:
        yield from self.iterate(self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and phase of the next iteration."""
        self.epoch = epoch

    def iterate(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches from number `skip` on, without gathering those before it."""
        spans, (rank, ranks) = self._epoch_spans(epoch), self.shard
        size = self.batch_size * ranks
        for first in range(skip * size, len(spans), size):
            own = spans[first : first + size][rank::ranks]
            yield self.gather(own) if own else _idle(self.gather(spans[first : first + 1]))

    def gather(self, spans: Sequence[ChunkSpan]) -> Batch:
        """Copy chunks out of the arrays; those shorter than `chunk_bars` are padded at the end and masked.

        Raises:
            DataError: A feature is infinite.
        """
        features = self._cut(self.features, spans, float("nan"))
        mask = ~features.isnan()
        features.nan_to_num_(nan=0.0, posinf=float("inf"), neginf=float("-inf"))
        batch = Batch(features, mask, self._targets(spans), self._origins(spans), tuple(spans))
        if torch.stack(features.aminmax()).isinf().any():
            raise DataError(f"features must be finite, or NaN where missing; found an infinite one in {self.describe(batch)}")
        return batch

    def describe(self, batch: Batch, where: Bool[Tensor, "batch asset time"] | None = None) -> str:
        """Name bars, their times and symbols for an error message.

        Args:
            batch: What `gather` gave.
            where: What to name where no value is infinite; infinite values come first. Everything by default.
        """
        parts = [batch.features, batch.targets["volatility"], batch.targets["position_size"], batch.targets["returns"]]
        infinite = torch.stack([part.isinf() if part.ndim == 3 else part.isinf().any(dim=-1) for part in parts]).any(dim=0)
        what = "infinite values of" if infinite.any() else "symbols"
        chosen = infinite if infinite.any() else where
        if chosen is None or not chosen.any():
            lengths = torch.tensor([span.stop - span.start for span in batch.spans], device=infinite.device)
            chosen = (torch.arange(self.chunk_bars, device=infinite.device) < lengths[:, None])[:, None].expand_as(infinite)
        names = self.symbols if self.symbols is not None else [f"asset {index}" for index in range(chosen.shape[1])]
        guilty = [name for name, bad in zip(names, chosen.any(dim=2).any(dim=0).tolist(), strict=True) if bad]
        return f"{self._bars(batch, chosen.any(dim=1))}, {what} {_listed(guilty)}"

    def _bars(self, batch: Batch, chosen: Bool[Tensor, "batch time"]) -> str:
        ranges = []
        for span, row in zip(batch.spans, chosen, strict=True):
            if row.any():
                bars = span.start + row.nonzero()
                start, stop = int(bars.min()), int(bars.max())
                times = f" ({self.timestamps[start]} to {self.timestamps[stop]})" if self.timestamps is not None else ""
                ranges.append(f"{start} to {stop}{times}")
        return f"bars {_listed(sorted(ranges, key=lambda text: int(text.split()[0])))}"

    def _epoch_spans(self, epoch: int) -> list[ChunkSpan]:
        generator = np.random.default_rng((self.seed, epoch))
        stride = max(span.num_origins for span in self.spans)
        spans = shifted_spans(self.spans, int(generator.integers(stride)) if self.random_phase else 0)
        order = generator.permutation(len(spans)) if self.shuffle else np.arange(len(spans))
        return [spans[index] for index in order]

    def _cut(self, values: Shaped[Tensor, "asset time ..."], spans: Sequence[ChunkSpan], missing: float) -> Tensor:
        cut = values.new_full((len(spans), values.shape[0], self.chunk_bars, *values.shape[2:]), missing)
        for row, span in zip(cut, spans, strict=True):
            row[:, : span.stop - span.start] = values[:, span.start : span.stop]
        return cut

    def _origins(self, spans: Sequence[ChunkSpan]) -> Bool[Tensor, "batch asset time"]:
        origins = self._cut(self.origin_mask, spans, False)
        for row, span in zip(origins, spans, strict=True):
            row[:, : span.first_origin - span.start] = False
        return origins

    def _targets(self, spans: Sequence[ChunkSpan]) -> dict[str, Tensor]:
        cut = {name: self._cut(values, spans, float("nan")) for name, values in self.labels.items() if values.is_floating_point()}
        classes = {name: self._cut(self.labels[name], spans, -1) for name in ("direction", "regime")}
        return normalised_labels(cut | classes, self.target_config)


def normalised_labels(targets: Mapping[str, Shaped[Tensor, "..."]], config: TargetConfig) -> dict[str, Tensor]:
    """Return labels as `Batch.targets` holds them: returns and volatility in units of the origin's sigma.

    Args:
        targets: The fields of `Targets`, any leading axes.
        config: What they were made with.
    """
    sigma = targets["sigma"].masked_fill(targets["sigma"] <= 0, float("nan"))
    root_bars = torch.tensor(config.horizons, dtype=sigma.dtype, device=sigma.device).sqrt()
    return {
        "direction": targets["direction"].long(),
        "volatility": targets["volatility"] / (sigma * config.primary_horizon**0.5),
        "regime": targets["regime"].long(),
        "position_size": targets["position_size"],
        "returns": targets["log_return"] / (sigma.unsqueeze(-1) * root_bars),
    }


def _idle(batch: Batch) -> Batch:
    """Keep a rank in step with the others although nothing of the batch is its own."""
    return batch._replace(origin_mask=torch.zeros_like(batch.origin_mask))


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _shared(array: Shaped[np.ndarray, "..."], device: torch.device | str) -> Tensor:
    """View an array as a tensor; read-only ones (memory maps, object stores) too, as nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


def _check(
    features: np.ndarray,
    targets: Targets,
    spans: Sequence[ChunkSpan],
    batch_size: int,
    horizons: Sequence[int],
    shard: tuple[int, int],
) -> None:
    if features.ndim != 3:
        raise DataError(f"features must be [asset, time, feature], has shape {features.shape}")
    if targets.sigma.shape != features.shape[:2]:
        raise DataError(f"targets must cover the features' [asset, time] {features.shape[:2]}, cover {targets.sigma.shape}")
    if targets.log_return.shape[-1] != len(horizons):
        raise DataError(f"horizons must name the {targets.log_return.shape[-1]} horizons of the targets, were {tuple(horizons)}")
    if not 0 <= shard[0] < shard[1]:
        raise DataError(f"shard must be (rank, ranks) with 0 <= rank < ranks, was {shard}")
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, was {batch_size}")
    if not spans:
        raise DataError("spans must hold at least one chunk, was empty: too few bars for lookback and labels")
    outside = [span for span in spans if not 0 <= span.start <= span.first_origin < span.stop <= features.shape[1]]
    if outside:
        raise DataError(f"spans must lie within the {features.shape[1]} bars, found {outside[0]}")
