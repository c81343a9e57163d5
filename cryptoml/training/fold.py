"""What one walk-forward fold needs around the fits: scaling before, calibration and forecasts after."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cryptoml.data.schema import parse_timeframe
from cryptoml.data.splits import Fold, walk_forward
from cryptoml.errors import DataError
from cryptoml.features.engineer import FeaturePanel
from cryptoml.features.scaling import FeatureScaler, ScalingConfig
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.models.ensemble import Ensemble, Predictions, fit_ensemble, predict_member
from cryptoml.models.forecaster import Forecaster
from cryptoml.training.member import FoldData

__all__ = ["ScaledFold", "calibrated", "forecast_member", "forecast_test", "inner_folds", "scale_fold"]


@dataclass(frozen=True, eq=False)
class ScaledFold:
    """A fold's data and the scaler that was fitted on its training span."""

    data: FoldData
    scaler: FeatureScaler


def scale_fold(
    features: FeaturePanel, targets: Targets, fold: Fold, targets_config: TargetConfig, config: ScalingConfig
) -> ScaledFold:
    """Scale the features of all bars by what the training span knows."""
    stamps = features.timestamps
    scaler = FeatureScaler(config).fit(features.values, (stamps[fold.train.start], stamps[fold.train.stop]), stamps)
    scaler.check_disjoint((stamps[fold.test.start], stamps[-1] + parse_timeframe(features.timeframe)))
    values = scaler.transform(features.values)
    data = FoldData(values, targets, fold, targets_config, features.symbols, features.names, features.timestamps)
    return ScaledFold(data, scaler)


def inner_folds(
    features: FeaturePanel,
    targets: Targets,
    fold: Fold,
    targets_config: TargetConfig,
    config: ScalingConfig,
    *,
    num_folds: int,
    test_fraction: float,
    validation_fraction: float = 0.15,
) -> list[FoldData]:
    """Cut a fold's training span into folds of its own, for choosing between models: a walk-forward inside.

    The spans are purged and embargoed as those of the fold itself. The arrays hold the training span alone, each fold's
    up to the end of its test, and each is scaled by what its own training span knows.

    Args:
        features: Of all bars, not scaled.
        targets: Labels of all bars.
        fold: Its training span is cut.
        targets_config: What the targets were made with.
        config: Of the scaling.
        num_folds: Inner tests, of equal length.
        test_fraction: Share of the training span that they cover, at its end.
        validation_fraction: Share of the bars before the inner tests that validate.

    Raises:
        ConfigError: The training span is too short.
    """
    span, label_bars = fold.train, targets_config.horizons[-1]
    later = fold.validation if len(fold.validation) else fold.test
    test_start = round(len(span) * (1 - test_fraction))
    folds = walk_forward(
        len(span),
        test_start=test_start,
        label_bars=label_bars,
        embargo_bars=max(0, later.start - span.stop - label_bars),
        validation_bars=max(1, round(validation_fraction * test_start)),
        num_folds=num_folds,
    )
    cuts = [slice(span.start, span.start + inner.test.stop) for inner in folds]
    return [
        scale_fold(_cut(features, bars), targets.on_bars(bars), inner, targets_config, config).data
        for inner, bars in zip(folds, cuts, strict=True)
    ]


def _cut(features: FeaturePanel, bars: slice) -> FeaturePanel:
    return replace(features, values=features.values[:, bars], timestamps=features.timestamps[bars])


def forecast_member(member: Forecaster, data: FoldData, lookback: int) -> Predictions:
    """Forecast with one member from every bar of the validation and the test span and those between, normalised.

    Each forecast reads exactly `lookback` bars of history. The first bar of the result is the validation span's first.
    """
    start, stop = data.fold.validation.start, data.fold.test.stop
    first = max(start - lookback + 1, 0)
    return predict_member(member, data.features[:, first:stop], lookback).on_bars(slice(start - first, None))


def calibrated(members: Sequence[Forecaster], forecasts: Sequence[Predictions], data: FoldData) -> Ensemble:
    """Weigh and calibrate members on the validation span.

    Args:
        members: The forecasters.
        forecasts: What `forecast_member` gave for each of them.
        data: The fold.

    Raises:
        DataError: No bar of the validation span has labels and features.
    """
    span, bars = data.fold.validation, data.fold.validation.bars
    normalised = [part.on_bars(slice(0, len(span))) for part in forecasts]
    scale = data.targets.sigma[:, bars, None] * np.sqrt(np.asarray(data.config.horizons, dtype=np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        returns = data.targets.log_return[:, bars] / scale
    direction = data.targets.direction[:, bars]
    forecast = np.all([np.isfinite(part.probabilities[..., 0]) for part in normalised], axis=0)
    known = np.isfinite(returns) & (forecast & (direction >= 0))[..., None]
    if not known.any(axis=(0, 1)).all():
        raise DataError(
            f"validation bars {span.start} to {span.stop - 1} hold no label that all {len(members)} members forecast, to "
            f"calibrate on: too many gaps in the data, or in a member's feature groups"
        )
    return fit_ensemble(members, normalised, direction, returns, block_bars=2 * data.targets.label_bars)


def forecast_test(ensemble: Ensemble, forecasts: Sequence[Predictions], data: FoldData) -> Predictions:
    """Combine what `forecast_member` gave for each member on the test bars; axes `[asset, test bar, ...]`, real units."""
    test = data.fold.test
    bars = slice(test.start - data.fold.validation.start, None)
    return ensemble.combine([part.on_bars(bars) for part in forecasts], data.targets.sigma[:, test.bars])
