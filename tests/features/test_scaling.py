"""The scaler knows its training span and nothing else."""

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import BundleError, ConfigError, DataError
from cryptoml.features.scaling import FeatureScaler, ScalingConfig

STAMPS = pd.date_range("2024-01-01", periods=100, freq="h", tz="UTC")
SPAN = (STAMPS[0], STAMPS[60])


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    made = rng.normal((0, 5, 1e6, 0), (1, 3, 1e3, 1), (2, 100, 4)).astype(np.float32)
    made[..., 3] = 7.0  # constant
    made[0, :10, 1] = np.nan
    return made


@pytest.mark.parametrize("method", ["robust", "standard"])
def test_training_span_becomes_standard(values, method):
    scaled = FeatureScaler(ScalingConfig(method=method)).fit(values, SPAN, STAMPS).transform(values)
    train = scaled[:, :60, :3]
    middle = np.nanmedian(train, axis=(0, 1)) if method == "robust" else np.nanmean(train, axis=(0, 1))
    np.testing.assert_allclose(middle, 0, atol=1e-3)
    np.testing.assert_allclose(np.nanstd(train, axis=(0, 1)), 1, atol=0.35 if method == "robust" else 1e-3)
    np.testing.assert_array_equal(scaled[..., 3], 0)
    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(values))


def test_later_bars_do_not_enter_the_fit(values):
    first = FeatureScaler().fit(values, SPAN, STAMPS)
    changed = values.copy()
    changed[:, 60:] = 1e9
    second = FeatureScaler().fit(changed, SPAN, STAMPS)
    np.testing.assert_array_equal(first.center, second.center)
    np.testing.assert_array_equal(first.scale, second.scale)


def test_in_place_clips_and_needs_no_second_array(values):
    values[0, 0, 0] = 1e9
    scaler = FeatureScaler(ScalingConfig(clip=4)).fit(values, SPAN, STAMPS)
    expected = scaler.transform(values)
    assert scaler.transform(values, out=values) is values
    np.testing.assert_array_equal(values, expected)
    assert values[0, 0, 0] == 4


def test_mostly_zero_feature_falls_back_to_the_deviation():
    rare = np.zeros((1, 100, 1), np.float32)
    rare[0, ::20] = 1
    scaled = FeatureScaler().fit(rare, SPAN, STAMPS).transform(rare)
    assert scaled.max() > 1


def test_all_missing_feature_stays_missing(values):
    values[..., 0] = np.nan
    assert np.isnan(FeatureScaler().fit(values, SPAN, STAMPS).transform(values)[..., 0]).all()


def test_overlap_with_a_test_span_is_refused(values):
    scaler = FeatureScaler().fit(values, SPAN, STAMPS)
    scaler.check_disjoint((STAMPS[60], STAMPS[99]))
    with pytest.raises(DataError, match="must not overlap"):
        scaler.check_disjoint((STAMPS[59], STAMPS[99]))


def test_arrays_restore_the_same_scaler(values):
    scaler = FeatureScaler(ScalingConfig(clip=3)).fit(values, SPAN, STAMPS)
    restored = FeatureScaler.from_arrays(scaler.to_arrays())
    assert restored.span == scaler.span
    np.testing.assert_array_equal(restored.transform(values), scaler.transform(values))
    with pytest.raises(BundleError, match="scale"):
        FeatureScaler.from_arrays({"center": scaler.center})


def test_unfitted_or_mismatched_use_is_named(values):
    with pytest.raises(ConfigError, match="features of fit"):
        FeatureScaler().transform(values)
    with pytest.raises(DataError, match="at least one bar"):
        FeatureScaler().fit(values, (STAMPS[60], STAMPS[60]), STAMPS)
    with pytest.raises(ConfigError, match="4 features"):
        FeatureScaler().fit(values, SPAN, STAMPS).transform(values[..., :2])
