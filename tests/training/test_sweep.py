"""A sweep around a member: judged inside the training span, repeated for a seed, and applied to tasks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cryptoml.errors import ConfigError
from cryptoml.features.engineer import FeaturePanel
from cryptoml.features.scaling import ScalingConfig
from cryptoml.training.fold import inner_folds
from cryptoml.training.member import FoldData, MemberTask, fit_member, member_loss
from cryptoml.training.sweep import SweepConfig, best_parameters, open_sweep, run_sweep, tuned_tasks
from cryptoml.training.sweep_trial import MemberObjective, apply_parameters
from cryptoml.training.trial import SweepTrial, Worker
from tests.training.conftest import LOOKBACK, TARGETS
from tests.training.test_member import with_features, with_labels

STAMPS = pd.date_range("2024-01-01", periods=400, freq="h", tz="UTC")


def inner(data: FoldData, num_folds: int = 2) -> list[FoldData]:
    panel = FeaturePanel(data.features, data.feature_names, data.symbols, STAMPS, "1h")
    return inner_folds(panel, data.targets, data.fold, TARGETS, ScalingConfig(), num_folds=num_folds, test_fraction=0.4)


@pytest.fixture
def config(task: MemberTask) -> SweepConfig:
    return SweepConfig(num_trials=3, max_epochs=1, num_folds=2, space={"search": ("learning_rate", "dropout")}).around(task)


def trial(number: int, loss: float | None, state: str = "COMPLETE") -> SweepTrial:
    return SweepTrial(number, {"number": number}, {} if loss is None else {"loss": loss}, state)


def judged(task: MemberTask, data: FoldData, epochs: int) -> float:
    """Return the test loss of a fit that ended after some epochs."""
    shorter = apply_parameters(task, {"max_epochs": epochs})
    return member_loss(fit_member(data, shorter).build(), data, shorter, data.fold.test)


def ignore(*_: Any) -> None:
    """Hear nothing."""


class TestInnerFolds:
    def test_lie_inside_the_training_span_and_do_not_meet(self, fold_data: FoldData) -> None:
        folds = inner(fold_data, 3)
        stop, gap = fold_data.fold.train.stop, TARGETS.horizons[-1] + 4
        assert folds[-1].fold.test.stop == folds[-1].features.shape[1] == stop
        for data in folds:
            fold = data.fold
            assert fold.validation.start - fold.train.stop == fold.test.start - fold.validation.stop == gap
            assert data.features.shape[1] == data.targets.sigma.shape[1] == fold.test.stop
        assert [data.fold.test.start for data in folds[1:]] == [data.fold.test.stop for data in folds[:-1]]

    def test_read_nothing_after_the_training_span(self, fold_data: FoldData) -> None:
        later = slice(fold_data.fold.train.stop, None)
        changed = with_features(with_labels(fold_data, later), later)
        for left, right in zip(inner(fold_data), inner(changed), strict=True):
            np.testing.assert_array_equal(left.features, right.features)
            np.testing.assert_array_equal(left.targets.log_return, right.targets.log_return)

    def test_are_scaled_by_their_own_training_span(self, fold_data: FoldData) -> None:
        first = inner(fold_data)[0]
        tested = slice(first.fold.validation.start, None)
        changed = inner(with_features(fold_data, tested))[0]
        train = first.fold.train.bars
        np.testing.assert_array_equal(first.features[:, train], changed.features[:, train])

    def test_a_span_that_is_too_short_is_told(self, fold_data: FoldData) -> None:
        short = replace(fold_data, fold=replace(fold_data.fold, train=replace(fold_data.fold.train, stop=20)))
        with pytest.raises(ConfigError, match="bars are needed"):
            inner(short)


class TestTrial:
    def test_is_the_mean_of_fits_judged_on_their_tests(self, fold_data: FoldData, task: MemberTask) -> None:
        folds, parameters = inner(fold_data), {"learning_rate": 0.004, "dropout": 0.2}
        tuned = apply_parameters(task, parameters | {"max_epochs": 2})
        losses = [member_loss(fit_member(data, tuned).build(), data, tuned, data.fold.test) for data in folds]
        objective = MemberObjective(folds, task, 2)
        assert objective(parameters, ignore, Worker()) == {"loss": pytest.approx(np.mean(losses))}

    def test_reports_after_each_epoch_what_it_is_judged_by_so_far(self, fold_data: FoldData, task: MemberTask) -> None:
        folds, reported = inner(fold_data), []
        found = MemberObjective(folds, task, 3)({}, lambda *end: reported.append(end), Worker())
        assert [step for step, _ in reported] == [1, 2, 3, 4, 5, 6]
        expected = [[judged(task, data, epochs) for epochs in (1, 2, 3)] for data in folds]
        first, second = expected
        assert [loss for _, loss in reported] == pytest.approx([*first, *((first[-1] + loss) / 2 for loss in second)])
        assert reported[-1][1] == found["loss"]

    def test_the_epoch_is_chosen_by_validation_not_by_what_judges(self, fold_data: FoldData, task: MemberTask) -> None:
        """Labels of the test change what is reported, never when a fit stops or which weights it keeps."""
        data = inner(fold_data, 1)[0]
        changed = with_labels(data, data.fold.test.bars)
        fits = []
        for one in (data, changed):
            objective = MemberObjective([one], task, 3, ("loss",), score=lambda member, _: {"weights": fits.append(member)})
            objective({}, ignore, Worker())
        for left, right in zip(fits[0].parameters(), fits[1].parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=0)

    def test_a_fold_that_stops_early_ends_at_the_step_of_all(self, fold_data: FoldData, task: MemberTask) -> None:
        folds, reported = inner(fold_data), []
        hasty = replace(task, training=task.training.updated(patience=1, min_improvement=1e3))
        found = MemberObjective(folds, hasty, 5)({}, lambda *end: reported.append(end), Worker())
        assert [step for step, _ in reported] == [1, 2, 5, 6, 7, 10]
        assert reported[1][1] == reported[2][1]
        assert reported[-1][1] == found["loss"]

    def test_several_objectives(self, fold_data: FoldData, task: MemberTask) -> None:
        drawdowns, returns = iter([0.1, 0.3]), iter([np.full(3, 0.2), np.full(3, 0.1)])
        objective = MemberObjective(
            inner(fold_data),
            task,
            1,
            ("loss", "latency", "sharpe", "drawdown"),
            score=lambda member, data: {"sharpe": 1.0, "drawdown": next(drawdowns), "returns": next(returns)},
        )
        values = objective({}, ignore, Worker())
        assert list(values) == ["loss", "latency", "sharpe", "drawdown", "returns"]
        np.testing.assert_array_equal(values["returns"], [0.2, 0.2, 0.2, 0.1, 0.1, 0.1])
        assert values["latency"] > 0
        assert (values["sharpe"], values["drawdown"]) == (1.0, 0.3)


class TestParameters:
    def test_reach_model_and_loop(self, task: MemberTask) -> None:
        changed = apply_parameters(task, {"hidden_size": 16, "learning_rate": 0.5, "loss": "sum"})
        assert changed.forecaster.hidden_size == 16
        assert (changed.training.learning_rate, changed.training.loss) == (0.5, "sum")
        assert task.forecaster.hidden_size == 8

    def test_leave_groups_of_features_out(self, task: MemberTask) -> None:
        assert apply_parameters(task, {"use_volume": False, "use_time": True}).forecaster.columns == (0, 2)
        assert apply_parameters(task, {"use_volume": True, "use_time": True}).forecaster.columns is None

    @pytest.mark.parametrize("name", ["depth", "use_onchain"])
    def test_an_unknown_one_is_named(self, task: MemberTask, name: str) -> None:
        with pytest.raises(ConfigError, match=f"'{name}'"):
            apply_parameters(task, {name: 3})

    @pytest.mark.parametrize("parameters", [{"hidden_size": 9}, {"learning_rate": -1.0}])
    def test_one_that_does_not_fit_is_refused(self, task: MemberTask, parameters: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(parameters))):
            apply_parameters(task, parameters)

    def test_the_best_wins_and_the_earlier_of_equals(self) -> None:
        trials = [trial(0, 2.0), trial(1, None, "FAIL"), trial(2, 1.0), trial(3, 1.0), trial(4, None, "PRUNED")]
        assert best_parameters(trials) == {"number": 2}
        assert best_parameters([trial(0, None, "FAIL")]) == best_parameters([]) == {}
        earning = [SweepTrial(number, {"number": number}, {"sharpe": value}) for number, value in enumerate((0.5, 2.0, 1.0))]
        assert best_parameters(earning) == {"number": 1}

    def test_other_members_share_the_loop_and_keep_their_own_rate(self, task: MemberTask) -> None:
        best = {"dropout": 0.33, "learning_rate": 0.004, "weight_decay": 0.01, "use_time": False}
        first, second, third = tuned_tasks([task, task, task], best, [False, False, True])
        assert (first.forecaster.dropout, first.training.learning_rate, first.forecaster.columns) == (0.33, 0.004, (0, 1))
        assert (second.forecaster.dropout, second.training.learning_rate) == (task.forecaster.dropout, 0.004)
        assert (third.training.learning_rate, third.training.weight_decay) == (task.training.learning_rate, 0.01)


class TestConfig:
    def test_searches_what_it_names_around_the_task(self, task: MemberTask) -> None:
        assert SweepConfig().around(task).space.varied == ("loss", "dropout", "learning_rate", "weight_decay")
        narrow = SweepConfig(space={"dropout": (0.1, 0.1)}).around(task).space
        assert narrow.varied == ("loss", "learning_rate", "weight_decay")
        shapes = SweepConfig(space={"search": ("hidden_size", "feature_groups")}).around(task).space
        assert shapes.varied == ("hidden_size", "use_volume", "use_time")

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            (
                {"search": ("num_heads",), "num_heads": (3,), "hidden_size": (6,)},
                "hidden_size 8 must be a multiple of num_heads 3",
            ),
            ({"search": ("lookback",)}, f"lookback of the search must be at most {LOOKBACK}"),
            ({"search": ("feature_groups",), "feature_groups": ("onchain",)}, "search must leave something to vary"),
            (
                {"search": ("feature_groups",), "feature_groups": ("price", "volume", "time")},
                "feature_groups must leave a category that always stays",
            ),
        ],
    )
    def test_what_does_not_fit_the_task_is_named(self, task: MemberTask, space: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            SweepConfig(space=space).around(task)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"objectives": ()}, "objectives"),
            ({"objectives": ("profit",)}, "objectives"),
            ({"objectives": ("loss",) * 2}, "differ"),
        ],
    )
    def test_impossible_objectives_are_named(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SweepConfig(**change)


class TestSweep:
    def test_records_each_trial_and_repeats_for_a_seed(self, fold_data: FoldData, task: MemberTask, config: SweepConfig) -> None:
        folds = inner(fold_data)
        first, second = (run_sweep(folds, task, config) for _ in range(2))
        assert [one.number for one in first] == [0, 1, 2]
        assert [(one.parameters, one.values) for one in first] == [(one.parameters, one.values) for one in second]
        assert len({one.parameters["learning_rate"] for one in first}) == 3

    def test_goes_on_in_its_folder_and_only_the_same_sweep_does(
        self, fold_data: FoldData, task: MemberTask, config: SweepConfig, tmp_path: Path
    ) -> None:
        folds = inner(fold_data)
        run_sweep(folds, task, config, open_sweep(folds, task, config, folder=tmp_path))
        more = config.model_copy(update={"num_trials": 4})
        assert open_sweep(folds, task, more, folder=tmp_path).remaining == 1
        longer = config.model_copy(update={"max_epochs": 2})
        others = [(folds, task, longer), (folds[:1], task, config), (folds, replace(task, name="other"), config)]
        assert all(open_sweep(*other, folder=tmp_path).trials == [] for other in others)

    def test_trading_needs_a_score(self, fold_data: FoldData, task: MemberTask, config: SweepConfig) -> None:
        earning = config.model_copy(update={"objectives": ("sharpe",)})
        with pytest.raises(ConfigError, match=r"objectives \('sharpe',\) need a score of trading, which no trial reports"):
            run_sweep(inner(fold_data), task, earning)

    def test_no_trials_are_refused(self, fold_data: FoldData, task: MemberTask, config: SweepConfig) -> None:
        with pytest.raises(ConfigError, match="num_trials must be at least 1, was 0"):
            run_sweep(inner(fold_data), task, config.model_copy(update={"num_trials": 0}))

    def test_a_trial_survives_json(self) -> None:
        assert SweepTrial.from_row(trial(4, 0.5).row()) == trial(4, 0.5)
