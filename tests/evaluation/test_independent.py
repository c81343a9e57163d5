"""Figures against implementations that share no code with ours: scikit-learn, scipy, plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn import calibration, linear_model, metrics

from cryptoml.evaluation import classification, forecast, performance, selection
from cryptoml.evaluation.volatility_baselines import har_volatility

RNG = np.random.default_rng(17)
PROBABILITIES = RNG.dirichlet([1.2, 1, 1.2], size=3000)
LABELS = (PROBABILITIES.cumsum(axis=1) > RNG.random((3000, 1))).argmax(axis=1)
RETURNS = RNG.standard_t(4, size=3000) * 0.01 + 0.0004


def test_classification_against_scikit_learn():
    assert classification.accuracy(PROBABILITIES, LABELS) == metrics.accuracy_score(LABELS, PROBABILITIES.argmax(axis=1))
    assert classification.log_loss(PROBABILITIES, LABELS) == pytest.approx(metrics.log_loss(LABELS, PROBABILITIES))
    area = metrics.roc_auc_score(LABELS, PROBABILITIES, multi_class="ovr", average="macro")
    assert classification.macro_auc(PROBABILITIES, LABELS) == pytest.approx(area)
    score = np.round(PROBABILITIES[:, 2] - PROBABILITIES[:, 0], 2)
    assert classification.auc(score, LABELS == 2) == pytest.approx(metrics.roc_auc_score(LABELS == 2, score))
    briers = [metrics.brier_score_loss(k == LABELS, PROBABILITIES[:, k]) for k in range(3)]
    assert classification.brier_score(PROBABILITIES, LABELS) == pytest.approx(sum(briers))


def test_confidence_buckets_against_scikit_learn():
    confidence, right = PROBABILITIES.max(axis=1), PROBABILITIES.argmax(axis=1) == LABELS
    accuracy, mean_confidence = calibration.calibration_curve(right, confidence, n_bins=15)
    buckets = classification.confidence_buckets(PROBABILITIES, LABELS, 15)
    np.testing.assert_allclose([bucket.accuracy for bucket in buckets], accuracy)
    np.testing.assert_allclose([bucket.mean_confidence for bucket in buckets], mean_confidence)
    gap = sum(bucket.count * abs(a - c) for bucket, a, c in zip(buckets, accuracy, mean_confidence, strict=True)) / 3000
    assert classification.expected_calibration_error(PROBABILITIES, LABELS) == pytest.approx(gap)


def test_pinball_against_scikit_learn():
    levels = (0.1, 0.5, 0.9)
    quantiles = np.sort(RNG.normal(0, 0.01, (3000, 3)), axis=1)
    losses = [metrics.mean_pinball_loss(RETURNS, quantiles[:, k], alpha=level) for k, level in enumerate(levels)]
    assert forecast.pinball_loss(quantiles, RETURNS, levels) == pytest.approx(np.mean(losses))


def test_drawdown_and_sharpe_against_a_plain_loop():
    value, peak, worst = 1.0, 1.0, 0.0
    for one in RETURNS:
        value *= 1 + one
        peak = max(peak, value)
        worst = max(worst, 1 - value / peak)
    assert performance.max_drawdown(RETURNS) == pytest.approx(worst)
    t_statistic = stats.ttest_1samp(RETURNS, 0).statistic
    assert performance.sharpe_ratio(RETURNS, 8760) == pytest.approx(t_statistic / np.sqrt(3000) * np.sqrt(8760))


def test_probabilistic_sharpe_of_gaussian_returns_is_about_the_t_test():
    returns = RNG.normal(0.0005, 0.01, 4000)
    p_value = stats.ttest_1samp(returns, 0, alternative="greater").pvalue
    assert selection.deflated_sharpe_of_returns(returns) == pytest.approx(1 - p_value, abs=0.01)


def test_break_even_cost_is_where_the_mean_net_return_is_zero():
    turnover = RNG.uniform(0, 0.3, 3000)
    root = optimize.brentq(lambda bps: (RETURNS - turnover * bps * 1e-4).mean(), -1000, 1000)
    assert performance.break_even_cost_bps(RETURNS, turnover) == pytest.approx(root)


def test_har_against_scikit_learn(planted):
    volatility = planted[0].targets.volatility.copy()
    volatility[:, :720] = np.nan  # so that both learn from the bars with a whole month behind them
    inputs = replace(planted[0], targets=replace(planted[0].targets, volatility=volatility))
    close, outcome = inputs.panel.field("close")[2], 2 * np.log(volatility[2].astype(float))
    squares = np.append(np.nan, np.diff(np.log(close)) ** 2)
    bars = np.arange(720, len(close))
    design = np.log([[squares[bar + 1 - window : bar + 1].mean() for window in (24, 168, 720)] for bar in bars])
    train = np.isfinite(outcome[bars]) & (bars < inputs.train[1])
    model = linear_model.LinearRegression().fit(design[train], outcome[bars][train])
    smearing = np.exp(outcome[bars][train] - model.predict(design[train])).mean()
    np.testing.assert_allclose(har_volatility(inputs)[2, 720:], np.sqrt(smearing * np.exp(model.predict(design))))


def test_har_learns_nothing_from_the_test_span(planted):
    inputs = planted[0]
    changed = inputs.targets.volatility.copy()
    changed[:, inputs.train[1] :] *= 7
    other = replace(inputs, targets=replace(inputs.targets, volatility=changed))
    np.testing.assert_array_equal(har_volatility(other), har_volatility(inputs))


def test_har_stays_within_what_training_saw(planted):
    inputs = planted[0]
    candles = inputs.panel.candles.copy()
    late = np.arange(candles.shape[1]) >= inputs.train[1]
    candles[..., :4] = np.exp(np.log(candles[..., :4]) * np.where(late, 40.0, 1.0)[:, None])
    wild = har_volatility(replace(inputs, panel=replace(inputs.panel, candles=candles)))
    seen = inputs.targets.volatility[:, slice(*inputs.train)]
    assert (np.nanmax(wild, axis=1) <= 1.001 * np.nanmax(seen, axis=1)).all()
