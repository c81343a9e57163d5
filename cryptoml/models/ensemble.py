"""Several forecasters as one: convex combination, calibration, and the way back from normalised to real units."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Integer
from torch import Tensor

from cryptoml.models.calibration import conformal_shifts, fit_temperature, prudent_weights, tempered
from cryptoml.models.diversity import error_correlation
from cryptoml.models.forecaster import Forecast, Forecaster, ForecasterConfig

__all__ = ["Adapter", "Calibration", "Ensemble", "Predictions", "fit_ensemble", "predict_member"]

_DENSE_BLOCKS = 8  # origins of a block of the dense pass, as a multiple of the context
_WINDOW_NUMBERS = 4_000_000  # numbers in one chunk of unfolded windows; bounds memory to a few hundred MB


@dataclass(frozen=True)
class Predictions:
    """Forecasts at every bar of a panel, float32; NaN where an asset is absent or has too little history.

    Attributes:
        probabilities: `[asset, time, 3]` of DOWN, SIDEWAYS, UP.
        volatility: `[asset, time]` over the primary horizon.
        regime: `[asset, time, 4]` probabilities that the market is BULL, BEAR, RANGING, HIGH_VOL.
        position_size: `[asset, time]` in [0, 1].
        quantiles: `[asset, time, horizon, quantile]`, log returns, sorted along the last axis.
    """

    probabilities: np.ndarray
    volatility: np.ndarray
    regime: np.ndarray
    position_size: np.ndarray
    quantiles: np.ndarray

    def on_bars(self, bars: slice) -> "Predictions":
        """Return the forecasts of some bars, as views."""
        return Predictions(**{part.name: getattr(self, part.name)[:, bars] for part in fields(self)})

    def of_assets(self, rows: Sequence[int]) -> "Predictions":
        """Return the forecasts of some assets, as copies."""
        return Predictions(**{part.name: getattr(self, part.name)[list(rows)] for part in fields(self)})


@dataclass(frozen=True)
class Calibration:
    """Corrections learned on validation data.

    Attributes:
        temperature: divisor of the direction's log probabilities.
        quantile_shift: `[horizon, quantile]` added to normalised quantiles, or None for no shift.
    """

    temperature: float = 1.0
    quantile_shift: np.ndarray | None = None


class Adapter(Protocol):
    """What moves normalised predictions towards a regime, such as `cryptoml.models.adapter.ForecastAdapter`."""

    @property
    def adapted(self) -> tuple[float, ...]:
        """The few numbers that say how far."""

    def move(self, predictions: Predictions) -> Predictions:
        """Return the moved predictions."""


@dataclass(frozen=True)
class Ensemble:
    """Forecasters that are averaged by weight.

    A member that reads some features only is absent at a bar where all of those are missing; the others share its weight
    there.

    Attributes:
        members: forecasters that agree on the feature panel, assets, horizons and quantiles.
        weights: at least 0, summing to 1; equal if empty.
        calibration: applied after averaging.
        error_correlation: `[member, member]` on validation data, or None where it is not known; for reports.
        adapter: moves what is combined and calibrated towards a regime, where there is one.

    Raises:
        ValueError: no member, members that disagree, or weights that do not fit.
    """

    members: Sequence[Forecaster]
    weights: tuple[float, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)
    error_correlation: np.ndarray | None = None
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("members must hold at least one forecaster, was empty")
        _check_agreement([member.config for member in self.members])
        if not self.weights:
            object.__setattr__(self, "weights", (1.0 / len(self.members),) * len(self.members))
        if len(self.weights) != len(self.members) or min(self.weights) < 0 or abs(sum(self.weights) - 1.0) > 1e-6:
            raise ValueError(f"weights must be {len(self.members)} numbers of at least 0 that sum to 1, was {self.weights}")
        shift, expected = self.calibration.quantile_shift, (len(self.config.horizons), len(self.config.quantiles))
        if shift is not None and shift.shape != expected:
            raise ValueError(f"quantile_shift must have shape {list(expected)}, was {list(shift.shape)}")
        found, pairs = self.error_correlation, (len(self.members),) * 2
        if found is not None and found.shape != pairs:
            raise ValueError(f"error_correlation must have shape {list(pairs)}, was {list(found.shape)}")

    @property
    def config(self) -> ForecasterConfig:
        """Config of the first member; all members share its features, assets, horizons and quantiles."""
        return self.members[0].config

    def predict(
        self,
        features: Float32[np.ndarray, "asset time feature"],
        sigma: Float[np.ndarray, "asset time"],
        context: int,
        *,
        chunk_origins: int | None = None,
    ) -> Predictions:
        """Forecast from every bar that has `context` bars of history, in chunks of bounded memory.

        Args:
            features: scaled; NaN where missing.
            sigma: volatility per bar, known at each bar; NaN gives NaN volatility and quantiles.
            context: bars that each forecast reads.
            chunk_origins: bars forecast from per chunk, chosen by memory if None.

        Raises:
            ValueError: shapes that do not fit the members.
        """
        if np.shape(sigma) != np.shape(features)[:2]:
            raise ValueError(f"sigma must have shape {list(np.shape(features)[:2])}, was {list(np.shape(sigma))}")
        normalised = [
            predict_member(member, features, context, chunk_origins=chunk_origins) if weight > 0 else None
            for member, weight in zip(self.members, self.weights, strict=True)
        ]
        return self.combine(normalised, sigma)

    def rehearse(self, features: Float32[np.ndarray, "asset time feature"], context: int) -> Predictions:
        """Forecast as `predict` does, but in normalised units and by the dense pass: many times as fast over long stretches.

        A forecast reads at least `context` bars of history, and up to as many more as its block holds; where the past has
        no limit in a member's encoder, that makes small differences.
        """
        normalised = [
            _dense_member(member, features, context) if weight > 0 else None
            for member, weight in zip(self.members, self.weights, strict=True)
        ]
        return self._calibrated(normalised)

    def combine(self, normalised: Sequence["Predictions | None"], sigma: Float[np.ndarray, "asset time"]) -> Predictions:
        """Average, calibrate and denormalise what `predict_member` gave for each member.

        Args:
            normalised: one per member; may be None where the member's weight is 0.
            sigma: volatility per bar on the same bars.
        """
        return _denormalise(self._calibrated(normalised), np.asarray(sigma), self.config)

    def _calibrated(self, normalised: Sequence["Predictions | None"]) -> Predictions:
        parts = [(part, weight) for part, weight in zip(normalised, self.weights, strict=True) if weight > 0 and part is not None]
        found = _calibrate(_combine([part for part, _ in parts], [weight for _, weight in parts]), self.calibration)
        return found if self.adapter is None else self.adapter.move(found)


def fit_ensemble(
    members: Sequence[Forecaster],
    normalised: Sequence[Predictions],
    direction: Integer[np.ndarray, "asset time"],
    normalised_return: Float[np.ndarray, "asset time horizon"],
    *,
    block_bars: int = 48,
) -> Ensemble:
    """Choose weights by log loss of direction, then temperature and quantile shifts of the combination.

    Weights are equal unless others are better beyond noise.

    Args:
        members: the forecasters.
        normalised: what `predict_member` gives for each of them on validation bars.
        direction: labels, -1 where missing.
        normalised_return: log return / (sigma * sqrt(horizon)), NaN where missing.
        block_bars: bars over which labels overlap, at least the longest horizon.

    Raises:
        ValueError: no labelled bar that all members forecast; the message names those that forecast none.
    """
    together = (direction >= 0) & np.all([_present(part) for part in normalised], axis=0)
    if not together.any():
        silent = [index for index, part in enumerate(normalised) if not (_present(part) & (direction >= 0)).any()]
        raise ValueError(f"members must forecast labelled bars together to be weighed, found none; without any: {silent}")
    stacked = np.stack([part.probabilities for part in normalised])
    weights = prudent_weights(stacked, direction, block_bars)
    combined = _combine(normalised, list(weights))
    known = (direction >= 0) & _present(combined)
    shift = conformal_shifts(combined.quantiles[known], normalised_return[known], members[0].config.quantiles)
    temperature = fit_temperature(combined.probabilities[known], direction[known])
    return Ensemble(
        members,
        tuple(float(weight) for weight in weights),
        Calibration(temperature, shift),
        error_correlation(stacked[:, together], direction[together]),
    )


def predict_member(
    member: Forecaster,
    features: Float32[np.ndarray, "asset time feature"],
    context: int,
    *,
    chunk_origins: int | None = None,
) -> Predictions:
    """Forecast with one member, in its normalised units, as `Ensemble.predict` does for all.

    Raises:
        ValueError: shapes that do not fit the member.
    """
    size = chunk_origins or _chunk_origins(member.config, context)
    return _in_blocks(member, features, context, size, lambda window, mask: member.windowed(window, context, mask))


def _dense_member(member: Forecaster, features: Float32[np.ndarray, "asset time feature"], context: int) -> Predictions:
    def forecast(window: Tensor, mask: Tensor) -> Forecast:
        dense = member.dense(window[None], mask[None])
        return Forecast(*(part[0, :, context - 1 :] for part in dense))

    return _in_blocks(member, features, context, _DENSE_BLOCKS * context, forecast)


def _in_blocks(
    member: Forecaster,
    features: Float32[np.ndarray, "asset time feature"],
    context: int,
    size: int,
    forecast: Callable[[Tensor, Tensor], Forecast],
) -> Predictions:
    """Forecast `size` origins at a time, each block from the `context - 1` bars before it on."""
    predictions = _empty(member.config, features)
    device = next(member.parameters()).device
    with _evaluating(member), torch.inference_mode():
        for start in range(context - 1, features.shape[1], size):
            stop = min(start + size, features.shape[1])
            window = torch.tensor(features[:, start - context + 1 : stop], dtype=torch.float32, device=device)
            _store(predictions, forecast(window, ~torch.isnan(window)), slice(start, stop))
    columns = member.config.columns
    absent = np.isnan(features if columns is None else features[..., list(columns)]).all(axis=-1)
    for part in fields(predictions):
        getattr(predictions, part.name)[absent] = np.nan
    return predictions


def _store(predictions: Predictions, forecast: Forecast, bars: slice) -> None:
    predictions.probabilities[:, bars] = forecast.direction.float().softmax(-1).cpu().numpy()
    predictions.volatility[:, bars] = forecast.volatility[..., 0].float().cpu().numpy()
    predictions.regime[:, bars] = forecast.regime.float().softmax(-1).cpu().numpy()
    predictions.position_size[:, bars] = forecast.position_size[..., 0].float().cpu().numpy()
    predictions.quantiles[:, bars] = forecast.quantiles.float().cpu().numpy()


def _combine(predictions: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Average every output by weight over the members that forecast; quantiles too, which keeps them sorted."""
    present = [_present(part) for part in predictions]
    shares = [np.float32(weight) * here for here, weight in zip(present, weights, strict=True)]
    total = np.sum(shares, axis=0, dtype=np.float32)
    total = np.where(total > 0.0, total, np.float32(np.nan))

    def average(name: str) -> np.ndarray:
        combined = np.float32(0.0)
        for part, here, share in zip(predictions, present, shares, strict=True):
            values = getattr(part, name)
            tail = (..., *[None] * (values.ndim - 2))
            combined = combined + np.where(here[tail], values, np.float32(0.0)) * (share / total)[tail]
        return np.asarray(combined)

    return Predictions(**{part.name: average(part.name) for part in fields(Predictions)})


def _present(predictions: Predictions) -> Bool[np.ndarray, "asset time"]:
    return np.isfinite(predictions.probabilities[..., 0])


def _calibrate(predictions: Predictions, calibration: Calibration) -> Predictions:
    quantiles = predictions.quantiles
    if calibration.quantile_shift is not None:
        quantiles = np.sort(quantiles + calibration.quantile_shift.astype(np.float32), axis=-1)
    probabilities = tempered(predictions.probabilities, calibration.temperature).astype(np.float32)
    return replace(predictions, probabilities=probabilities, quantiles=quantiles)


def _denormalise(predictions: Predictions, sigma: np.ndarray, config: ForecasterConfig) -> Predictions:
    scale = sigma.astype(np.float32)
    roots = np.sqrt(np.asarray(config.horizons, dtype=np.float32))
    return replace(
        predictions,
        volatility=predictions.volatility * scale * np.float32(np.sqrt(config.volatility_horizon)),
        quantiles=predictions.quantiles * (scale[..., None] * roots)[..., None],
    )


def _empty(config: ForecasterConfig, features: np.ndarray) -> Predictions:
    if features.ndim != 3 or features.shape[::2] != (config.num_assets, config.num_features):
        raise ValueError(
            f"features must have shape [{config.num_assets}, time, {config.num_features}], was {list(features.shape)}"
        )
    shape = features.shape[:2]

    def missing(*tail: int) -> np.ndarray:
        return np.full((*shape, *tail), np.nan, dtype=np.float32)

    quantiles = missing(len(config.horizons), len(config.quantiles))
    return Predictions(missing(3), missing(), missing(4), missing(), quantiles)


def _chunk_origins(config: ForecasterConfig, context: int) -> int:
    return max(32, _WINDOW_NUMBERS // (config.num_assets * context * config.hidden_size))


def _check_agreement(configs: Sequence[ForecasterConfig]) -> None:
    for name in ("num_features", "num_assets", "horizons", "quantiles", "volatility_horizon"):
        found = [getattr(config, name) for config in configs]
        if any(value != found[0] for value in found):
            raise ValueError(f"members must agree on {name}, had {found}")


@contextmanager
def _evaluating(model: Forecaster) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
