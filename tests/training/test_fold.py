"""Around the fits of a fold: the scaler knows the training span, calibration the validation span, forecasts the past."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from cryptoml.errors import DataError
from cryptoml.features.engineer import FeaturePanel
from cryptoml.features.scaling import ScalingConfig
from cryptoml.models.ensemble import Ensemble, Predictions
from cryptoml.models.forecaster import Forecaster, build_forecaster
from cryptoml.training.fold import ScaledFold, calibrated, forecast_member, forecast_test, scale_fold
from cryptoml.training.member import FoldData, MemberTask
from tests.training.conftest import LOOKBACK, TARGETS
from tests.training.test_member import with_features, with_labels

STAMPS = pd.date_range("2024-01-01", periods=400, freq="h", tz="UTC")


@pytest.fixture(scope="module")
def members(task: MemberTask) -> list[Forecaster]:
    built = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        built.append(build_forecaster(task.forecaster).eval())
    return built


def calibrate(members: list[Forecaster], data: FoldData) -> Ensemble:
    return calibrated(members, [forecast_member(member, data, LOOKBACK) for member in members], data)


def forecast(ensemble: Ensemble, data: FoldData) -> Predictions:
    return forecast_test(ensemble, [forecast_member(member, data, LOOKBACK) for member in ensemble.members], data)


@pytest.fixture(scope="module")
def ensemble(members: list[Forecaster], fold_data: FoldData) -> Ensemble:
    return calibrate(members, fold_data)


def scaled(data: FoldData, features: np.ndarray) -> ScaledFold:
    panel = FeaturePanel(features, ("a", "b", "c"), data.symbols, STAMPS, "1h")
    return scale_fold(panel, data.targets, data.fold, TARGETS, ScalingConfig())


def assert_same(left: Predictions, right: Predictions, bars: slice) -> None:
    for part in fields(Predictions):
        np.testing.assert_array_equal(getattr(left, part.name)[:, bars], getattr(right, part.name)[:, bars])


class TestScaling:
    def test_depends_on_the_training_span_alone(self, fold_data: FoldData) -> None:
        stop = fold_data.fold.train.stop
        changed = with_features(fold_data, slice(stop, None)).features * 100
        changed[:, :stop] = fold_data.features[:, :stop]
        first, second = scaled(fold_data, fold_data.features), scaled(fold_data, changed)
        for name, values in first.scaler.to_arrays().items():
            np.testing.assert_array_equal(values, second.scaler.to_arrays()[name])
        np.testing.assert_array_equal(first.data.features[:, :stop], second.data.features[:, :stop])

    def test_reads_the_last_training_bar(self, fold_data: FoldData) -> None:
        changed = fold_data.features.copy()
        changed[:, fold_data.fold.train.stop - 1] = 100.0
        before, after = (scaled(fold_data, values).scaler.to_arrays() for values in (fold_data.features, changed))
        assert any(not np.array_equal(before[name], after[name]) for name in before)

    def test_takes_a_memory_map_and_leaves_it_alone(self, fold_data: FoldData) -> None:
        read_only = fold_data.features.copy()
        read_only.setflags(write=False)
        np.testing.assert_array_equal(
            scaled(fold_data, read_only).data.features, scaled(fold_data, fold_data.features).data.features
        )


class TestCalibration:
    def test_reads_no_label_outside_the_validation_span(
        self, members: list[Forecaster], ensemble: Ensemble, fold_data: FoldData
    ) -> None:
        span = fold_data.fold.validation
        for bars in (slice(0, span.start), slice(span.stop, None)):
            again = calibrate(members, with_labels(fold_data, bars))
            assert again.weights == ensemble.weights
            assert again.calibration.temperature == ensemble.calibration.temperature
            np.testing.assert_array_equal(again.calibration.quantile_shift, ensemble.calibration.quantile_shift)

    def test_reads_no_feature_of_the_test(self, members: list[Forecaster], ensemble: Ensemble, fold_data: FoldData) -> None:
        again = calibrate(members, with_features(fold_data, slice(fold_data.fold.validation.stop, None)))
        assert again.weights == ensemble.weights
        np.testing.assert_array_equal(again.calibration.quantile_shift, ensemble.calibration.quantile_shift)

    def test_reads_the_validation_labels(self, members: list[Forecaster], ensemble: Ensemble, fold_data: FoldData) -> None:
        again = calibrate(members, with_labels(fold_data, fold_data.fold.validation.bars))
        assert again.calibration.temperature != ensemble.calibration.temperature

    def test_validation_without_labels_is_bad_data(self, members: list[Forecaster], fold_data: FoldData) -> None:
        direction = np.full_like(fold_data.targets.direction, -1)
        with pytest.raises(DataError, match="validation"):
            calibrate(members, replace(fold_data, targets=replace(fold_data.targets, direction=direction)))


class TestForecast:
    def test_covers_the_test_bars(self, ensemble: Ensemble, fold_data: FoldData) -> None:
        found = forecast(ensemble, fold_data)
        assert found.probabilities.shape == (2, len(fold_data.fold.test), 3)
        assert found.quantiles.shape == (2, len(fold_data.fold.test), 2, 3)
        assert np.isfinite(found.probabilities).all()

    def test_no_forecast_reads_the_future(self, ensemble: Ensemble, fold_data: FoldData) -> None:
        before = forecast(ensemble, fold_data)
        moved = with_labels(with_features(fold_data, slice(350, None)), slice(0, None))
        after = forecast(ensemble, moved)
        assert_same(before, after, slice(0, 30))
        assert not np.array_equal(before.probabilities[:, 30], after.probabilities[:, 30])

    def test_each_reads_exactly_lookback_bars(self, ensemble: Ensemble, fold_data: FoldData) -> None:
        before = forecast(ensemble, fold_data)
        after = forecast(ensemble, with_features(fold_data, slice(0, 330)))
        first_clean = 330 + LOOKBACK - 1 - fold_data.fold.test.start
        assert_same(before, after, slice(first_clean, None))
        assert not np.array_equal(before.probabilities[:, :10], after.probabilities[:, :10])

    def test_equals_the_window_given_to_the_members(self, ensemble: Ensemble, fold_data: FoldData) -> None:
        plain = Ensemble(ensemble.members, ensemble.weights)
        bar = 355
        window = torch.from_numpy(fold_data.features[None, :, bar - LOOKBACK + 1 : bar + 1].copy())
        with torch.inference_mode():
            each = [member(window.nan_to_num(), ~window.isnan()).direction.softmax(-1)[0].numpy() for member in plain.members]
        expected = sum(weight * part for weight, part in zip(plain.weights, each, strict=True))
        found = forecast(plain, fold_data).probabilities[:, bar - fold_data.fold.test.start]
        np.testing.assert_allclose(found, expected, atol=1e-5)
