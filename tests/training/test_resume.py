"""A run stopped anywhere and resumed equals, bit by bit, one that never stopped."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from cryptoml.errors import ConfigError
from cryptoml.training.checkpoint import read_tensors
from cryptoml.training.config import FitResult, TrainingConfig
from cryptoml.training.trainer import UltimateTrainer, fit

EXAMPLES, EPOCHS = 42, 4


class StoppedError(Exception):
    """Stands for whatever ends a process."""


class Stopping(nn.Module):
    """Breaks off before the forward pass number `after`."""

    def __init__(self, inner: nn.Module, after: int) -> None:
        super().__init__()
        self.inner, self.left = inner, after

    def forward(self, portion: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise StoppedError
        return self.inner(portion)


class Noisy(Dataset):
    """Draws from python's, NumPy's and torch's random states for each example."""

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(4) + random.gauss(0, 1) + np.random.standard_normal()
        return x.float(), x[:1].float() * 2


class Stream(IterableDataset):
    """A shuffled stream without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(EXAMPLES):
            x = torch.linspace(-1, 1, 4) * (index + 1) / EXAMPLES
            yield x, x[:1]


def fixed(classes: bool = False) -> TensorDataset:
    x = torch.randn(EXAMPLES, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long() if classes else x[:, :1] * 2)


def network(outputs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, outputs))


LOADERS: dict[str, Callable[[], DataLoader]] = {
    "shuffled": lambda: DataLoader(fixed(), batch_size=8, shuffle=True),
    "own generator": lambda: DataLoader(fixed(), 8, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "classes": lambda: DataLoader(fixed(classes=True), batch_size=8, shuffle=True),
    "noisy": lambda: DataLoader(Noisy(), batch_size=8, shuffle=True),
    "stream": lambda: DataLoader(Stream(), batch_size=8),
}
PROCESSES: dict[str, Callable[[], DataLoader]] = {
    "workers": lambda: DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=1),
    "kept workers": lambda: DataLoader(fixed(), 8, shuffle=True, num_workers=1, persistent_workers=True),
}


def compared(make: Callable[[], DataLoader], config: TrainingConfig, after: int, folder: Path) -> None:
    """Stop before forward pass `after`, resume, and compare with an undisturbed run."""
    outputs = 3 if make is LOADERS["classes"] else 1
    whole, parted, fresh = network(outputs), network(outputs), nn.Sequential(*network(outputs))
    expected = fit(whole, make(), make(), config)
    with pytest.raises(StoppedError):
        fit(parted, make(), make(), config, checkpoint_dir=folder, prepare_model=lambda inner: Stopping(inner, after))
    random.random(), np.random.random(), torch.rand(3)
    resumed = fit(fresh, make(), make(), config, resume=folder)
    assert_same(whole, fresh, expected, resumed)


def assert_same(whole: nn.Module, fresh: nn.Module, expected: FitResult, resumed: FitResult) -> None:
    for name, values in whole.state_dict().items():
        assert torch.equal(values, fresh.state_dict()[name]), name
    histories = [{name: values for name, values in run.history.items() if name != "seconds"} for run in (expected, resumed)]
    np.testing.assert_equal(histories[0], histories[1])
    assert (expected.best_epoch, expected.best_validation_loss) == (resumed.best_epoch, resumed.best_validation_loss)


@pytest.mark.parametrize("after", [7, 9, 12, 17])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", LOADERS)
def test_plain_loaders_go_on_from_the_middle_of_an_epoch(name: str, accumulate: int, after: int, tmp_path: Path) -> None:
    """Six batches an epoch: 12 stops between two epochs, the others inside one."""
    config = TrainingConfig(max_epochs=EPOCHS, learning_rate=0.02, accumulate=accumulate, checkpoint_steps=1, lr_patience=0)
    compared(LOADERS[name], config, after, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("after", [9, 12])
@pytest.mark.parametrize("name", PROCESSES)
def test_loaders_with_processes_go_on_too(name: str, after: int, tmp_path: Path) -> None:
    compared(PROCESSES[name], TrainingConfig(max_epochs=3, learning_rate=0.02, checkpoint_steps=1), after, tmp_path)


def test_fewer_checkpoints_repeat_more_but_change_nothing(tmp_path: Path) -> None:
    config = TrainingConfig(max_epochs=EPOCHS, learning_rate=0.02, checkpoint_steps=4, checkpoint_every=2)
    compared(LOADERS["shuffled"], config, 17, tmp_path)


def test_autocast_goes_on_too(tmp_path: Path) -> None:
    config = TrainingConfig(max_epochs=EPOCHS, learning_rate=0.02, checkpoint_steps=1, autocast="bfloat16")
    compared(LOADERS["shuffled"], config, 9, tmp_path)


def test_a_checkpoint_holds_all_that_the_next_step_depends_on(tmp_path: Path) -> None:
    data = LOADERS["shuffled"]()
    config = TrainingConfig(max_epochs=2, checkpoint_steps=2)
    with pytest.raises(StoppedError):
        fit(network(), data, data, config, checkpoint_dir=tmp_path, prepare_model=lambda inner: Stopping(inner, 10))
    tensors, document = read_tensors(tmp_path / "last.safetensors")
    assert {"weights", "best", "optimizer", "0"} == {name.split("/")[0] for name in tensors}
    assert {name.split("/")[1] for name in tensors if name.startswith("0/")} == {"start", "now", "losses"}
    assert {"0/now/cpu", "0/now/python", "0/now/numpy"} <= set(tensors)
    assert (document["progress"]["epoch"], document["progress"]["batch"]) == (1, 4)
    assert {"config", "optimizer", "schedule", "scaler"} <= set(document)


def test_an_epoch_that_has_not_begun_has_taken_no_time(tmp_path: Path) -> None:
    data = LOADERS["shuffled"]()
    done = fit(network(), data, data, TrainingConfig(max_epochs=2), checkpoint_dir=tmp_path)
    progress = read_tensors(tmp_path / "last.safetensors")[1]["progress"]
    assert progress["seconds"] < done.history["seconds"][-1]
    assert done.seconds == sum(done.history["seconds"])


def test_random_states_of_the_caller_are_kept_and_do_not_matter() -> None:
    results = []
    for shift in (0, 5):
        random.seed(shift), np.random.seed(shift), torch.manual_seed(shift)
        before = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state().tolist()
        data, model = DataLoader(Noisy(), batch_size=8, shuffle=True), network()
        torch.manual_seed(shift)
        fit(model, data, data, TrainingConfig(max_epochs=1))
        assert random.getstate() == before[0]
        assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before[1]
        assert torch.get_rng_state().tolist() == before[2]
        results.append(model[0].weight)
    assert torch.equal(*results)


def test_the_trainer_resumes_from_its_folder_and_from_any_kept_checkpoint(tmp_path: Path) -> None:
    config = TrainingConfig(keep_every=1)

    def trained(epochs: int, resume: bool, folder: Path = tmp_path) -> tuple[nn.Module, dict[str, list[float]]]:
        trainer, data = UltimateTrainer(network(), "cpu", str(folder), config=config), LOADERS["shuffled"]()
        return trainer.model, trainer.train(data, data, epochs, 0.02, patience=10, grad_clip=1.0, resume=resume)

    whole, history = trained(4, resume=False, folder=tmp_path / "whole")
    trained(2, resume=False)
    model, again = trained(4, resume=True)
    assert again["val_loss"] == history["val_loss"]
    assert torch.equal(whole[0].weight, model[0].weight)
    data = LOADERS["shuffled"]()
    settings = config.updated(max_epochs=4, learning_rate=0.02, patience=10)
    kept = fit(network(), data, data, settings, resume=tmp_path / "whole" / "epoch-0001.safetensors")
    assert kept.history["val_loss"] == history["val_loss"]


def test_another_way_of_stepping_is_refused(tmp_path: Path) -> None:
    data = LOADERS["shuffled"]()
    fit(network(), data, data, TrainingConfig(max_epochs=1), checkpoint_dir=tmp_path)
    with pytest.raises(ConfigError, match="accumulate must be 1 as in checkpoint"):
        fit(network(), data, data, TrainingConfig(max_epochs=2, accumulate=2), resume=tmp_path)
