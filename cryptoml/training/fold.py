"""What one walk-forward fold needs around the fits: scaling before, calibration and forecasts after."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cryptoml.data.schema import parse_timeframe
from cryptoml.data.splits import Fold
from cryptoml.errors import DataError
from cryptoml.features.engineer import FeaturePanel
from cryptoml.features.scaling import FeatureScaler, ScalingConfig
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.models.ensemble import Ensemble, Predictions, fit_ensemble, predict_member
from cryptoml.models.forecaster import Forecaster
from cryptoml.training.member import FoldData

__all__ = ["ScaledFold", "calibrated", "forecast_member", "forecast_test", "scale_fold"]


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
