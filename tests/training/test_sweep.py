"""A sweep in one process: it records every trial, repeats for a seed, and never looks at the test."""

from typing import Any

import pytest

from cryptoml.errors import ConfigError, CryptomlError, DataError
from cryptoml.training import sweep
from cryptoml.training.member import FoldData, MemberTask, fit_member
from cryptoml.training.sweep import SweepConfig, SweepTrial, apply_parameters, best_parameters, run_sweep, run_trial, tuned_tasks
from tests.training.conftest import LOOKBACK
from tests.training.test_member import with_features, with_labels

SPACE = {"hidden_size": (8,), "num_heads": (2,), "num_layers": (1,), "batch_size": (4,), "learned_task_weights": (True,)}


@pytest.fixture
def config(task: MemberTask) -> SweepConfig:
    return SweepConfig(num_trials=3, max_epochs=1, space=SPACE).around(task)


def trial(number: int, loss: float | None, state: str = "COMPLETE") -> SweepTrial:
    return SweepTrial(number, {"number": number}, loss, 1.0, state)


class TestTrial:
    def test_equals_a_fit_with_its_parameters(self, fold_data: FoldData, task: MemberTask) -> None:
        parameters = {"learning_rate": 0.004, "dropout": 0.2}
        expected = fit_member(fold_data, apply_parameters(task, parameters | {"max_epochs": 1})).validation_loss
        assert run_trial(fold_data, task, parameters, max_epochs=1) == expected

    def test_reads_nothing_after_the_validation_span(self, fold_data: FoldData, task: MemberTask) -> None:
        test = slice(fold_data.fold.validation.stop, None)
        changed = with_features(with_labels(fold_data, test), test)
        assert run_trial(changed, task, {}, max_epochs=1) == run_trial(fold_data, task, {}, max_epochs=1)


class TestParameters:
    def test_reach_model_and_loop(self, task: MemberTask) -> None:
        changed = apply_parameters(task, {"hidden_size": 16, "learning_rate": 0.5, "learned_task_weights": False})
        assert changed.forecaster.hidden_size == 16
        assert (changed.training.learning_rate, changed.training.learned_task_weights) == (0.5, False)
        assert task.forecaster.hidden_size == 8

    def test_an_unknown_one_is_named(self, task: MemberTask) -> None:
        with pytest.raises(ConfigError, match="'depth'"):
            apply_parameters(task, {"depth": 3})

    @pytest.mark.parametrize("parameters", [{"hidden_size": 9}, {"learning_rate": -1.0}])
    def test_one_that_does_not_fit_is_refused(self, task: MemberTask, parameters: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(parameters))):
            apply_parameters(task, parameters)

    def test_the_lowest_loss_wins_and_the_earlier_of_equals(self) -> None:
        trials = [trial(0, 2.0), trial(1, None, "FAIL"), trial(2, 1.0), trial(3, 1.0)]
        assert best_parameters(trials) == {"number": 2}
        assert best_parameters([trial(0, None, "FAIL")]) == {}
        assert best_parameters([]) == {}


class TestSweep:
    def test_records_each_trial_and_repeats_for_a_seed(self, fold_data: FoldData, task: MemberTask, config: SweepConfig) -> None:
        first, second = (run_sweep(fold_data, task, config) for _ in range(2))
        assert [one.number for one in first] == [0, 1, 2]
        assert [(one.parameters, one.loss) for one in first] == [(one.parameters, one.loss) for one in second]
        assert all(one.parameters["lookback"] == LOOKBACK and one.parameters["architecture"] == "tcn" for one in first)
        assert len({one.parameters["learning_rate"] for one in first}) == 3

    def test_a_failed_trial_is_recorded_and_the_others_go_on(
        self, fold_data: FoldData, task: MemberTask, config: SweepConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        losses = iter([0.7, None, 0.6])

        def run(*_: Any, **__: Any) -> float:
            loss = next(losses)
            if loss is None:
                raise DataError("training loss must be finite")
            return loss

        monkeypatch.setattr(sweep, "run_trial", run)
        trials = run_sweep(fold_data, task, config)
        assert [(one.state, one.loss) for one in trials] == [("COMPLETE", 0.7), ("FAIL", None), ("COMPLETE", 0.6)]
        assert best_parameters(trials) == trials[2].parameters

    def test_is_an_error_where_every_trial_failed(
        self, fold_data: FoldData, task: MemberTask, config: SweepConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run(*_: Any, **__: Any) -> float:
            raise DataError("training loss must be finite")

        monkeypatch.setattr(sweep, "run_trial", run)
        with pytest.raises(CryptomlError, match=r"every trial .* training loss must be finite"):
            run_sweep(fold_data, task, config)

    def test_a_trial_survives_json(self) -> None:
        assert SweepTrial(**trial(4, 0.5).row()) == trial(4, 0.5)

    def test_keeps_what_it_does_not_search(self, task: MemberTask) -> None:
        space = SweepConfig().around(task).space
        assert (space.architecture, space.lookback) == ((task.forecaster.architecture,), (task.forecaster.lookback,))
        assert (space.hidden_size, space.batch_size) == ((task.forecaster.hidden_size,), (task.training.batch_size,))
        assert space.learning_rate == SweepConfig().space.learning_rate
        assert SweepConfig(shapes=True).around(task).space.hidden_size == SweepConfig().space.hidden_size

    def test_other_members_share_the_loop_and_keep_their_own_rate(self, task: MemberTask) -> None:
        best = {"dropout": 0.33, "learning_rate": 0.004, "weight_decay": 0.01}
        first, second, third = tuned_tasks([task, task, task], best, [False, False, True])
        assert (first.forecaster.dropout, first.training.learning_rate) == (0.33, 0.004)
        assert (second.forecaster.dropout, second.training.learning_rate) == (task.forecaster.dropout, 0.004)
        assert (third.training.learning_rate, third.training.weight_decay) == (task.training.learning_rate, 0.01)
