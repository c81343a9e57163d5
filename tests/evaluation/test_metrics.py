"""Metrics against naive loops, scipy and published values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from cryptoml.evaluation import classification, forecast, performance

RNG = np.random.default_rng(7)
PROBABILITIES = RNG.dirichlet([1, 1, 1], size=400)
LABELS = np.where(RNG.random(400) < 0.1, -1, (PROBABILITIES.cumsum(axis=1) > RNG.random((400, 1))).argmax(axis=1))


@given(arrays(np.int8, 30, elements=st.integers(0, 5)), arrays(bool, 30))
def test_auc_is_the_share_of_ordered_pairs_ties_half(score, positive):
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    expected = np.mean(pairs) if pairs else np.nan
    assert classification.auc(score, positive) == pytest.approx(expected, nan_ok=True)


def test_auc_leaves_out_missing_rows():
    score, positive = np.array([0.1, 0.9, np.nan, 0.5]), np.array([0, 1, 0, -1])
    assert classification.auc(score, positive) == 1.0
    assert np.isnan(classification.auc(score[:1], positive[:1]))


def test_classification_against_plain_loops():
    known = [(p, y) for p, y in zip(PROBABILITIES, LABELS, strict=True) if y >= 0]
    assert classification.accuracy(PROBABILITIES, LABELS) == pytest.approx(np.mean([p.argmax() == y for p, y in known]))
    assert classification.log_loss(PROBABILITIES, LABELS) == pytest.approx(-np.mean([np.log(p[y]) for p, y in known]))
    brier = np.mean([sum((p[k] - (y == k)) ** 2 for k in range(3)) for p, y in known])
    assert classification.brier_score(PROBABILITIES, LABELS) == pytest.approx(brier)
    labels = [y for _, y in known]
    assert classification.majority_share(LABELS) == max(labels.count(k) for k in range(3)) / len(labels)
    areas = [classification.auc(np.array([p[k] for p, _ in known]), np.array(labels) == k) for k in range(3)]
    assert classification.macro_auc(PROBABILITIES, LABELS) == pytest.approx(np.mean(areas))


def test_calibration_error_against_a_loop():
    gap, counted = 0.0, 0
    for index in range(10):
        rows = [(p.max(), p.argmax() == y) for p, y in zip(PROBABILITIES, LABELS, strict=True) if y >= 0]
        inside = [(c, r) for c, r in rows if min(int(c * 10), 9) == index]
        if inside:
            gap += abs(sum(c for c, _ in inside) - sum(r for _, r in inside))
            counted += len(inside)
    assert classification.expected_calibration_error(PROBABILITIES, LABELS, 10) == pytest.approx(gap / counted)
    assert sum(b.count for b in classification.confidence_buckets(PROBABILITIES, LABELS)) == counted


def test_calibrated_forecasts_have_little_calibration_error():
    probabilities = RNG.dirichlet([1, 1, 1], size=50_000)
    labels = (probabilities.cumsum(axis=1) > RNG.random((50_000, 1))).argmax(axis=1)
    assert classification.expected_calibration_error(probabilities, labels) < 0.01
    assert classification.top_confidence_accuracy(probabilities, labels) > 0.85


def test_sign_accuracy_leaves_out_zeros():
    assert classification.sign_accuracy(np.array([1, -1, 0, 2, np.nan]), np.array([0.1, 0.1, 0.1, 0, 1])) == 0.5


@pytest.mark.parametrize("ranked", [False, True])
def test_cross_sectional_ic_against_scipy(ranked):
    score, realised = RNG.normal(size=(6, 40)).round(1), RNG.normal(size=(6, 40))
    score[RNG.random((6, 40)) < 0.3] = np.nan
    score[:, 3] = 1.0
    per_bar = forecast.cross_sectional_ic(score, realised, ranked=ranked)
    correlate = stats.spearmanr if ranked else stats.pearsonr
    for bar in range(40):
        known = np.isfinite(score[:, bar])
        if known.sum() < 3 or np.ptp(score[known, bar]) == 0:
            assert np.isnan(per_bar[bar])
        else:
            assert per_bar[bar] == pytest.approx(correlate(score[known, bar], realised[known, bar]).statistic)
    mean, ratio = forecast.ic_summary(per_bar)
    assert ratio == pytest.approx(mean / np.nanstd(per_bar, ddof=1))


def test_pooled_ic_against_scipy():
    score, realised = RNG.normal(size=200).round(1), RNG.normal(size=200)
    assert forecast.information_coefficient(score, realised) == pytest.approx(stats.pearsonr(score, realised).statistic)
    assert forecast.rank_information_coefficient(score, realised) == pytest.approx(stats.spearmanr(score, realised).statistic)


def test_pinball_loss_by_hand_and_least_at_the_true_quantile():
    assert forecast.pinball_loss(np.array([[0.0, 1.0]]), np.array([0.5]), (0.1, 0.9)) == pytest.approx((0.05 + 0.05) / 2)
    sample = RNG.normal(size=20_000)
    losses = [forecast.pinball_loss(np.full((20_000, 1), q), sample, (0.9,)) for q in (1.0, stats.norm.ppf(0.9), 1.6)]
    assert min(losses) == losses[1]


def test_coverage_counts_only_known_pairs():
    realised = np.array([1.0, 2.0, np.nan, 4.0])
    assert forecast.coverage(np.array([1.0, 1.0, 9.0, 5.0]), realised) == pytest.approx(2 / 3)
    assert forecast.interval_coverage(np.zeros(4), np.full(4, 2.0), realised) == pytest.approx(2 / 3)
    assert np.isnan(forecast.coverage(np.full(4, np.nan), realised))


def test_qlike_is_zero_for_perfection_and_punishes_too_low_more():
    realised = np.array([0.01, 0.02, 0.03])
    assert forecast.qlike(realised, realised) == pytest.approx(0)
    assert forecast.qlike(realised / 1.5, realised) > forecast.qlike(realised * 1.5, realised) > 0
    assert forecast.mean_absolute_error(realised + 0.01, realised) == pytest.approx(0.01)


def test_performance_by_hand():
    returns = np.array([0.1, -0.5, 0.2, np.nan])
    assert performance.equity_curve(returns) == pytest.approx([1.1, 0.55, 0.66, 0.66])
    assert performance.max_drawdown(returns) == pytest.approx(0.5)
    assert performance.max_drawdown(np.array([-0.2, 0.1])) == pytest.approx(0.2)
    plain = np.array([0.1, -0.5, 0.2, 0.0])
    assert performance.sharpe_ratio(returns, 365) == pytest.approx(plain.mean() / plain.std(ddof=1) * np.sqrt(365))
    assert np.isnan(performance.sharpe_ratio(np.zeros(5), 365))
    assert performance.annual_return(np.array([0.1, 0.1]), 4) == pytest.approx(1.1**4 - 1)
    trades = np.array([0.03, -0.01, 0.01, -0.01])
    assert (performance.win_rate(trades), performance.payoff_ratio(trades)) == (0.5, pytest.approx(2.0))
    assert performance.break_even_cost_bps(np.array([0.001, 0.001]), np.array([1.0, 1.0])) == pytest.approx(10)
    assert np.isnan(performance.break_even_cost_bps(np.ones(2), np.zeros(2)))
