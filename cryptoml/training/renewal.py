"""Teach a fitted ensemble its newest bars without letting it forget the old ones: one continual step of its members."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from cryptoml.data.splits import Span
from cryptoml.data.windows import chunk_spans
from cryptoml.errors import DataError
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.models.ensemble import Ensemble
from cryptoml.models.forecaster import Forecast, Forecaster
from cryptoml.training.chunks import Batch, ChunkLoader
from cryptoml.training.continual import ContinualLearner
from cryptoml.training.renewal_config import RenewalConfig
from cryptoml.training.tasks import forecast_loss

__all__ = ["RenewalConfig", "renew"]


class _Dense(nn.Module):
    """A forecaster whose call is its dense one, as continual learning sees chunks."""

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        self.forecaster = forecaster

    def forward(self, features: Tensor, mask: Tensor) -> Forecast:
        return self.forecaster.dense(features, mask)


def renew(
    ensemble: Ensemble,
    features: Float32[np.ndarray, "asset time feature"],
    targets: Targets,
    target_config: TargetConfig,
    *,
    old: Span,
    new: Span,
    config: RenewalConfig | None = None,
) -> Ensemble:
    """Return a copy of the ensemble whose members took continual steps on `new`, anchored to and replaying `old`.

    Members without weight stay as they are; weights and calibration are kept.

    Args:
        ensemble: The models that serve.
        features: Scaled, NaN where missing.
        targets: Labels of the same bars.
        target_config: What the targets were made with.
        old: Origins that the models know.
        new: Origins to learn.
        config: Sizes.

    Raises:
        DataError: A span is too short for one chunk, or a loss is not finite.
    """
    config = config or RenewalConfig()
    members = []
    for member, weight in zip(ensemble.members, ensemble.weights, strict=True):
        if weight > 0:
            chunk_bars = min(_chunk_bars(member, span, config) for span in (old, new))  # one shape, for the memory
            known, fresh = (_loader(features, targets, target_config, member, span, config, chunk_bars) for span in (old, new))
            member = _renewed(member, known, fresh, config)
        members.append(member)
    return replace(ensemble, members=members)


def _renewed(member: Forecaster, old: ChunkLoader, new: ChunkLoader, config: RenewalConfig) -> Forecaster:
    torch.manual_seed(config.seed)
    model = _Dense(deepcopy(member))
    loss = forecast_loss(member.config.quantiles)
    learner = ContinualLearner(
        model, memory_size=config.memory_size, importance_weight=config.importance_weight, seed=config.seed
    )
    learner.compute_fisher_information(_examples(old, config.memory_size or config.batch_size), loss, remember=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for epoch in range(config.epochs):
        for batch in new.iterate(epoch):
            learner.continual_train_step(*_pair(batch), optimizer, loss)
    return model.forecaster.eval()


def _examples(loader: ChunkLoader, most: int) -> Iterator[tuple[Any, Any]]:
    """Draw about `most` chunks in random order."""
    for number, batch in enumerate(loader):
        if number * loader.batch_size >= most:
            return
        yield _pair(batch)


def _pair(batch: Batch) -> tuple[Any, Any]:
    return (batch.features, batch.mask), (batch.targets, batch.origin_mask)


def _chunk_bars(member: Forecaster, span: Span, config: RenewalConfig) -> int:
    """Return the length of chunks that a span can hold."""
    lookback = member.config.lookback
    bars = span.stop - max(0, span.start - lookback + 1)
    if bars <= lookback:
        raise DataError(f"a continual step needs more than {lookback} bars, has {bars}")
    return min(max(config.chunk_bars, 2 * lookback), bars)


def _loader(
    features: np.ndarray,
    targets: Targets,
    target_config: TargetConfig,
    member: Forecaster,
    span: Span,
    config: RenewalConfig,
    chunk_bars: int,
) -> ChunkLoader:
    lookback = member.config.lookback
    start = max(0, span.start - lookback + 1)
    spans = chunk_spans(features.shape[1], chunk_bars, lookback, start=start, stop=span.stop)
    return ChunkLoader(
        features, targets, spans, batch_size=config.batch_size, target_config=target_config, shuffle=True, seed=config.seed
    )
