"""A study asks, records and goes on: in memory and in a database alike."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from cryptoml.errors import ConfigError, CryptomlError
from cryptoml.training import study as study_module
from cryptoml.training.search_config import SearchConfig
from cryptoml.training.study import Study, allowed
from cryptoml.training.study_storage import INTERRUPTED
from cryptoml.training.trial import Outcome

Objective = Callable[[dict[str, Any]], float]


def suggest(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -1.0, 1.0), "kind": trial.suggest_categorical("kind", ["a", "b"])}


def square(parameters: dict[str, Any]) -> float:
    return parameters["x"] ** 2


def make(num_trials: int = 5, max_steps: int = 3, name: str = "search", **settings: Any) -> Study:
    place = {key: settings.pop(key) for key in ("folder", "storage", "seed") if key in settings}
    return Study(suggest, SearchConfig(num_trials=num_trials, **settings), max_steps, name=name, **place)


def run(study: Study, count: int | None = None, objective: Objective = square) -> None:
    for _ in range(study.remaining if count is None else count):
        number, parameters = study.ask()
        value = objective(parameters)
        if study.report(number, 1, value):
            study.tell(number, Outcome("PRUNED"))
        else:
            study.tell(number, Outcome("COMPLETE", {"loss": value}))


def stored(folder: Path, name: str = "search") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/study.db").trials


class TestRecord:
    def test_states_are_optunas_own(self, tmp_path: Path) -> None:
        study = make(folder=tmp_path)
        outcomes = [Outcome("COMPLETE", {"loss": 0.5}), Outcome("PRUNED"), Outcome("FAIL", reason="loss was nan")]
        for outcome in outcomes:
            number, _ = study.ask()
            study.report(number, 1, 0.7)
            study.tell(number, outcome)
        found = stored(tmp_path)
        assert [trial.state for trial in found] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
        assert [trial.value for trial in found] == [0.5, 0.7, None]
        assert found[2].user_attrs["reason"] == study.trials[2].reason == "loss was nan"
        assert all(trial.intermediate_values == {1: 0.7} for trial in found)
        assert [trial.params for trial in found] == [trial.parameters for trial in study.trials]

    def test_a_running_trial_is_in_the_database_with_its_parameters(self, tmp_path: Path) -> None:
        study = make(folder=tmp_path)
        number, parameters = study.ask()
        study.report(number, 1, 0.3)
        (trial,) = stored(tmp_path)
        assert (trial.state, trial.params, trial.intermediate_values) == (TrialState.RUNNING, parameters, {1: 0.3})

    def test_a_step_that_a_retried_trial_repeats_is_kept_as_it_was(self, tmp_path: Path) -> None:
        study = make(folder=tmp_path)
        number, _ = study.ask()
        study.report(number, 1, 0.3)
        assert not study.report(number, 1, 0.9)
        assert stored(tmp_path)[0].intermediate_values == {1: 0.3}

    @pytest.mark.parametrize("kept", [True, False])
    def test_arrays_lie_beside_it_for_the_next_process(self, tmp_path: Path, kept: bool) -> None:
        study = make(**({"folder": tmp_path} if kept else {}))
        for values in ([0.5, -0.5], [0.25, 0.125], []):
            number, _ = study.ask()
            complete = Outcome("COMPLETE", {"loss": 0.5}, arrays={"returns": np.array(values)})
            study.tell(number, complete if values else Outcome("PRUNED"))
        study = make(folder=tmp_path) if kept else study
        assert {number: values.tolist() for number, values in study.arrays("returns").items()} == {
            0: [0.5, -0.5],
            1: [0.25, 0.125],
        }
        assert study.arrays("weights") == {}

    def test_damaged_arrays_are_none(self, tmp_path: Path) -> None:
        study = make(folder=tmp_path)
        for _ in range(2):
            study.tell(study.ask()[0], Outcome("COMPLETE", {"loss": 0.5}, arrays={"returns": np.ones(9)}))
        next(tmp_path.glob("arrays/search/trial_00000.npz")).write_bytes(b"PK\x03\x04")
        assert list(study.arrays("returns")) == [1]

    def test_several_objectives(self, tmp_path: Path) -> None:
        study = make(folder=tmp_path, objectives=("sharpe", "drawdown"))
        number, _ = study.ask()
        assert not study.report(number, 1, 0.3)
        study.tell(number, Outcome("COMPLETE", {"drawdown": 0.2, "sharpe": 1.5}))
        assert stored(tmp_path)[0].values == [1.5, 0.2]
        assert study.as_optuna().directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]

    def test_tensorboard_has_a_curve_per_trial(self, tmp_path: Path) -> None:
        run(make(num_trials=2, folder=tmp_path, pruner="none"))
        found = sorted((tmp_path / "tensorboard" / "search").iterdir())
        assert [folder.name for folder in found] == ["trial_00000", "trial_00001"]
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(found[0]))
        events.Reload()
        assert {"loss", "objective/loss"} <= set(events.Tags()["scalars"])


class TestSearch:
    def test_same_seed_same_proposals(self) -> None:
        first, second, other = make(num_trials=15), make(num_trials=15), make(num_trials=15, seed=1)
        for study in (first, second, other):
            run(study)
        assert [trial.parameters for trial in first.trials] == [trial.parameters for trial in second.trials]
        assert first.trials[0].parameters != other.trials[0].parameters

    def test_tpe_finds_more_than_chance(self) -> None:
        found = {}
        for sampler in ("tpe", "random"):
            studies = [make(num_trials=40, sampler=sampler, pruner="none", seed=seed) for seed in range(3)]
            for study in studies:
                run(study)
            found[sampler] = sum(min(trial.cost for trial in study.trials) for study in studies)
        assert found["tpe"] < found["random"]

    def test_parallel_proposals_differ(self) -> None:
        study = make(num_trials=40)
        run(study, 15)
        asked = [study.ask()[1]["x"] for _ in range(10)]
        assert len(set(asked)) == 10

    @pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
    def test_a_hopeless_trial_is_given_up_but_not_at_its_last_step(self, pruner: str) -> None:
        study = make(num_trials=60, max_steps=3, pruner=pruner, grace_epochs=1)
        run(study, 30)
        stopped = []
        for step in (1, 2):
            number, _ = study.ask()
            stopped += [study.report(number, at, 9.0) for at in range(1, step + 1)]
        number, _ = study.ask()
        assert any(stopped)
        assert not study.report(number, 3, 9.0)

    def test_nothing_is_given_up_without_a_pruner(self) -> None:
        study = make(num_trials=30, pruner="none")
        run(study)
        assert {trial.state for trial in study.trials} == {"COMPLETE"}

    def test_what_a_proposal_costs_does_not_grow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("BEST", 3), ("LATEST", 10), ("SLACK", 5)):
            monkeypatch.setattr(study_module, name, value)
        study = make(num_trials=80, pruner="none")
        run(study, 20)
        running = [study.ask() for _ in range(4)]
        study._window.enqueue_trial({"x": 0.25})
        run(study, 40)
        assert len(study._window.trials) <= 3 + 10 + 5 + 5
        best = min(study.finished[:-10], key=lambda trial: trial.value)
        assert best.params in [trial.params for trial in study._window.trials]
        for number, parameters in running:
            study.tell(number, Outcome("COMPLETE", {"loss": square(parameters)}))
        assert [trial.number for trial in study.trials] == list(range(64))
        assert 0.25 in [trial.parameters["x"] for trial in study.trials]


class TestGoingOn:
    def test_counts_what_has_finished_and_repeats_what_was_running(self, tmp_path: Path) -> None:
        first = make(folder=tmp_path)
        run(first, 2)
        _, interrupted = first.ask()
        del first  # killed: nothing is told
        second = make(folder=tmp_path)
        assert second.remaining == 3
        assert second.trials[2].reason == INTERRUPTED
        number, parameters = second.ask()
        assert (number, parameters) == (3, interrupted)
        second.tell(number, Outcome("COMPLETE", {"loss": 1.0}))
        run(second)
        assert make(folder=tmp_path).remaining == 0
        tried = [tuple(trial.params.values()) for trial in stored(tmp_path) if trial.user_attrs.get("reason") != INTERRUPTED]
        assert len(set(tried)) == len(tried) == 5

    def test_an_interrupt_fails_what_was_running(self, tmp_path: Path) -> None:
        study = make(folder=tmp_path)
        study.ask()
        study.interrupt()
        assert [(trial.state, trial.user_attrs["reason"]) for trial in stored(tmp_path)] == [(TrialState.FAIL, INTERRUPTED)]

    def test_a_pruner_remembers_the_rungs(self, tmp_path: Path) -> None:
        run(make(num_trials=9, folder=tmp_path, grace_epochs=1), objective=lambda _: 0.1)
        study = make(num_trials=10, folder=tmp_path, grace_epochs=1)
        number, _ = study.ask()
        assert study.report(number, 1, 0.5)

    def test_more_trials_may_be_asked_for(self, tmp_path: Path) -> None:
        run(make(num_trials=2, folder=tmp_path))
        assert make(num_trials=6, folder=tmp_path).remaining == 4

    def test_other_objectives_are_refused(self, tmp_path: Path) -> None:
        run(make(num_trials=1, folder=tmp_path))
        with pytest.raises(
            ConfigError, match=r"objectives must be \['loss'\] as in study search of .*study.db, were \['latency'\]"
        ):
            make(folder=tmp_path, objectives=("latency",))

    def test_another_space_is_refused(self, tmp_path: Path) -> None:
        run(make(num_trials=1, folder=tmp_path))
        study = make(folder=tmp_path)
        study.suggest = lambda trial: {"kind": trial.suggest_categorical("kind", ["a", "b", "c"])}
        with pytest.raises(ConfigError, match="search space must be that of the earlier trials of study search"):
            study.ask()


class TestWarmStart:
    def test_tries_the_best_of_an_earlier_study_first(self, tmp_path: Path) -> None:
        earlier = make(num_trials=20, folder=tmp_path, pruner="none")
        run(earlier)
        best = sorted(earlier.trials, key=lambda trial: trial.cost)[:5]
        study = make(num_trials=8, warm_start=(f"sqlite:///{tmp_path}/study.db",), pruner="none")
        study.warm_start()
        run(study)
        assert [trial.parameters for trial in study.trials[:5]] == [trial.parameters for trial in best]

    def test_takes_what_the_new_space_holds(self) -> None:
        assert allowed(suggest, {"x": 0.5, "kind": "c", "old": 1}) == {"x": 0.5}
        assert allowed(suggest, {"x": 2.0, "kind": "b"}) == {"kind": "b"}

    def test_an_absent_study_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"warm_start must name earlier studies, .*none.db does not exist"):
            make(warm_start=(str(tmp_path / "none.db"),)).warm_start()


class TestStorage:
    @pytest.mark.parametrize("address", ["sqlite:////dev/null/study.db", "/dev/null/study.db", "nonsense://here"])
    def test_one_that_cannot_be_written_is_named_before_anything_starts(self, address: str) -> None:
        with pytest.raises(ConfigError, match=r"storage .* cannot be written") as caught:
            make(storage=address)
        assert "\n" not in str(caught.value)

    def test_a_password_is_not_shown(self) -> None:
        with pytest.raises(ConfigError, match=r"storage .*\*\*\*") as caught:
            make(storage="postgresql+nonsense://me:secret@localhost:1/db")
        assert "secret" not in str(caught.value)

    def test_a_full_one_is_named_and_what_was_written_stays(self, tmp_path: Path) -> None:
        study = make(folder=tmp_path, pruner="none")
        run(study, 2)
        assert study._storage is not None
        with sqlite3.connect(tmp_path / "study.db") as connection:
            connection.execute("CREATE TRIGGER full BEFORE INSERT ON trials BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
        with pytest.raises(CryptomlError, match=r"storage .*study.db cannot be written: .*disk is full"):
            study.ask()
        assert [trial.state for trial in stored(tmp_path)] == [TrialState.COMPLETE] * 2
