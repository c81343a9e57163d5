"""Candidates against each other: paired on the same rows, seeds, trials of a search, ablations."""

from dataclasses import replace

import numpy as np
import pytest

from cryptoml.evaluation.baselines import buy_and_hold
from cryptoml.evaluation.candidates import Candidate, EvaluationInput, gaussian_quantiles
from cryptoml.evaluation.comparison import MEASURES, compare, judge_refit, seed_spread
from cryptoml.evaluation.protocol import Evaluation, evaluate, trade
from cryptoml.evaluation.seeds import SEED_FIGURES, seed_table
from cryptoml.evaluation.selection import deflated_sharpe_of_returns
from cryptoml.evaluation.trials import TrialReturns, selection_figures, trial_returns
from cryptoml.evaluation.volatility_baselines import heterogeneous_autoregression
from cryptoml.trading.forecasts import Forecasts
from cryptoml.training.trial import SweepTrial


def skilled(inputs: EvaluationInput, name: str, skill: float, seed: int = 0) -> Candidate:
    """Forecast the labels right with some skill: 0 is noise."""
    rng = np.random.default_rng(seed)
    labels = inputs.targets.direction[:, inputs.bars]
    truth = np.eye(3)[np.maximum(labels, 0)] * skill
    weights = rng.dirichlet([2, 2, 2], size=labels.shape) + truth
    probabilities = weights / weights.sum(axis=-1, keepdims=True)
    probabilities[~inputs.test_panel.present] = np.nan
    volatility = inputs.ewma_volatility * (1 + 0.3 * (1 - skill) * rng.random(labels.shape))
    forecasts = Forecasts.of(probabilities, volatility, horizon_bars=inputs.horizon_bars, timeframe="1h")
    return Candidate(name, forecasts, gaussian_quantiles(inputs))


@pytest.fixture(scope="module")
def pair_of(planted) -> tuple[EvaluationInput, Evaluation, Evaluation]:
    inputs = planted[0]
    return inputs, *(evaluate(inputs, skilled(inputs, name, skill)) for name, skill in (("good", 0.5), ("poor", 0.1)))


def test_the_better_one_is_found_better_by_every_measure(pair_of):
    inputs, good, poor = pair_of
    found = compare(inputs, good, poor)
    assert list(found) == [measure.name for measure in MEASURES]
    for name in ("accuracy", "auc", "rank_ic", "log_loss", "qlike", "sharpe_ratio"):
        assert found[name]["better"] is True, name
    assert found["pinball_loss"] == {"value": 0, "low": 0, "high": 0, "better": None}


def test_the_other_way_round_is_the_same_with_the_sign_turned(pair_of):
    inputs, good, poor = pair_of
    one, two = compare(inputs, good, poor), compare(inputs, poor, good)
    for name, figures in one.items():
        assert figures["value"] == pytest.approx(-two[name]["value"])
        assert (figures["low"], figures["high"]) == pytest.approx((-two[name]["high"], -two[name]["low"]))


def test_differences_are_those_of_the_figures_where_both_cover_the_same_rows(pair_of):
    inputs, good, poor = pair_of
    found, (one, two) = compare(inputs, good, poor), (good.figures, poor.figures)
    places = {
        "accuracy": ("direction", "accuracy", "value"),
        "auc": ("direction", "auc", "value"),
        "log_loss": ("direction", "log_loss"),
        "rank_ic": ("ranking", "rank_ic", "value"),
        "qlike": ("volatility", "qlike", "value"),
        "sharpe_ratio": ("trading", "sharpe_ratio", "value"),
    }
    for name, path in places.items():
        left, right = one, two
        for step in path:
            left, right = left[step], right[step]
        assert found[name]["value"] == pytest.approx(left - right, abs=1e-9), name


def test_rows_that_one_side_lacks_count_for_neither(pair_of, planted):
    inputs, good, _ = pair_of
    gapped = skilled(inputs, "gapped", 0.5)
    gapped.forecasts.probabilities[1] = np.nan
    gapped.forecasts.volatility[1] = np.nan
    found = compare(inputs, evaluate(inputs, gapped), good)
    for name in ("accuracy", "auc", "log_loss", "qlike"):
        assert found[name]["value"] == pytest.approx(0, abs=1e-12), name


def test_what_a_side_does_not_say_is_left_out(pair_of):
    inputs, good, _ = pair_of
    har = evaluate(inputs, heterogeneous_autoregression(inputs))
    assert list(compare(inputs, good, har)) == ["qlike"]
    holder = evaluate(inputs, replace(buy_and_hold(inputs), quantiles=None))
    assert "pinball_loss" not in compare(inputs, good, holder)


@pytest.fixture(scope="module")
def runs(planted) -> dict[str, Evaluation]:
    inputs = planted[0]
    return {str(seed): evaluate(inputs, skilled(inputs, f"seed_{seed}", 0.3, seed)) for seed in range(3)}


@pytest.fixture(scope="module")
def trials(planted) -> TrialReturns:
    inputs = planted[0]
    made = {number: skilled(inputs, f"trial_{number}", 0.1, number) for number in range(5)}
    returns = {number: trade(inputs, trial)[1].net for number, trial in made.items()}
    return trial_returns(returns, [tried(number, "COMPLETE" if number in made else "PRUNED") for number in range(6)])


def tried(number: int, state: str, **parameters: float) -> SweepTrial:
    return SweepTrial(number, parameters or {"dropout": number / 10}, {}, state)


class TestRefits:
    def test_seeds_differ_by_what_their_deviation_says_of_two_more(self, planted, runs: dict[str, Evaluation]) -> None:
        areas = [run.figures["direction"]["auc"]["value"] for run in runs.values()]
        spread = seed_spread(planted[0], list(runs.values()))
        assert spread["auc"] == pytest.approx(4.3027 * np.sqrt(2) * np.std(areas, ddof=1), rel=1e-4)  # t of 2 degrees, 97.5%
        assert spread["pinball_loss"] == 0
        assert seed_spread(planted[0], [runs["0"]]) == {}

    @pytest.mark.parametrize(
        ("spread", "better"), [({"auc": 0.004}, False), ({"auc": 0.006}, None), ({"auc": 0.0}, None), ({}, None)]
    )
    def test_what_another_seed_changes_as_much_is_no_verdict(self, spread: dict[str, float], better: bool | None) -> None:
        change = {"value": -0.005, "low": -0.007, "high": -0.003, "better": False}
        assert judge_refit({"auc": change}, spread) == {"auc": {**change, "better": better, "seed_spread": spread.get("auc")}}

    def test_what_bars_cannot_tell_from_zero_stays_open(self) -> None:
        change = {"value": 0.02, "low": -0.01, "high": 0.05, "better": None}
        assert judge_refit({"auc": change}, {"auc": 0.001})["auc"]["better"] is None


class TestSeeds:
    def test_mean_and_deviation_over_the_runs(self, runs: dict[str, Evaluation]) -> None:
        found = seed_table(runs)
        areas = [run.figures["direction"]["auc"]["value"] for run in runs.values()]
        assert [row["auc"] for row in found["per_seed"].values()] == areas
        assert found["mean"]["auc"] == pytest.approx(np.mean(areas))
        assert found["sd"]["auc"] == pytest.approx(np.std(areas, ddof=1))
        assert set(found["mean"]) == set(SEED_FIGURES)
        assert list(seed_table(list(runs.values()))["per_seed"]) == ["0", "1", "2"]

    def test_one_run_has_no_deviation_and_none_is_refused(self, runs: dict[str, Evaluation]) -> None:
        alone = seed_table([runs["1"]])
        assert np.isnan(alone["sd"]["auc"])
        assert alone["mean"] == alone["per_seed"]["0"]
        with pytest.raises(ValueError, match="at least one evaluation"):
            seed_table([])


class TestTrials:
    def test_lie_side_by_side_and_all_count(self, planted, trials: TrialReturns) -> None:
        inputs = planted[0]
        assert trials.names == tuple(f"trial_{number}" for number in range(5))
        assert (trials.num_trials, trials.num_ended) == (6, 1)
        alone = evaluate(inputs, skilled(inputs, "trial_3", 0.1, 3)).backtest.net
        np.testing.assert_array_equal(trials.returns[:, 3], alone)
        ratios = trials.returns.mean(axis=0) / trials.returns.std(axis=0, ddof=1)
        assert trials.sharpe_variance == pytest.approx(ratios.var(ddof=1))

    def test_a_configuration_counts_once_however_often_it_was_started(self) -> None:
        trials = [tried(number, state, dropout=0.1) for number, state in enumerate(("FAIL", "FAIL", "COMPLETE", "COMPLETE"))]
        trials += [tried(4, "COMPLETE", dropout=0.2), tried(5, "PRUNED", dropout=0.3), tried(6, "PRUNED", dropout=0.1)]
        trials += [tried(7, "FAIL", dropout=0.4)]
        found = trial_returns({2: np.full(8, 0.1), 3: np.full(8, 0.1), 4: np.full(8, 0.2)}, trials)
        assert found.names == ("trial_2", "trial_4")
        assert found.returns[0].tolist() == [0.1, 0.2]
        assert (found.num_trials, found.num_ended) == (3, 1)

    def test_nothing_searched_is_nothing_tried(self) -> None:
        assert trial_returns({}, []).num_trials == 0

    def test_figures_of_the_search(self, trials: TrialReturns) -> None:
        found = selection_figures(trials)
        assert 0 <= found["overfitting_probability"] <= 1
        assert found["num_splits"] == 12_870
        assert found["best_sharpe_per_bar"] == pytest.approx(trials.sharpe_ratios.max())

    def test_one_trial_has_nothing_to_overfit(self, trials: TrialReturns) -> None:
        alone = TrialReturns(("only",), trials.returns[:, :1])
        found = selection_figures(alone)
        assert np.isnan(found["overfitting_probability"])
        assert found["sharpe_variance_per_bar"] is None

    def test_only_what_the_trials_chose_is_deflated_by_them(self, planted, trials: TrialReturns) -> None:
        tuned = frozenset({"ensemble", "ensemble_seed_2", "member_tft"})
        spread = trials.sharpe_variance
        inputs = replace(planted[0], num_trials=trials.num_trials, trial_sharpe_variance=spread, tuned=tuned)
        for name, tried in (("ensemble", 6), ("ensemble_seed_2", 6), ("member_tft", 6), ("lightgbm", 1)):
            evaluation = evaluate(inputs, skilled(inputs, name, 0.1))
            trading = evaluation.figures["trading"]
            assert trading["num_trials"] == tried
            expected = deflated_sharpe_of_returns(evaluation.backtest.net, tried, trials.sharpe_variance)
            assert trading["deflated_sharpe_ratio"] == expected
