"""Few-shot tasks of a market, for meta-learning: one symbol in one regime period, some early bars and some later ones.

Shape legend: task, shot = forecast origins in time order, asset, time = bars of one window, feature.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Shaped
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cryptoml.data.windows import ChunkSpan
from cryptoml.errors import DataError
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.training.chunks import Batch, ChunkLoader
from cryptoml.training.examples import LossFunction, map_tensors
from cryptoml.training.losses import multi_task_losses

__all__ = ["MarketTask", "MarketTaskSampler", "RegimePeriod", "TaskBatch", "TaskConfig", "forecast_loss", "regime_periods"]


class TaskConfig(BaseModel):
    """Size of a market task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    context_bars: int = Field(64, ge=1, description="bars of each window, its origin last")
    support_shots: int = Field(10, ge=1, description="windows to adapt on")
    query_shots: int = Field(10, ge=1, description="later windows to judge the adaptation by")
    max_gap_bars: int = Field(6, ge=0, description="bars of another regime that a period may bridge")


class RegimePeriod(NamedTuple):
    """Bars `[start, stop)` over which one asset stays in one regime; the first and last bar are in it."""

    asset: int
    regime: int
    start: int
    stop: int


class MarketTask(NamedTuple):
    """One draw: origins of support and query, as bars in time order, within a regime period of one asset."""

    period: RegimePeriod
    support: tuple[int, ...]
    query: tuple[int, ...]


class TaskBatch(NamedTuple):
    """Tasks as `MetaLearningMAML.outer_step` takes them.

    x is (features, mask), both `[task shot asset time feature]`; y is (labels at each origin `[task shot asset ...]`, the
    labels that carry loss `[task shot asset]`: those of the task's own asset).
    """

    support_x: tuple[Tensor, Tensor]
    support_y: tuple[dict[str, Tensor], Tensor]
    query_x: tuple[Tensor, Tensor]
    query_y: tuple[dict[str, Tensor], Tensor]


def regime_periods(regime: Int[np.ndarray, "asset time"], start: int, stop: int, max_gap_bars: int = 0) -> list[RegimePeriod]:
    """Cut the bars `[start, stop)` of every asset into periods of one regime.

    A period joins stretches of one regime that lie at most `max_gap_bars` bars apart; bars between them that belong to
    another regime, or to none (-1), are inside the period without being of it.
    """
    inside = regime[:, start:stop]
    codes = np.unique(inside[inside >= 0]).tolist()
    return [
        RegimePeriod(asset, code, start + first, start + last)
        for asset, labels in enumerate(inside)
        for code in codes
        for first, last in _stretches(np.flatnonzero(labels == code), max_gap_bars)
    ]


def _stretches(bars: Int[np.ndarray, " bar"], max_gap_bars: int) -> list[tuple[int, int]]:
    """Half-open stretches of ascending bars that are nowhere more than `max_gap_bars` apart."""
    parts = np.split(bars, np.flatnonzero(np.diff(bars) > max_gap_bars + 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


class MarketTaskSampler:
    """Draw (symbol, regime period) tasks from one span of bars, and gather their windows.

    Within a task all origins are of the period's regime; support comes first, and the labels of its last origin end before
    the first query origin. No window and no label reads a bar outside the span, so a training span keeps the sampler away
    from validation and test.

    Args:
        features: Scaled features `[asset time feature]`, NaN = missing. Shared, never written.
        targets: Labels of the same assets and bars.
        span: Bars `[start, stop)` that tasks may read.
        target_config: What the targets were made with.
        config: Size of a task.
        origin_mask: Origins `[asset time]` that may be drawn; all with a regime by default.
        seed: Seed of the draws.
        device: Where to hold the arrays.

    Raises:
        DataError: The span lies outside the bars, or no regime period is long enough for a task.
    """

    def __init__(
        self,
        features: Float32[np.ndarray, "asset time feature"],
        targets: Targets,
        span: tuple[int, int],
        target_config: TargetConfig,
        config: TaskConfig | None = None,
        *,
        origin_mask: Bool[np.ndarray, "asset time"] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.span, self.label_bars = config or TaskConfig(), span, targets.label_bars
        start, stop = span
        if not 0 <= start < stop <= targets.regime.shape[1]:
            raise DataError(f"span must lie within the {targets.regime.shape[1]} bars, was {span}")
        first, last = start + self.config.context_bars - 1, max(stop - self.label_bars, start)
        usable = np.zeros(targets.regime.shape, dtype=bool)
        usable[:, first:last] = True if origin_mask is None else origin_mask[:, first:last]
        regime = np.where(usable, targets.regime, -1)
        self.periods = self._long_enough(regime, regime_periods(regime, start, stop, self.config.max_gap_bars))
        if not self.periods:
            need = self.config.support_shots + self.label_bars + self.config.query_shots
            raise DataError(f"span must hold a regime period of about {need} bars for one task, bars {span} hold none")
        window = ChunkSpan(start, start + self.config.context_bars, start + self.config.context_bars - 1)
        self.loader = ChunkLoader(features, targets, [window], batch_size=1, target_config=target_config, device=device)
        self.random = np.random.default_rng(seed)

    def draw(self, tasks: int) -> list[MarketTask]:
        """Draw tasks: each a random regime, a random period of it, and random early and late origins within that.

        Regimes are equally likely, so that rare ones, often the short trends, are learned too.

        Raises:
            ValueError: `tasks` is below 1.
        """
        if tasks < 1:
            raise ValueError(f"tasks must be at least 1, was {tasks}")
        regimes = self.random.choice(sorted(self.periods), size=tasks).tolist()
        return [self._task(*self.periods[regime][self.random.integers(len(self.periods[regime]))]) for regime in regimes]

    def gather(self, tasks: Sequence[MarketTask]) -> TaskBatch:
        """Copy the windows and labels of some tasks."""
        support = self._examples([task.support for task in tasks], tasks)
        return TaskBatch(*support, *self._examples([task.query for task in tasks], tasks))

    def sample(self, tasks: int) -> TaskBatch:
        """Draw and gather."""
        return self.gather(self.draw(tasks))

    def _long_enough(
        self, regime: Int[np.ndarray, "asset time"], periods: Sequence[RegimePeriod]
    ) -> dict[int, list[tuple[RegimePeriod, Int[np.ndarray, " origin"]]]]:
        """Periods that hold a task, each with its origins, by regime."""
        kept: dict[int, list[tuple[RegimePeriod, Int[np.ndarray, " origin"]]]] = {}
        for period in periods:
            inside = regime[period.asset, period.start : period.stop] == period.regime
            origins = period.start + np.flatnonzero(inside)
            if len(self._cuts(origins)):
                kept.setdefault(period.regime, []).append((period, origins))
        return kept

    def _cuts(self, origins: Int[np.ndarray, " origin"]) -> Int[np.ndarray, " cut"]:
        """First query candidate for each place where support may begin, as indices of `origins`."""
        shots = self.config.support_shots
        if len(origins) < shots + self.config.query_shots:
            return np.zeros(0, dtype=np.int64)
        cuts = np.searchsorted(origins, origins[shots - 1 :] + self.label_bars, side="right")
        return cuts[cuts + self.config.query_shots <= len(origins)]

    def _task(self, period: RegimePeriod, origins: Int[np.ndarray, " origin"]) -> MarketTask:
        cuts = self._cuts(origins)
        begin = int(self.random.integers(len(cuts)))
        later = int(self.random.integers(cuts[begin], len(origins) - self.config.query_shots + 1))
        support = origins[begin : begin + self.config.support_shots]
        return MarketTask(period, tuple(support.tolist()), tuple(origins[later : later + self.config.query_shots].tolist()))

    def _examples(self, origins: Sequence[Sequence[int]], tasks: Sequence[MarketTask]) -> tuple[tuple, tuple]:
        bars, shots = self.config.context_bars, len(origins[0])
        spans = [ChunkSpan(origin - bars + 1, origin + 1, origin) for shot in origins for origin in shot]
        batch = self.loader.gather(spans)
        features, mask, labels, carried = (_by_task(part, len(tasks)) for part in _at_origins(batch))
        own = torch.zeros_like(carried)
        for row, task in zip(own, tasks, strict=True):
            row[:, task.period.asset] = True
        assert own.shape[:2] == (len(tasks), shots)
        return (features, mask), (labels, carried & own)


def _at_origins(batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
    """Whole windows of the inputs, and the labels of their last bar."""
    labels = {name: values[:, :, -1] for name, values in batch.targets.items()}
    return batch.features, batch.mask, labels, batch.origin_mask[:, :, -1]


def _by_task(part: Any, tasks: int) -> Any:
    return map_tensors(lambda values: values.unflatten(0, (tasks, -1)), part)


def forecast_loss(quantiles: Sequence[float] = (0.1, 0.5, 0.9)) -> LossFunction:
    """Loss of a forecaster on a task: the sum of `multi_task_losses` over y = (labels, the labels that carry loss)."""

    def loss(forecast: Any, y: tuple[Mapping[str, Shaped[Tensor, "..."]], Tensor]) -> Tensor:
        return torch.stack(list(multi_task_losses(forecast, *y, quantiles).values())).sum()

    return loss
