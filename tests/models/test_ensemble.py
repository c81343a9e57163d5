"""The ensemble: averaging, units, missing data, chunks."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.special import softmax

from cryptoml.models.ensemble import Calibration, Ensemble, Predictions, fit_ensemble, predict_member
from cryptoml.models.forecaster import Forecaster, ForecasterConfig, build_forecaster

ASSETS, TIME, FEATURES, CONTEXT = 3, 30, 4, 8


def make_member(architecture: str = "tft", seed: int = 0, **settings: object) -> Forecaster:
    torch.manual_seed(seed)
    shape = {"num_features": FEATURES, "num_assets": ASSETS, "hidden_size": 8, "num_heads": 2, "lookback": 6}
    return build_forecaster(ForecasterConfig(architecture=architecture, **shape | settings))


def make_members() -> list[Forecaster]:
    return [make_member(name, seed) for seed, name in enumerate(("tft", "tcn", "linear"))]


def make_inputs() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(ASSETS, TIME, FEATURES)).astype(np.float32)
    features[generator.random(features.shape) < 0.2] = np.nan
    features[1, :15] = np.nan
    return features, generator.uniform(0.01, 0.02, (ASSETS, TIME)).astype(np.float32)


def assert_equal(left: Predictions, right: Predictions, atol: float = 0.0) -> None:
    for part in fields(Predictions):
        np.testing.assert_allclose(getattr(left, part.name), getattr(right, part.name), rtol=0, atol=atol, err_msg=part.name)


def test_shapes_missing_values_and_ranges() -> None:
    features, sigma = make_inputs()
    predictions = Ensemble(make_members()).predict(features, sigma, CONTEXT)
    assert predictions.probabilities.shape == (ASSETS, TIME, 3)
    assert predictions.regime.shape == (ASSETS, TIME, 4)
    assert predictions.volatility.shape == predictions.position_size.shape == (ASSETS, TIME)
    assert predictions.quantiles.shape == (ASSETS, TIME, 3, 3)
    known = ~np.isnan(features).all(-1)
    known[:, : CONTEXT - 1] = False
    for part in fields(Predictions):
        values = getattr(predictions, part.name)
        assert values.dtype == np.float32
        assert (np.isfinite(values).reshape(ASSETS, TIME, -1).all(-1) == known).all()
    assert np.allclose(predictions.probabilities[known].sum(-1), 1.0, atol=1e-5)
    assert (np.diff(predictions.quantiles[known], axis=-1) >= 0).all()
    assert (predictions.volatility[known] > 0).all()


def test_equals_forward_on_the_last_window_in_real_units() -> None:
    features, sigma = make_inputs()
    member = make_member().eval()
    predictions = Ensemble([member]).predict(features, sigma, CONTEXT)
    window = torch.from_numpy(features[None, :, -CONTEXT:])
    with torch.no_grad():
        direction, volatility, _, _, quantiles = (part[0].numpy() for part in member(window, ~window.isnan()))
    np.testing.assert_allclose(predictions.probabilities[:, -1], softmax(direction, axis=-1), atol=1e-6)
    scale = sigma[:, -1, None] * np.sqrt([1, 4, 24])
    np.testing.assert_allclose(predictions.quantiles[:, -1], quantiles * scale[..., None], atol=1e-6)
    np.testing.assert_allclose(predictions.volatility[:, -1], volatility[:, 0] * scale[:, 2], rtol=1e-5)


@pytest.mark.parametrize("chunk_origins", [1, 7])
def test_chunks_change_nothing(chunk_origins: int) -> None:
    (features, sigma), ensemble = make_inputs(), Ensemble(make_members())
    whole = ensemble.predict(features, sigma, CONTEXT)
    assert_equal(whole, ensemble.predict(features, sigma, CONTEXT, chunk_origins=chunk_origins), atol=1e-6)
    assert_equal(whole, ensemble.predict(features, sigma, CONTEXT))


def test_weights_average_the_members() -> None:
    (features, sigma), members = make_inputs(), make_members()[:2]
    both = Ensemble(members, (0.25, 0.75)).predict(features, sigma, CONTEXT)
    alone = [Ensemble([member]).predict(features, sigma, CONTEXT) for member in members]
    for part in fields(Predictions):
        left, right = (getattr(prediction, part.name) for prediction in alone)
        np.testing.assert_allclose(getattr(both, part.name), 0.25 * left + 0.75 * right, atol=1e-6)
    assert_equal(alone[0], Ensemble(members, (1.0, 0.0)).predict(features, sigma, CONTEXT), atol=1e-6)


def test_calibration_shifts_quantiles_and_flattens_probabilities() -> None:
    (features, sigma), member = make_inputs(), make_member()
    shift = np.zeros((3, 3))
    shift[:, 2] = 1.0
    plain = Ensemble([member]).predict(features, sigma, CONTEXT)
    shifted = Ensemble([member], (), Calibration(1e6, shift)).predict(features, sigma, CONTEXT)
    moved = (shifted.quantiles - plain.quantiles)[0, -1]
    np.testing.assert_allclose(moved[:, 2], sigma[0, -1] * np.sqrt([1, 4, 24]), rtol=1e-4)
    np.testing.assert_allclose(shifted.probabilities[0, -1], 1 / 3, atol=1e-4)


def test_a_crossing_shift_is_sorted() -> None:
    (features, sigma), shift = make_inputs(), np.zeros((3, 3))
    shift[:, 0] = 100.0
    quantiles = Ensemble([make_member()], (), Calibration(1.0, shift)).predict(features, sigma, CONTEXT).quantiles
    assert (np.diff(quantiles[0, CONTEXT:], axis=-1) >= 0).all()


def test_predicting_leaves_members_in_training_mode() -> None:
    features, _ = make_inputs()
    member = make_member().train()
    assert_equal(predict_member(member, features, CONTEXT), predict_member(member, features, CONTEXT))
    assert member.training


def test_read_only_arrays_are_welcome() -> None:
    (features, sigma), ensemble = make_inputs(), Ensemble([make_member("linear")])
    expected = ensemble.predict(features, sigma, CONTEXT)
    features.flags.writeable = sigma.flags.writeable = False
    assert_equal(ensemble.predict(features, sigma, CONTEXT), expected)


def test_too_little_history_gives_nothing() -> None:
    features, sigma = make_inputs()
    predictions = Ensemble([make_member()]).predict(features[:, :5], sigma[:, :5], CONTEXT)
    assert np.isnan(predictions.probabilities).all()


def test_fit_on_validation_predictions() -> None:
    (features, _), members = make_inputs(), make_members()
    generator = np.random.default_rng(1)
    direction = generator.integers(-1, 3, (ASSETS, TIME)).astype(np.int8)
    returns = generator.normal(size=(ASSETS, TIME, 3)).astype(np.float32)
    returns[:, -1] = np.nan
    ensemble = fit_ensemble(members, [predict_member(member, features, CONTEXT) for member in members], direction, returns)
    assert sum(ensemble.weights) == pytest.approx(1.0)
    assert ensemble.calibration.temperature > 0
    assert ensemble.calibration.quantile_shift is not None
    assert np.isfinite(ensemble.calibration.quantile_shift).all()
    assert ensemble.error_correlation is not None
    assert ensemble.error_correlation.shape == (3, 3)
    assert (ensemble.error_correlation[np.triu_indices(3, 1)] < 1).all()


def test_members_of_different_feature_groups_forecast_together() -> None:
    (features, sigma), members = make_inputs(), [make_member("tcn", 0, columns=(0, 1)), make_member("linear", 1, columns=(2, 3))]
    both = Ensemble(members, (0.25, 0.75)).predict(features, sigma, CONTEXT)
    narrow = make_member("tcn", 0, num_features=2)
    assert_equal(predict_member(members[0], features, CONTEXT), predict_member(narrow, features[..., :2], CONTEXT))
    alone = [Ensemble([member]).predict(features, sigma, CONTEXT) for member in members]
    there = np.stack([~np.isnan(features[..., columns]).all(-1) for columns in ([0, 1], [2, 3])])
    there[..., : CONTEXT - 1] = False
    left, right = (part.probabilities for part in alone)
    np.testing.assert_allclose(both.probabilities[there.all(0)], (0.25 * left + 0.75 * right)[there.all(0)], atol=1e-6)
    np.testing.assert_allclose(both.probabilities[there[0] & ~there[1]], left[there[0] & ~there[1]], atol=1e-6)
    assert there[0].any()
    assert not there.all(0)[there[0]].all()
    assert np.isnan(both.probabilities[~there.any(0)]).all()
    assert np.isfinite(both.quantiles[there.any(0)]).all()


def test_a_group_that_is_not_delivered_silences_its_member_alone() -> None:
    (features, sigma), members = make_inputs(), [make_member("tcn", 0, columns=(0, 1)), make_member("linear", 1, columns=(2, 3))]
    features[..., 2:] = np.nan
    ensemble = Ensemble(members, (0.25, 0.75))
    assert_equal(ensemble.predict(features, sigma, CONTEXT), Ensemble(members[:1]).predict(features, sigma, CONTEXT), atol=1e-6)


def test_members_that_never_meet_cannot_be_weighed() -> None:
    (features, _), members = make_inputs(), [make_member("tcn", 0, columns=(0, 1)), make_member("linear", 1, columns=(2, 3))]
    features[..., 2:] = np.nan
    forecasts = [predict_member(member, features, CONTEXT) for member in members]
    with pytest.raises(ValueError, match=r"members must forecast labelled bars together .*without any: \[1\]"):
        fit_ensemble(members, forecasts, np.ones((ASSETS, TIME), np.int8), np.zeros((ASSETS, TIME, 3)))


def test_bad_inputs_are_named() -> None:
    (features, sigma), member = make_inputs(), make_member()
    ensemble = Ensemble([member])
    for call, words in (
        (lambda: Ensemble([]), "members must hold at least one"),
        (lambda: Ensemble([member, make_member(horizons=(1, 4))]), "members must agree on horizons"),
        (lambda: Ensemble([member], (0.5,)), "weights must be 1 numbers"),
        (lambda: Ensemble([member], (), Calibration(1.0, np.zeros((2, 3)))), r"quantile_shift must have shape \[3, 3\]"),
        (lambda: Ensemble([member], error_correlation=np.eye(2)), r"error_correlation must have shape \[1, 1\]"),
        (lambda: ensemble.predict(features[..., :2], sigma, CONTEXT), r"features must have shape \[3, time, 4\]"),
        (lambda: ensemble.predict(features, sigma[:, :4], CONTEXT), r"sigma must have shape \[3, 30\], was \[3, 4\]"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
