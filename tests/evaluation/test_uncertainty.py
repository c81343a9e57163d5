"""Bootstrap intervals, deflated Sharpe ratio, probability of backtest overfitting."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptoml.evaluation import forecast, selection, statistics, uncertainty
from cryptoml.evaluation.classification import auc
from cryptoml.evaluation.performance import sharpe_ratio


@given(st.integers(2, 200), st.floats(1, 300), st.integers(0, 2**31))
def test_blocks_fill_the_series_exactly(num_bars, mean_block, seed):
    starts, lengths = uncertainty.stationary_blocks(num_bars, mean_block, np.random.default_rng(seed))
    indices = uncertainty.stationary_indices(num_bars, mean_block, np.random.default_rng(seed))
    assert lengths.sum() == num_bars == indices.size
    assert (lengths >= 1).all()
    assert indices[0] == starts[0]
    assert ((indices >= 0) & (indices < num_bars)).all()


def test_the_sharpe_ratio_of_two_bars_has_a_finite_interval():
    returns, counted = np.full(400, 1e-6), np.zeros(400, dtype=bool)
    returns[[10, 11]], counted[[10, 11]] = (1.3e-4, 1.1e-4), True
    found = uncertainty.interval(statistics.sharpe_statistic(returns, 8760, counted), mean_block=1, seed=3)
    expected = np.mean(returns[counted]) / np.std(returns[counted], ddof=1) * np.sqrt(8760)
    assert found.value == pytest.approx(expected)
    assert abs(found.high) < 100 * expected


@pytest.mark.parametrize("mean_block", [1.0, 7.0, 90.0])
def test_block_sums_equal_resampled_sums(mean_block):
    values = np.random.default_rng(0).normal(size=(50, 2))
    sums = uncertainty.block_sums(values, mean_block, 20, seed=3)
    rng = np.random.default_rng(3)
    for row in sums:
        assert row == pytest.approx(values[uncertainty.stationary_indices(50, mean_block, rng)].sum(axis=0))


def test_mean_block_length_is_as_asked():
    rng = np.random.default_rng(0)
    lengths = np.concatenate([uncertainty.stationary_blocks(5000, 20, rng)[1] for _ in range(20)])
    assert lengths.mean() == pytest.approx(20, rel=0.1)


def sharpe_interval(returns, bars_per_year, **options):
    return uncertainty.interval(statistics.sharpe_statistic(returns, bars_per_year), **options)


def test_sharpe_interval_holds_the_truth_about_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for seed in range(100):
        found = sharpe_interval(rng.normal(0.1, 1, size=400), 1, mean_block=2, num_draws=200, seed=seed)
        held += found.low <= 0.1 <= found.high
    assert 88 <= held <= 99


def test_sharpe_interval_starts_from_the_plain_ratio():
    returns = np.random.default_rng(1).normal(0.001, 0.01, size=300)
    assert sharpe_interval(returns, 8760, mean_block=5).value == pytest.approx(sharpe_ratio(returns, 8760))


def test_dependence_across_assets_widens_the_interval():
    rng = np.random.default_rng(2)
    one = rng.random((1, 500)) < 0.5
    copies, apart = np.repeat(one, 10, axis=0), rng.random((10, 500)) < 0.5
    counted = np.ones((10, 500), dtype=bool)
    together, independent = (
        uncertainty.interval(statistics.accuracy_statistic(correct, counted), mean_block=1) for correct in (copies, apart)
    )
    assert together.value == pytest.approx(copies.mean())
    assert together.high - together.low > 2 * (independent.high - independent.low)


def test_long_blocks_widen_the_interval_of_overlapping_labels():
    noise = np.random.default_rng(3).normal(size=3000)
    smooth = np.convolve(noise, np.ones(24), mode="valid")
    short, long = (uncertainty.interval(statistics.mean_statistic(smooth), mean_block=block) for block in (1, 48))
    assert long.high - long.low > 2.5 * (short.high - short.low)


def test_a_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(4)
    shared = rng.normal(size=2000)
    one, two = shared + 0.05 + 0.1 * rng.normal(size=2000), shared + 0.1 * rng.normal(size=2000)
    first, second = statistics.mean_statistic(one), statistics.mean_statistic(two)
    difference = uncertainty.difference_interval(first, second, mean_block=5)
    alone = uncertainty.interval(first, mean_block=5)
    assert difference.value == pytest.approx((one - two).mean())
    assert 0 < difference.low < 0.05 < difference.high
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    nothing = uncertainty.difference_interval(first, first, mean_block=5)
    assert nothing == (0, 0, 0)


@pytest.mark.parametrize("ranked", [False, True])
def test_statistics_over_all_bars_are_the_plain_figures(ranked):
    rng = np.random.default_rng(8)
    score, realised = rng.normal(size=(5, 300)), rng.normal(size=(5, 300))
    score[rng.random(score.shape) < 0.1] = np.nan
    per_bar = forecast.cross_sectional_ic(score, realised, ranked=ranked)
    whole = statistics.rank_ic_statistic(score, realised, ranked=ranked)
    assert whole.of_sums(whole.columns.sum(axis=0)) == pytest.approx(np.nanmean(per_bar))
    positive = np.where(rng.random(score.shape) < 0.1, -1, realised > 0)
    area = statistics.auc_statistic(score, positive)
    assert area.of_sums(area.columns.sum(axis=0)) == pytest.approx(auc(score, positive))


def test_auc_interval_is_that_of_resampling_the_rows_themselves():
    rng = np.random.default_rng(10)
    realised = rng.normal(size=(3, 400))
    score = np.round(0.5 * realised + rng.normal(size=realised.shape), 1)
    positive = (realised > 0).astype(int)
    found = uncertainty.interval(statistics.auc_statistic(score, positive), mean_block=4, num_draws=600)
    drawn = []
    for _ in range(600):
        bars = uncertainty.stationary_indices(400, 4, rng)
        drawn.append(auc(score[:, bars], positive[:, bars]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.006)


def overlapping(rng, num_bars, label_bars):
    """Loss differences of equal models: an average over the label's bars, and as noisy a part of short horizons."""
    slow = np.convolve(rng.normal(size=num_bars + label_bars - 1), np.ones(label_bars) / label_bars, mode="valid")
    return slow + 0.5 * slow.std() * rng.normal(size=num_bars)


@pytest.mark.parametrize("num_bars", [24, 48, 100, 144, 336, 1000])
def test_a_mean_of_few_overlapping_bars_keeps_its_level(num_bars):
    rng = np.random.default_rng(num_bars)
    below = [uncertainty.mean_interval(overlapping(rng, num_bars, 24)[None], label_bars=24).high < 0 for _ in range(2000)]
    assert np.mean(below) <= 0.04
    assert np.mean(below) > 0.01 or num_bars < uncertainty.least_bars(24) == 144


def test_a_mean_that_differs_is_seen():
    rng = np.random.default_rng(0)
    better = [overlapping(rng, 336, 24)[None] - 1.5 / np.sqrt(24) for _ in range(300)]
    assert np.mean([uncertainty.mean_interval(values, label_bars=24).high < 0 for values in better]) > 0.95


@pytest.mark.parametrize("label_bars", [1, 4, 24, 48])
def test_least_bars_are_those_from_which_a_mean_has_bounds(label_bars):
    least, rng = uncertainty.least_bars(label_bars), np.random.default_rng(0)
    for num_bars, told in ((least, True), (least - 1, False)):
        found = uncertainty.mean_interval(rng.normal(size=(2, num_bars)), label_bars=label_bars)
        assert np.isfinite(found.low) == np.isfinite(found.high) == told
        assert (found.row()["low"] is not None) == told


def test_a_mean_leaves_out_what_is_missing():
    values = np.random.default_rng(0).normal(size=(3, 200))
    values[0, :50], values[:, 50:60] = np.nan, np.nan
    found = uncertainty.mean_interval(values, label_bars=4)
    assert found.value == pytest.approx(np.nanmean(values))
    assert found == pytest.approx(uncertainty.mean_interval(np.delete(values, slice(50, 60), axis=1), label_bars=4))
    assert uncertainty.mean_interval(np.zeros((2, 50)), label_bars=4) == (0, 0, 0)
    assert np.isnan(uncertainty.mean_interval(np.full((2, 50), np.nan), label_bars=4)).all()


def test_too_short_a_sample_says_nothing():
    assert np.isnan(sharpe_interval(np.array([0.1]), 365, mean_block=5)).all()
    assert np.isnan(uncertainty.interval(statistics.mean_statistic(np.full(9, np.nan)), mean_block=5)).all()


def test_deflated_sharpe_ratio_gives_the_published_value():
    daily, variance = 2.5 / np.sqrt(250), 0.5 / 250
    assert selection.expected_max_sharpe(100, variance) == pytest.approx(0.1132, abs=5e-5)
    assert selection.deflated_sharpe_ratio(daily, 1250, -3, 10, 100, variance) == pytest.approx(0.9004, abs=5e-5)


def test_expected_max_sharpe_against_simulation():
    simulated = np.random.default_rng(0).normal(size=(20_000, 50)).max(axis=1).mean()
    assert selection.expected_max_sharpe(50, 1.0) == pytest.approx(simulated, rel=0.02)


def test_more_trials_deflate_more():
    returns = np.random.default_rng(5).normal(0.05, 1, size=1000)
    deflated = [selection.deflated_sharpe_of_returns(returns, trials) for trials in (1, 10, 100)]
    assert deflated == sorted(deflated, reverse=True)
    assert np.isnan(selection.deflated_sharpe_of_returns(np.zeros(100)))
    with pytest.raises(ValueError, match="num_trials must be at least 1, was 0"):
        selection.expected_max_sharpe(0, 1.0)


def naive_overfitting(returns: np.ndarray, num_blocks: int) -> float:
    blocks, below, splits = np.array_split(returns, num_blocks), 0, 0
    for chosen in combinations(range(num_blocks), num_blocks // 2):
        inside = np.concatenate([blocks[i] for i in chosen])
        outside = np.concatenate([blocks[i] for i in range(num_blocks) if i not in chosen])
        winner = (inside.mean(axis=0) / inside.std(axis=0, ddof=1)).argmax()
        ratios = outside.mean(axis=0) / outside.std(axis=0, ddof=1)
        below += (ratios <= ratios[winner]).sum() / (returns.shape[1] + 1) <= 0.5
        splits += 1
    return below / splits


def test_overfitting_against_a_plain_loop():
    returns = np.random.default_rng(6).normal(size=(160, 9))
    assert selection.backtest_overfitting(returns, 8).probability == pytest.approx(naive_overfitting(returns, 8))


def test_overfitting_is_nil_for_real_skill_and_about_half_for_noise():
    rng = np.random.default_rng(7)
    skill = rng.normal(size=(800, 10))
    skill[:, 4] += 0.5
    assert selection.backtest_overfitting(skill).probability == 0
    noise = np.mean([selection.backtest_overfitting(rng.normal(size=(400, 10)), 8).probability for _ in range(30)])
    assert 0.35 < noise < 0.65


@pytest.mark.parametrize(
    ("shape", "num_blocks", "words"),
    [((100, 1), 4, "at least 2 trials"), ((100, 3), 5, "even"), ((10, 3), 16, "at least 32 bars")],
)
def test_overfitting_refuses_what_it_cannot_split(shape, num_blocks, words):
    with pytest.raises(ValueError, match=words):
        selection.backtest_overfitting(np.zeros(shape), num_blocks)
