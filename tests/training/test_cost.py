"""The estimate that lays fits on cores: larger models and longer fits cost more."""

from dataclasses import replace

import torch

from cryptoml.training.cost import relative_cost
from cryptoml.training.member import FoldData, MemberConfig, MemberTask
from tests.training.conftest import LOOKBACK


def test_grows_with_the_model_and_the_epochs(fold_data: FoldData, task: MemberTask) -> None:
    large = MemberConfig(name="large", architecture="tft", hidden_size=128, num_layers=4).task(fold_data, task.training, LOOKBACK)
    assert relative_cost(large) > 2 * relative_cost(task)
    longer = replace(task, training=task.training.updated(max_epochs=200))
    assert relative_cost(longer) > 10 * relative_cost(task)


def test_is_exactly_that_of_another_fit_of_the_same_model(task: MemberTask) -> None:
    other = replace(task, name="other", training=task.training.updated(seed=7))
    assert relative_cost(other) == relative_cost(task)


def test_leaves_the_random_state(task: MemberTask) -> None:
    state = torch.get_rng_state()
    relative_cost(task)
    assert torch.equal(torch.get_rng_state(), state)
