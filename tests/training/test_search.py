import numpy as np
import optuna
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from cryptoml.errors import ConfigError, DataError
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.training.optimizer import HyperparameterOptimizer
from cryptoml.training.search_space import SearchSpace
from cryptoml.training.trainer import TrainingConfig

SMALL = SearchSpace(hidden_size=(4, 8), num_heads=(2,), batch_size=(16,), learning_rate=(1e-3, 1e-1))


def regression(count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((count, 3)).astype(np.float32)
    return x, x[:, :1] - x[:, 1:2]


def by_dict(params: dict) -> nn.Module:
    return nn.Sequential(nn.Linear(3, params["hidden_size"]), nn.Dropout(params["dropout"]), nn.Linear(params["hidden_size"], 1))


def test_suggestions_are_the_trials_parameters():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        suggested = SearchSpace().suggest(trial)
        assert suggested == trial.params
        assert suggested["hidden_size"] % suggested["num_heads"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": ()}, "hidden_size"),
        ({"hidden_size": (30,), "num_heads": (4,)}, "hidden_size 30 must be a multiple of num_heads 4"),
        ({"dropout": (0.5, 0.1)}, "dropout must run from low to high"),
        ({"batch_size": (0,)}, "batch_size must hold values of at least 1"),
        ({"colour": ("red",)}, "colour"),
    ],
)
def test_bad_spaces_are_named(change: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        SearchSpace(**change)


@pytest.mark.parametrize(
    "factory", [by_dict, lambda hidden_size, dropout: by_dict({"hidden_size": hidden_size, "dropout": dropout})]
)
def test_search_returns_the_best_trial(factory):
    search = HyperparameterOptimizer(
        factory, regression(), regression(), torch.device("cpu"), 8, search_space=SMALL, config=TrainingConfig(max_epochs=4)
    )
    best = search.optimize()
    values = [trial.value for trial in search.study.trials if trial.value is not None]
    assert search.study.best_value == min(values)
    assert best == search.study.best_params
    assert any(trial.state == optuna.trial.TrialState.PRUNED for trial in search.study.trials)


def test_same_seed_same_search():
    def run() -> dict:
        config = TrainingConfig(max_epochs=2)
        return HyperparameterOptimizer(by_dict, regression(), regression(), None, 4, search_space=SMALL, config=config).optimize()

    assert run() == run()


def test_search_over_forecasters(loader):
    def build(params: dict) -> nn.Module:
        names = ("architecture", "hidden_size", "num_heads", "dropout")
        chosen = {name: params[name] for name in names}
        return build_forecaster(ForecasterConfig(num_features=3, num_assets=2, horizons=(1, 4), lookback=8, **chosen))

    space = SMALL.model_copy(update={"architecture": ("linear", "tcn")})
    data = loader(shuffle=True), loader(start=300, stop=390)
    best = HyperparameterOptimizer(build, *data, None, 2, search_space=space, config=TrainingConfig(max_epochs=1)).optimize()
    assert best["architecture"] in ("linear", "tcn")


def test_failed_trials_are_marked_and_the_search_goes_on():
    x, y = regression()
    search = HyperparameterOptimizer(by_dict, (x * np.nan, y), (x, y), None, 2, search_space=SMALL)
    with pytest.raises(DataError, match="at least one of 2 trials must finish"):
        search.optimize()
    assert [trial.state for trial in search.study.trials] == [optuna.trial.TrialState.FAIL] * 2


def test_no_trials_is_refused():
    with pytest.raises(ConfigError, match="n_trials must be at least 1, was 0"):
        HyperparameterOptimizer(by_dict, regression(), regression(), None, 0)
