"""Hyperparameter search in one process: the space, the trials, and the public class over any model."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from cryptoml.errors import ConfigError, CryptomlError, DataError
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.training.optimizer import FactoryObjective, HyperparameterOptimizer
from cryptoml.training.search import search
from cryptoml.training.search_config import SearchConfig
from cryptoml.training.search_space import HYPERPARAMETERS, SearchSpace
from cryptoml.training.study import Study
from cryptoml.training.trainer import TrainingConfig
from cryptoml.training.trial import Worker, attempt

SMALL = {"hidden_size": (4, 8), "num_heads": (2,), "batch_size": (16,), "learning_rate": (1e-3, 1e-1), "dropout": (0.0, 0.4)}


def regression(count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((count, 3)).astype(np.float32)
    return x, x[:, :1] - x[:, 1:2]


def by_dict(params: dict) -> nn.Module:
    return nn.Sequential(nn.Linear(3, params["hidden_size"]), nn.Dropout(params["dropout"]), nn.Linear(params["hidden_size"], 1))


class TestSpace:
    def test_suggestions_are_the_trials_parameters(self) -> None:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(10):
            trial = study.ask()
            suggested = SearchSpace().suggest(trial)
            assert suggested == trial.params
            assert suggested["hidden_size"] % suggested["num_heads"] == 0

    def test_holds_everything_that_can_be_searched(self) -> None:
        suggested = SearchSpace().suggest(optuna.create_study().ask())
        assert set(HYPERPARAMETERS) - {"feature_groups"} <= set(suggested)
        assert {"use_volume", "use_onchain", "use_cross_section"} <= set(suggested)

    def test_varies_what_is_searched_alone(self) -> None:
        space = SearchSpace(search=("dropout", "feature_groups"), feature_groups=("time",))
        assert set(space.suggest(optuna.create_study().ask())) == set(space.varied) == {"dropout", "use_time"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"hidden_size": ()}, "hidden_size"),
            ({"hidden_size": (30,), "num_heads": (4,)}, "hidden_size 30 must be a multiple of num_heads 4"),
            ({"dropout": (0.5, 0.1)}, "dropout must run from low to high"),
            ({"batch_size": (0,)}, "batch_size must hold values of at least 1"),
            ({"colour": ("red",)}, "colour"),
            ({"search": ()}, "search"),
            ({"search": ("colour",)}, "search must be among .*, was 'colour'"),
            ({"feature_groups": ("weather",)}, "feature_groups must be among .*, was 'weather'"),
            ({"loss": ("focal",)}, "loss"),
        ],
    )
    def test_bad_spaces_are_named(self, change: dict, message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            SearchSpace(**change)

    def test_one_without_variety_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="search must leave something to vary"):
            SearchSpace(search=("num_heads",), num_heads=(2,)).require_variety()


class TestAttempt:
    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (DataError("training loss must be finite"), "training loss must be finite"),
            (MemoryError(), "MemoryError"),
            (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
            (TypeError("no such argument"), "TypeError: no such argument"),
        ],
    )
    def test_an_error_fails_the_trial(self, error: Exception, reason: str) -> None:
        def objective(*_: Any) -> dict[str, float]:
            raise error

        outcome = attempt(objective, {}, lambda *_: None)
        assert outcome.state == "FAIL"
        assert outcome.reason.startswith(reason)
        assert outcome.facts["seconds"] >= 0

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_so_does_a_value_that_is_not_finite(self, value: float) -> None:
        outcome = attempt(lambda *_: {"loss": value}, {}, lambda *_: None)
        assert (outcome.state, outcome.values) == ("FAIL", {})
        assert outcome.reason == f"loss must be finite, was {value}"

    def test_ctrl_c_is_not_a_failure(self) -> None:
        def objective(*_: Any) -> dict[str, float]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            attempt(objective, {}, lambda *_: None)


class TestRun:
    def study(self, folder: Path, num_trials: int = 4) -> Study:
        return Study(lambda trial: {"x": trial.suggest_float("x", 0, 1)}, SearchConfig(num_trials=num_trials), 1, folder=folder)

    def test_failures_are_recorded_and_the_search_goes_on(self, tmp_path: Path) -> None:
        calls: list[dict] = []

        def objective(parameters: Any, *_: Any) -> dict[str, float]:
            calls.append(parameters)
            if len(calls) == 2:
                raise MemoryError
            return {"loss": 1.0}

        trials = search(objective, self.study(tmp_path))
        assert [trial.state for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
        assert trials[1].reason == "MemoryError: "

    def test_goes_on_after_ctrl_c_without_repeating_a_finished_trial(self, tmp_path: Path) -> None:
        tried: list[float] = []

        def objective(parameters: Any, *_: Any) -> dict[str, float]:
            tried.append(parameters["x"])
            if len(tried) == 3:
                raise KeyboardInterrupt
            return {"loss": parameters["x"]}

        with pytest.raises(KeyboardInterrupt):
            search(objective, self.study(tmp_path))
        trials = search(objective, self.study(tmp_path))
        assert [trial.state for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
        assert len(tried) == 5
        assert tried[2] == tried[3]

    def test_is_an_error_where_every_trial_failed(self, tmp_path: Path) -> None:
        with pytest.raises(CryptomlError, match="every trial of the search failed, the last with: loss must be finite, was nan"):
            search(lambda *_: {"loss": float("nan")}, self.study(tmp_path))


class TestOptimizer:
    @pytest.mark.parametrize(
        "factory", [by_dict, lambda hidden_size, dropout: by_dict({"hidden_size": hidden_size, "dropout": dropout})]
    )
    def test_returns_the_best_trial(self, factory: Any) -> None:
        search = HyperparameterOptimizer(
            factory, regression(), regression(), torch.device("cpu"), 8, search_space=SMALL, config=TrainingConfig(max_epochs=4)
        )
        best = search.optimize()
        values = [trial.value for trial in search.study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        assert search.study.best_value == min(values)
        assert best == search.study.best_params
        assert any(trial.state == optuna.trial.TrialState.PRUNED for trial in search.study.trials)

    def test_same_seed_same_search(self) -> None:
        def run() -> dict:
            config = TrainingConfig(max_epochs=2)
            arguments: dict[str, Any] = {"search_space": SMALL, "config": config}
            return HyperparameterOptimizer(by_dict, regression(), regression(), None, 4, **arguments).optimize()

        assert run() == run()

    def test_searches_over_forecasters(self, loader: Any) -> None:
        def build(params: dict) -> nn.Module:
            names = ("architecture", "hidden_size", "num_heads", "dropout")
            chosen = {name: params[name] for name in names}
            return build_forecaster(ForecasterConfig(num_features=3, num_assets=2, horizons=(1, 4), lookback=8, **chosen))

        space = SMALL | {"architecture": ("linear", "tcn")}
        data = loader(shuffle=True), loader(start=300, stop=390)
        best = HyperparameterOptimizer(build, *data, None, 2, search_space=space, config=TrainingConfig(max_epochs=1)).optimize()
        assert best["architecture"] in ("linear", "tcn")

    def test_takes_a_space_of_the_users_own(self) -> None:
        class Widths:
            def suggest(self, trial: Any) -> dict[str, Any]:
                return {"hidden_size": 2 ** trial.suggest_int("power", 1, 4), "dropout": 0.0}

        config = TrainingConfig(max_epochs=1)
        search = HyperparameterOptimizer(by_dict, regression(), regression(), None, 3, search_space=Widths(), config=config)
        assert search.optimize()["hidden_size"] in (2, 4, 8, 16)

    def test_goes_on_with_a_study_of_that_name(self, tmp_path: Path) -> None:
        def run(n_trials: int) -> HyperparameterOptimizer:
            search = HyperparameterOptimizer(
                by_dict,
                regression(),
                regression(),
                None,
                n_trials,
                search_space=SMALL,
                config=TrainingConfig(max_epochs=1),
                storage=f"sqlite:///{tmp_path}/study.db",
                study_name="mine",
            )
            search.optimize()
            return search

        first, second = run(2), run(3)
        assert [trial.started for trial in second.trials[:2]] == [trial.started for trial in first.trials]
        assert len(second.trials) == 3

    def test_failed_trials_are_marked_and_the_search_goes_on(self) -> None:
        x, y = regression()
        search = HyperparameterOptimizer(by_dict, (x * np.nan, y), (x, y), None, 2, search_space=SMALL)
        with pytest.raises(CryptomlError, match=r"every trial of the search failed.*finite"):
            search.optimize()
        assert [trial.state for trial in search.study.trials] == [optuna.trial.TrialState.FAIL] * 2

    def test_workers_share_the_examples(self) -> None:
        from cryptoml.training.optimizer import _loader

        x, y = regression(7)
        parts = [_loader((x, y), 2, Worker(None, rank, 2), shuffle=False) for rank in (0, 1)]
        seen = np.concatenate([batch[0].numpy() for part in parts for batch in part])
        assert [len(part) for part in parts] == [2, 2]
        assert {tuple(row) for row in seen} == {tuple(row) for row in x}
        with pytest.raises(ConfigError, match="arrays for 2 workers"):
            _loader([1, 2], 2, Worker(None, 0, 2), shuffle=False)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n_trials": 0}, "n_trials must be at least 1, and a whole number, was 0"),
            ({"n_trials": 2.5}, "n_trials must be .*, was 2.5"),
            ({"model_factory": None}, "model_factory must be callable, was None"),
            ({"train_data": (np.zeros((4, 3)), np.zeros(3))}, "train_data: X and y must hold the same number .* 4 and 3"),
            ({"val_data": (np.zeros((0, 3)), np.zeros(0))}, "val_data: X and y .* at least 1; held 0 and 0"),
            ({"val_data": (np.array(["a"]), np.zeros(1))}, r"val_data must be \(X, y\) arrays of numbers"),
            ({"search_space": {}}, "search_space must hold at least one hyperparameter, was empty"),
            ({"search_space": {"colour": (1, 2)}}, "search_space .*colour"),
            ({"search_space": {"num_heads": (2,)}}, "search must leave something to vary"),
            ({"storage": "sqlite:////dev/null/study.db"}, r"storage sqlite:////dev/null/study.db cannot be written"),
            ({"search": SearchConfig(objectives=("sharpe",))}, r"objectives must be \('loss',\), .* were \('sharpe',\)"),
        ],
    )
    def test_bad_settings_are_named_before_anything_starts(self, change: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            HyperparameterOptimizer(
                **{"model_factory": by_dict, "train_data": regression(), "val_data": regression(), "n_trials": 2} | change
            )

    def test_arrays_of_any_precision_and_lists_are_taken(self) -> None:
        x, y = regression()
        found = []
        for data in ((x, y), (x.astype(np.float64), y.astype(np.float64)), (x.tolist(), y.tolist())):
            search = HyperparameterOptimizer(
                by_dict, data, data, None, 1, search_space=SMALL, config=TrainingConfig(max_epochs=1)
            )
            search.optimize()
            found.append(search.trials[0].cost)
        assert found == pytest.approx([found[0]] * 3)


def test_a_trial_equals_a_fit_of_its_own() -> None:
    config = TrainingConfig(max_epochs=2)
    objective = FactoryObjective(by_dict, regression(), regression(), config, None, "cpu", 0)
    parameters = {"hidden_size": 4, "dropout": 0.0, "learning_rate": 0.01, "batch_size": 16}
    reported: list[tuple[int, float]] = []
    first = objective(parameters, lambda *end: reported.append(end), Worker())
    assert first == objective(parameters, lambda *_: None, Worker())
    assert [step for step, _ in reported] == [1, 2]
    assert reported[-1][1] == first["loss"]
