"""Searches on a real cluster: the plain trials, side by side, whatever happens to their processes."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from torch import nn

import cryptoml
from cryptoml.distributed.tuning.engine import RayEngine
from cryptoml.errors import ConfigError, CryptomlError
from cryptoml.models.forecaster import Forecaster
from cryptoml.training.config import TrainingConfig
from cryptoml.training.member import FoldData
from cryptoml.training.search import search
from cryptoml.training.search_config import SearchConfig
from cryptoml.training.study import Study
from cryptoml.training.sweep import SweepConfig, open_sweep, run_sweep
from cryptoml.training.trial import SweepTrial
from cryptoml.training.worker_config import WorkerConfig
from tests.distributed.market import small_task
from tests.distributed.objectives import Scripted, suggest


def run(objective: Any, folder: Path, num_trials: int = 4, max_steps: int = 1, **resources: Any) -> list[SweepTrial]:
    config = SearchConfig(num_trials=num_trials, pruner="asha" if max_steps > 1 else "none")
    study = Study(suggest, config, max_steps, folder=folder)
    return search(objective, study, RayEngine(WorkerConfig(**resources)))


def stored(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/study.db").trials


def most_at_once(trials: list[SweepTrial]) -> int:
    """Return how many trials ran at the same time, by their own logs."""
    starts = [(trial.started, 1) for trial in trials]
    ends = [(trial.started + trial.seconds, -1) for trial in trials]
    return int(np.cumsum([change for _, change in sorted(starts + ends)]).max())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_cluster")
class TestRoom:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_workers": 3}, "num_workers must be at most 2, which the cluster holds with 1 CPUs each, was 3"),
            ({"num_workers": 2, "gpus": 1}, "num_workers must be at most 1, which the cluster holds with 1 CPUs and 1 GPUs each"),
            ({"cpus": 3}, "cpus must be at most 2, all of the largest node, was 3"),
            ({"gpus": 2}, "gpus must be at most 1, all of the best node, was 2"),
        ],
    )
    def test_more_than_the_cluster_can_ever_hold_is_refused_before_anything_starts(
        self, tmp_path: Path, settings: dict, message: str
    ) -> None:
        objective = Scripted(tmp_path)
        with pytest.raises(ConfigError, match=message):
            run(objective, tmp_path, **settings)
        assert objective.calls == 0
        assert stored(tmp_path) == []

    def test_several_workers_need_a_dashboard(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="num_workers above 1 for a trial needs a cluster with its dashboard"):
            run(Scripted(tmp_path), tmp_path, num_workers=2)

    def test_mlflow_that_is_not_installed_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        study = Study(suggest, SearchConfig(num_trials=1), 1)
        with pytest.raises(ConfigError, match=r"mlflow .* needs the package of that name"):
            search(Scripted(tmp_path), study, RayEngine(mlflow="sqlite:///mlflow.db"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_cluster")
class TestTrials:
    def test_run_side_by_side_and_leave_their_record(self, tmp_path: Path) -> None:
        trials = run(Scripted(tmp_path, seconds=0.5, together=2), tmp_path, num_trials=6)
        assert [(trial.number, trial.state) for trial in trials] == [(number, "COMPLETE") for number in range(6)]
        assert most_at_once(trials) == 2
        assert len({trial.pid for trial in trials}) == 2  # processes are used again
        assert all(trial.resources == {"CPU": 1.0} and 0.5 <= trial.seconds < 300 for trial in trials)
        assert all(trial.values == {"loss": trial.parameters["x"]} for trial in trials)

    def test_pruned_ones_are_recorded_as_pruned(self, tmp_path: Path) -> None:
        trials = run(Scripted(tmp_path, epochs=9, seconds=0.02), tmp_path, num_trials=12, max_steps=9)
        states = {trial.state for trial in trials}
        assert states == {"COMPLETE", "PRUNED"}
        for trial, record in zip(trials, stored(tmp_path), strict=True):
            assert record.state.name == trial.state
            assert (max(record.intermediate_values) < 9) == (trial.state == "PRUNED")
        complete, pruned = (
            [trial.parameters["x"] for trial in trials if trial.state == state] for state in ("COMPLETE", "PRUNED")
        )
        assert min(complete) < min(pruned)

    def test_failed_ones_are_recorded_and_the_others_go_on(self, tmp_path: Path) -> None:
        trials = run(Scripted(tmp_path, {1: "memory", 2: "nan", 3: "bug"}), tmp_path, num_trials=6)
        reasons = sorted(trial.reason for trial in trials if trial.state == "FAIL")
        assert reasons == ["MemoryError: ", "TypeError: no such argument", "loss must be finite, was nan"]
        assert sum(trial.state == "COMPLETE" for trial in trials) == 3
        assert sum(record.state == TrialState.FAIL for record in stored(tmp_path)) == 3

    def test_one_whose_process_dies_is_tried_again(self, tmp_path: Path) -> None:
        objective = Scripted(tmp_path, {2: "kill"}, epochs=2)
        trials = run(objective, tmp_path, num_trials=3)
        assert [trial.state for trial in trials] == ["COMPLETE"] * 3
        assert objective.calls == 4

    def test_one_whose_process_always_dies_fails(self, tmp_path: Path) -> None:
        trials = run(Scripted(tmp_path, {1: "kill"}), tmp_path, num_trials=2, max_failures=0)
        assert sorted(trial.state for trial in trials) == ["COMPLETE", "FAIL"]
        assert "process died" in next(trial.reason for trial in trials if trial.state == "FAIL")

    def test_a_search_without_success_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(CryptomlError, match="every trial of the search failed, the last with: loss must be finite, was nan"):
            run(Scripted(tmp_path, dict.fromkeys(range(1, 3), "nan")), tmp_path, num_trials=2)

    @pytest.mark.filterwarnings("ignore")  # MLflow's own
    def test_mlflow_hears_of_every_trial(self, tmp_path: Path) -> None:
        tracking = pytest.importorskip("mlflow").tracking
        address = f"sqlite:///{tmp_path}/mlflow.db"
        study = Study(suggest, SearchConfig(num_trials=3, pruner="none"), 2, name="logged")
        trials = search(Scripted(tmp_path, epochs=2), study, RayEngine(mlflow=address))
        client = tracking.MlflowClient(address)
        runs = client.search_runs([client.get_experiment_by_name("logged").experiment_id])
        logged = {(run.info.run_name, run.data.params["x"], run.data.metrics["objective_loss"]) for run in runs}
        assert logged == {(f"trial_{trial.number:05d}", str(trial.parameters["x"]), trial.values["loss"]) for trial in trials}
        assert [len(client.get_metric_history(run.info.run_id, "loss")) for run in runs] == [2, 2, 2]  # one per epoch

    def test_more_trials_than_gpus_take_turns(self, tmp_path: Path) -> None:
        trials = run(Scripted(tmp_path, seconds=0.2), tmp_path, num_trials=3, gpus=1, cpus=0.1)
        assert [trial.state for trial in trials] == ["COMPLETE"] * 3
        assert most_at_once(trials) == 1
        assert trials[0].resources == {"CPU": 0.1, "GPU": 1.0}

    def test_fractions_share_a_gpu(self, tmp_path: Path) -> None:
        trials = run(Scripted(tmp_path, seconds=0.1, together=2), tmp_path, num_trials=4, gpus=0.5, cpus=0.1)
        assert most_at_once(trials) == 2

    def test_a_storage_that_fills_up_ends_the_search_and_keeps_what_it_holds(self, tmp_path: Path) -> None:
        import sqlite3

        run(Scripted(tmp_path), tmp_path, num_trials=2)
        with sqlite3.connect(tmp_path / "study.db") as connection:
            connection.execute("CREATE TRIGGER full BEFORE INSERT ON trials BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
        with pytest.raises(CryptomlError, match=r"storage .*study.db cannot be written: .*disk is full"):
            run(Scripted(tmp_path), tmp_path, num_trials=4)
        assert [record.state for record in stored(tmp_path)] == [TrialState.COMPLETE] * 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_cluster", "one_thread")
class TestSweep:
    def test_equals_the_one_in_this_process(self, fold: FoldData, tmp_path: Path) -> None:
        task = small_task(fold)
        config = SweepConfig(num_trials=3, max_epochs=1, num_folds=1, pruner="none").around(task)
        studies = [open_sweep([fold], task, config, folder=tmp_path / name) for name in ("plain", "ray")]
        plain = run_sweep([fold], task, config, studies[0], score=score)
        found = run_sweep([fold], task, config, studies[1], score=score, engine=RayEngine())
        assert [trial.parameters for trial in found] == [trial.parameters for trial in plain]
        losses = [[trial.values["loss"] for trial in trials] for trials in (found, plain)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
        returns = [study.arrays("returns") for study in studies]
        assert list(returns[0]) == list(returns[1]) == [0, 1, 2]
        assert all(np.array_equal(returns[0][number], returns[1][number]) for number in range(3))


def score(member: Forecaster, data: FoldData) -> dict[str, Any]:
    """Let a trial's returns be the first feature."""
    return {"sharpe": 0.0, "drawdown": 0.0, "returns": data.features[0, data.fold.test.bars, 0]}


def build(hidden_size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, hidden_size), nn.Linear(hidden_size, 1))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_cluster", "one_thread")
def test_the_public_search_takes_the_cluster_that_is_at_hand(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
    data = (x, x[:, :1] - x[:, 1:2])
    settings = {"search_space": {"hidden_size": (4, 8), "learning_rate": (1e-3, 1e-1)}, "config": TrainingConfig(max_epochs=1)}
    make = partial(cryptoml.HyperparameterOptimizer, build, data, data, "cpu", 3, **settings)
    searches = {engine: make(engine=engine) for engine in ("auto", "local")}
    best = {engine: search.optimize() for engine, search in searches.items()}
    assert best["auto"] == best["local"]
    losses = [[trial.values["loss"] for trial in search.trials if trial.values] for search in searches.values()]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert {trial.pid for trial in searches["auto"].trials}.isdisjoint({os.getpid()})
    assert {trial.pid for trial in searches["local"].trials} == {os.getpid()}
