"""Every candidate by one protocol: the signal is found, shuffled labels find nothing, nothing reads the test span."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from cryptoml.evaluation.baselines import BASELINES, learned_baseline, run_baselines, training_rows
from cryptoml.evaluation.candidates import Candidate, EvaluationInput, candidate_from_predictions, gaussian_quantiles
from cryptoml.evaluation.learned_baselines import BaselineConfig, LogisticBaseline, RidgeBaseline, TrainingRows
from cryptoml.evaluation.protocol import evaluate, evaluate_all

CONFIG = BaselineConfig(lightgbm_rounds=30, lightgbm_min_leaf_rows=20, momentum_bars=24)


@pytest.fixture(scope="module")
def candidates(planted) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in run_baselines(*planted, CONFIG)}


@pytest.fixture(scope="module")
def evaluations(planted, candidates):
    return evaluate_all(planted[0], list(candidates.values()))


def test_every_baseline_covers_exactly_the_present_test_bars(planted, candidates):
    inputs, features = planted
    assert list(candidates) == list(BASELINES)
    for candidate in candidates.values():
        assert candidate.skipped is None
        probabilities = candidate.forecasts.probabilities
        known = np.isfinite(candidate.forecasts.volatility if candidate.name == "har" else probabilities[..., 0])
        expected = inputs.test_panel.present & np.isfinite(features[:, inputs.bars]).any(axis=-1)
        np.testing.assert_array_equal(known, expected)
        assert candidate.name == "har" or np.abs(probabilities[known].sum(axis=-1) - 1).max() < 1e-5


def test_learned_baselines_find_the_planted_signal_and_rules_do_not(evaluations):
    for name in ("ridge", "logistic", "lightgbm"):
        figures = evaluations[name].figures
        assert figures["direction"]["auc"]["low"] > 0.6, name
        assert figures["ranking"]["rank_ic"]["low"] > 0.05, name
        assert figures["direction"]["accuracy"]["value"] > figures["direction"]["majority_share"] + 0.05
    assert evaluations["buy_and_hold"].figures["direction"]["auc"]["value"] == 0.5


def test_shuffled_labels_find_nothing(planted):
    inputs, features = planted
    rng = np.random.default_rng(0)

    def fit(rows: TrainingRows) -> LogisticBaseline:
        shuffled = TrainingRows(rows.features, rng.permutation(rows.direction), rows.normalised_return)
        return LogisticBaseline(shuffled, 1e-3, 50)

    noise = features + 0
    noise[..., 0] = rng.normal(size=features.shape[:2])
    figures = evaluate(inputs, learned_baseline("shuffled_labels", inputs, noise, fit, CONFIG)).figures
    assert figures["direction"]["auc"]["low"] < 0.5 < figures["direction"]["auc"]["high"]


def test_buy_and_hold_earns_what_the_market_earned(planted, evaluations):
    inputs, result = planted[0], evaluations["buy_and_hold"].backtest
    opens, closes = inputs.test_panel.field("open")[:, 1], inputs.test_panel.field("close")[:, -1]
    held = inputs.trading.max_position
    assert result.turnover.sum() == pytest.approx(4 * held)
    assert result.position[:, 1:].min() == pytest.approx(held)
    summed = np.log1p(result.price_return / held).sum(axis=1)
    np.testing.assert_allclose(summed, np.log(closes / opens), atol=1e-9)


@pytest.mark.parametrize("name", list(BASELINES))
def test_no_baseline_reads_labels_or_features_of_the_test_span(planted, candidates, name):
    inputs, features = planted
    cut = inputs.test[0] + 100
    later = features.copy()
    later[:, cut:] += 5
    candles, direction = inputs.panel.candles.copy(), inputs.targets.direction.copy()
    candles[:, cut:] *= 2
    direction[:, inputs.train[1] :] = 0
    changed = replace(inputs, panel=replace(inputs.panel, candles=candles), targets=replace(inputs.targets, direction=direction))
    other = BASELINES[name](changed, later, CONFIG)
    np.testing.assert_array_equal(other.forecasts.probabilities[:, :100], candidates[name].forecasts.probabilities[:, :100])
    if other.target is not None:
        np.testing.assert_array_equal(other.target[:, :100], candidates[name].target[:, :100])


def test_figures_say_the_same_as_their_parts(planted, evaluations):
    inputs, evaluation = planted[0], evaluations["logistic"]
    labels = inputs.targets.direction[:, inputs.bars]
    probabilities = evaluation.candidate.forecasts.probabilities
    known = (labels >= 0) & np.isfinite(probabilities).all(axis=-1)
    direction = evaluation.figures["direction"]
    assert direction["num_forecasts"] == known.sum()
    assert direction["accuracy"]["value"] == pytest.approx((probabilities.argmax(axis=-1) == labels)[known].mean())
    per_symbol = evaluation.figures["per_symbol"]
    assert sum(figures["num_forecasts"] for figures in per_symbol.values()) == known.sum()
    assert sum(figures["net_return"] for figures in per_symbol.values()) == pytest.approx(evaluation.backtest.net.sum())
    years = evaluation.figures["per_year"]
    assert sum(figures["num_forecasts"] for figures in years.values()) == known.sum()
    assert sum(figures["net_return"] for figures in years.values()) == pytest.approx(evaluation.backtest.net.sum())
    regimes = evaluation.figures["per_regime"]
    assert sum(figures["share_of_bars"] for figures in regimes.values()) == pytest.approx(1)
    sweep = evaluation.figures["trading"]["cost_sweep"]
    assert sweep[1]["sharpe_ratio"] == pytest.approx(evaluation.figures["trading"]["sharpe_ratio"]["value"])
    assert evaluation.figures["regime"] is None


def plain_sharpe(net: np.ndarray) -> float:
    return net.mean() / net.std(ddof=1) * np.sqrt(24 * 365)


def test_a_symbol_is_judged_by_its_own_bars_and_trades(evaluations):
    evaluation = evaluations["logistic"]
    account = evaluation.backtest
    trades = 0
    for row, figures in enumerate(evaluation.figures["per_symbol"].values()):
        net = account.asset_net[row]
        assert figures["sharpe_ratio"]["value"] == pytest.approx(plain_sharpe(net))
        equity = np.concatenate([[1], np.cumprod(1 + net)])
        assert figures["max_drawdown"] == pytest.approx(
            max(1 - equity[bar] / equity[: bar + 1].max() for bar in range(len(equity)))
        )
        trades += figures["num_trades"]
    assert trades == evaluation.figures["trading"]["num_trades"]
    turnover = sum(figures["turnover"] for figures in evaluation.figures["per_symbol"].values())
    assert turnover == pytest.approx(account.turnover.sum())


def test_a_regime_is_judged_by_the_bars_that_follow_its_decisions(planted, evaluations):
    inputs, evaluation = planted[0], evaluations["logistic"]
    regime, volatility = inputs.targets.regime[:, inputs.bars], evaluation.candidate.forecasts.volatility
    realised, account = inputs.targets.volatility[:, inputs.bars], evaluation.backtest
    for code, figures in enumerate(evaluation.figures["per_regime"].values()):
        bars = [bar for bar in range(1, regime.shape[1]) if (regime[:, bar - 1] == code).any()]
        net = [account.asset_net[regime[:, bar - 1] == code, bar].sum() for bar in bars]
        assert figures["net_return"] == pytest.approx(sum(net))
        if len(net) < 3:
            continue
        sharpe = figures["sharpe_ratio"]
        assert sharpe["value"] == pytest.approx(plain_sharpe(np.array(net)))
        assert sharpe["low"] < sharpe["value"] < sharpe["high"]
        inside = (regime == code) & np.isfinite(volatility) & (realised > 0)
        ratio = (realised[inside] / volatility[inside]) ** 2
        assert figures["qlike"] == pytest.approx((ratio - np.log(ratio) - 1).mean(), rel=1e-5)


def test_signals_are_held_as_tranches_over_the_horizon(planted, evaluations):
    inputs, evaluation = planted[0], evaluations["logistic"]
    decisions = evaluation.signals.signed_size
    bar = 40
    assert not evaluation.signals.blind[0, bar - 1]
    assert evaluation.backtest.position[0, bar] == pytest.approx(decisions[0, bar - 8 : bar].mean())
    assert np.abs(evaluation.backtest.position).max() <= inputs.trading.max_position
    assert np.abs(evaluation.backtest.position).sum(axis=0).max() <= inputs.trading.max_gross


def test_predictions_of_all_bars_or_of_the_test_bars_are_the_same_candidate(planted):
    inputs = planted[0]
    shape, quantiles = inputs.test_panel.present.shape, gaussian_quantiles(inputs)
    test_only = SimpleNamespace(
        probabilities=np.full((*shape, 3), 1 / 3),
        volatility=inputs.ewma_volatility,
        regime=np.tile([0.1, 0.2, 0.3, 0.4], (*shape, 1)),
        quantiles=quantiles,
    )
    padded = {
        name: np.concatenate([np.full((shape[0], inputs.test[0], *values.shape[2:]), np.nan), values], axis=1)
        for name, values in vars(test_only).items()
    }
    one = evaluate(inputs, candidate_from_predictions("ensemble", test_only, inputs)).figures
    two = evaluate(inputs, candidate_from_predictions("ensemble", SimpleNamespace(**padded), inputs)).figures
    np.testing.assert_equal(one, two)
    assert one["volatility"]["qlike"] == one["volatility"]["ewma_qlike"]
    assert one["quantiles"]["by_horizon"]["8"]["interval_nominal"] == pytest.approx(0.8)
    assert one["regime"]["accuracy"]["value"] == pytest.approx(
        (inputs.targets.regime[:, inputs.bars] == 3).sum() / one["direction"]["num_forecasts"], rel=0.02
    )


def test_a_baseline_that_cannot_be_made_says_why(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    (candidate,) = run_baselines(*planted, CONFIG, names=("lightgbm",))
    assert "lightgbm" in candidate.skipped
    with pytest.raises(ValueError, match="candidate lightgbm has no forecasts"):
        evaluate(planted[0], candidate)
    (unlearned,) = run_baselines(replace(planted[0], train=(0, 20)), planted[1], CONFIG, names=("ridge",))
    assert "labelled rows" in unlearned.skipped


def test_training_rows_come_from_the_training_span_alone(planted):
    inputs, features = planted
    marked = features.copy()
    marked[:, inputs.train[1] :] = 99
    rows = training_rows(inputs, marked, replace_rows(CONFIG, 300))
    assert len(rows.direction) == 300
    assert not (rows.features == 99).any()
    assert set(np.unique(rows.direction)) == {0, 1, 2}


def replace_rows(config: BaselineConfig, max_train_rows: int) -> BaselineConfig:
    return config.model_copy(update={"max_train_rows": max_train_rows})


def test_ridge_solves_the_normal_equations():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3)).astype(np.float32)
    z = x @ np.array([0.5, 0, -1]) + 0.2 + rng.normal(0, 0.1, 500)
    ridge = RidgeBaseline(TrainingRows(x, np.zeros(500, dtype=int), z), threshold=0.5, penalty=0.0)
    design = np.column_stack([x, np.ones(500)])
    expected = design @ np.linalg.lstsq(design, z, rcond=None)[0]
    np.testing.assert_allclose(ridge.mean(x), expected, atol=1e-4)
    np.testing.assert_allclose(ridge.probabilities(x).sum(axis=1), 1)


def test_logistic_gradient_vanishes_at_the_solution():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    labels = (softmax(x @ rng.normal(size=(2, 3)), axis=1).cumsum(axis=1) > rng.random((400, 1))).argmax(axis=1)
    model = LogisticBaseline(TrainingRows(x, labels, labels.astype(float)), penalty=0.01, max_iterations=200)
    gap = model.probabilities(x) - np.eye(3)[labels]
    gradient = x.T @ gap / 400 + 0.01 * model.weights[:-1]
    np.testing.assert_allclose(gradient, 0, atol=2e-3)
    np.testing.assert_allclose(gap.mean(axis=0), 0, atol=2e-3)


@pytest.mark.parametrize("span", [(0, 0), (-1, 5), (10, 9999)])
def test_bad_spans_are_refused(planted, span):
    inputs = planted[0]
    with pytest.raises(ValueError, match="test must be a span inside"):
        EvaluationInput(inputs.panel, inputs.targets, inputs.target_config, (0, 980), span)
