"""What a run says and keeps when the disk is full, memory runs out, data breaks the loss, or its process is killed."""

import errno
import math
import multiprocessing
import os
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cryptoml.errors import DataError
from cryptoml.training.checkpoint import read_tensors
from cryptoml.training.chunks import ChunkLoader
from cryptoml.training.config import EpochEnd, TrainingConfig
from cryptoml.training.feed import Feed
from cryptoml.training.learner import Learner
from cryptoml.training.objectives import Objective, objective_of
from cryptoml.training.trainer import UltimateTrainer, fit

CONFIG = TrainingConfig(max_epochs=4, learning_rate=0.02)


def network(wide: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, wide), nn.Dropout(0.5), nn.Linear(wide, 1))


def pairs(rows: int = 32) -> DataLoader:
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x[:, :1] * 2), batch_size=8, shuffle=True)


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def filled(folder: Path) -> Path:
    """Write until nothing more fits."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast


class TestDisk:
    def test_full_disk_keeps_the_checkpoint_before_and_the_run_goes_on_later(self, small_disk: Path) -> None:
        ballast: list[Path] = []

        def fill(end: EpochEnd) -> None:
            if end.epoch == 2:
                ballast.append(filled(small_disk))

        with pytest.raises(DataError, match=rf"checkpoint {small_disk}/\w+\.safetensors cannot be written.*No space left"):
            fit(network(), pairs(), pairs(), CONFIG, checkpoint_dir=small_disk, on_epoch_end=fill)
        assert {path.suffix for path in small_disk.iterdir()} == {".safetensors", ""}
        assert read_tensors(small_disk / "last.safetensors")[1]["progress"]["epoch"] == 2
        ballast[0].unlink()
        resumed, whole = network(), network()
        fit(resumed, pairs(), pairs(), CONFIG, checkpoint_dir=small_disk, resume=small_disk)
        fit(whole, pairs(), pairs(), CONFIG)
        assert same_weights(resumed, whole)

    def test_read_only_folder_is_told_before_anything_starts(self, small_disk: Path) -> None:
        UltimateTrainer(network(), "cpu", small_disk).train(pairs(), pairs(), num_epochs=1)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        trainer = UltimateTrainer(network(), "cpu", small_disk)
        before = [values.clone() for values in trainer.model.parameters()]
        with pytest.raises(DataError, match=rf"checkpoint folder {small_disk} cannot be written: .*[Rr]ead-only"):
            trainer.train(pairs(), pairs(), num_epochs=2)
        assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
        assert read_tensors(small_disk / "last.safetensors")[1]["progress"]["epoch"] == 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_full_disk_under_the_curves_is_told(self, small_disk: Path) -> None:
        longer = CONFIG.updated(max_epochs=60, patience=60)
        with pytest.raises(DataError, match=rf"training curves cannot be written to log_dir {small_disk}: .*No space left"):
            fit(network(), pairs(), pairs(), longer, log_dir=small_disk, on_epoch_end=lambda _: filled(small_disk))

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_any_failure_of_writing_leaves_what_was_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, step: str
    ) -> None:
        fit(network(), pairs(), pairs(), CONFIG.updated(max_epochs=1), checkpoint_dir=tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def fail(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
        with pytest.raises(DataError, match=f"{tmp_path}.* cannot be written, earlier ones are intact: .*{os.strerror(code)}"):
            fit(network(), pairs(), pairs(), CONFIG, checkpoint_dir=tmp_path, resume=tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestMemory:
    def test_lack_of_memory_says_what_to_lower(self) -> None:
        class Huge(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(1))

            def forward(self, x: Tensor) -> Tensor:
                return x[:, :1] * self.weight + torch.zeros(1 << 48).sum()

        with pytest.raises(
            DataError, match=r"memory of cpu: lower batch_size .*accumulate.*8 and 2.*chunk_bars .*DefaultCPUAllocator"
        ):
            fit(Huge(), pairs(), pairs(), CONFIG.updated(accumulate=2))

    def test_that_of_a_device_too(self) -> None:
        class Full(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

        with pytest.raises(DataError, match=r"\[CUDA out of memory\. Tried to allocate 2\.00 GiB\.\]") as caught:
            fit(Full(4, 1), pairs(), pairs(), CONFIG)
        assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)

    def test_other_errors_stay_what_they_are(self) -> None:
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            fit(nn.Linear(5, 1), pairs(), pairs(), CONFIG)


@pytest.fixture
def dated(loader: Callable[..., ChunkLoader]) -> Callable[..., ChunkLoader]:
    """Loaders that know symbols and times, with labels of their own."""

    def make(*span: int, **options: Any) -> ChunkLoader:
        stamps = pd.date_range("2024-01-01", periods=400, freq="1h", tz="UTC")
        chunks = loader(*span, symbols=("BTCUSDT", "ETHUSDT"), timestamps=stamps, **options)
        chunks.labels = {name: values.clone() for name, values in chunks.labels.items()}
        return chunks

    return make


def forecaster() -> nn.Module:
    from tests.training.test_trainer import forecaster as small

    return small()


def learner_of(model: nn.Module, scale: bool = True, rows: int = 32) -> Learner:
    """A learner that scales its gradients as for float16, on the CPU."""
    feed = Feed(pairs(rows), torch.device("cpu"))
    learner = Learner(model, objective_of(model), CONFIG, feed, feed)
    learner.scaler = torch.amp.GradScaler("cpu", enabled=scale)
    return learner


class TestNotFinite:
    @pytest.mark.parametrize("label", ["volatility", "log_return", "position_size"])
    def test_names_symbol_and_time_range_of_an_infinite_label(self, dated: Callable[..., ChunkLoader], label: str) -> None:
        train = dated(shuffle=True)
        train.labels[label][1, 100:103] = math.inf
        with pytest.raises(DataError) as caught:
            fit(forecaster(), train, dated(300, 390), CONFIG)
        where = "bars 100 to 102 (2024-01-05 04:00:00+00:00 to 2024-01-05 06:00:00+00:00), infinite values of ETHUSDT"
        assert str(caught.value) == f"training loss must be finite, was not in epoch 1 on {where}"

    def test_names_the_first_forecasts_that_broke(self, dated: Callable[..., ChunkLoader]) -> None:
        train = dated()
        train.features = train.features.clone()
        train.features[0, 60, 2] = 1e38
        with pytest.raises(DataError, match=r"epoch 1 on bars \d+ to \d+ \(2024-01-0\d .*\), symbols .*BTCUSDT"):
            fit(forecaster(), train, dated(300, 390), CONFIG)

    def test_names_the_validation_bars_too(self, dated: Callable[..., ChunkLoader]) -> None:
        validation = dated(300, 390)
        validation.labels["volatility"][0, 340:342] = math.inf
        with pytest.raises(
            DataError, match=r"^validation loss must be finite, was (inf|nan) in epoch 1 on bars 340 to 341 .*BTCUSDT$"
        ):
            fit(forecaster(), dated(), validation, CONFIG)

    def test_names_batch_and_rows_of_plain_pairs(self) -> None:
        x = torch.randn(32, 4)
        y = x[:, :1].clone()
        y[19] = math.nan
        loader = DataLoader(TensorDataset(x, y), batch_size=8)
        with pytest.raises(DataError, match=r"loss must be finite, was not in epoch 1 on batch 3, rows 3 of which hold"):
            fit(network(), loader, loader, CONFIG)

    def test_a_broken_gradient_is_told_apart(self) -> None:
        class Sharp(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return (super().forward(x) * 0).abs().sqrt()

        with pytest.raises(DataError, match=r"training gradient must be finite, was not in epoch 1 on batch 1$"):
            fit(Sharp(4, 1), pairs(), pairs(), CONFIG)

    def test_gradients_that_overflow_at_any_scale_are_told(self) -> None:
        class Sharp(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return (super().forward(x) * 0).abs().sqrt()

        learner = learner_of(Sharp(4, 1), rows=400)
        before = learner.model.weight.clone()
        with pytest.raises(DataError, match="gradient must be finite"):
            learner.train_epoch()
        assert torch.equal(learner.model.weight, before)

    def test_scaled_gradients_take_the_same_steps(self) -> None:
        scaled, plain = learner_of(network()), learner_of(network(), scale=False)
        torch.manual_seed(1)
        losses = scaled.train_epoch()
        torch.manual_seed(1)
        assert losses == pytest.approx(plain.train_epoch())
        for left, right in zip(scaled.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(left, right)

    def test_the_last_good_checkpoint_and_weights_stay(self, dated: Callable[..., ChunkLoader], tmp_path: Path) -> None:
        train, model, good = dated(), forecaster(), {}

        def poison(end: EpochEnd) -> None:
            if end.epoch == 2:
                good.update({name: values.clone() for name, values in model.state_dict().items()} if end.improved else {})
                train.labels["volatility"][0, 40:] = math.inf

        with pytest.raises(DataError, match="in epoch 3"):
            fit(model, train, dated(300, 390), CONFIG, checkpoint_dir=tmp_path, on_epoch_end=poison)
        assert read_tensors(tmp_path / "last.safetensors")[1]["progress"]["epoch"] == 2
        assert all(torch.equal(values, model.state_dict()[name]) for name, values in good.items())
        assert all(values.isfinite().all() for values in model.state_dict().values())

    def test_data_without_any_label_is_told(self, loader: Callable[..., ChunkLoader]) -> None:
        none = np.zeros((2, 400), bool)
        with pytest.raises(DataError, match="training data must hold at least one label"):
            fit(forecaster(), loader(origin_mask=none), loader(300, 390), CONFIG)
        with pytest.raises(DataError, match="validation data must hold at least one label"):
            fit(forecaster(), loader(), loader(300, 390, origin_mask=none), CONFIG)
        with pytest.raises(DataError, match="train data must hold at least one batch"):
            fit(network(), [], pairs(), CONFIG)


def killed(folder: Path) -> None:
    """Train and die in the middle of the third epoch, as a machine does that goes away."""
    steps = 0

    class Dying(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, portion: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == 11:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.inner(portion)

    warnings.simplefilter("ignore")
    fit(network(), pairs(), pairs(), CONFIG.updated(checkpoint_steps=1), checkpoint_dir=folder, prepare_model=Dying)


def test_a_killed_process_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(tmp_path,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    resumed, whole = network(), network()
    again = fit(resumed, pairs(), pairs(), CONFIG.updated(checkpoint_steps=1), resume=tmp_path)
    expected = fit(whole, pairs(), pairs(), CONFIG)
    assert same_weights(resumed, whole)
    assert again.history["val_loss"] == expected.history["val_loss"]


@pytest.mark.parametrize(
    ("prediction", "y", "fits"),
    [
        ((8, 1), torch.zeros(8), True),
        ((8,), torch.zeros(8, 1), True),
        ((8, 3), torch.zeros(8, 1, dtype=torch.long), True),
        ((8, 5, 3), torch.zeros(8, 5, dtype=torch.int32), True),
        ((8, 2), torch.zeros(8), False),
        ((8, 3), torch.zeros(8, 3, dtype=torch.long), False),
    ],
)
def test_labels_fit_the_prediction_or_are_named(prediction: tuple[int, ...], y: Tensor, fits: bool) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.randn(prediction))

        def forward(self, x: Tensor) -> Tensor:
            return self.value

    data = [(torch.zeros(8, 4), y)]
    if fits:
        assert len(fit(Constant(), data, data, CONFIG).history["val_loss"]) == 4
    else:
        with pytest.raises(DataError, match=r"y must hold .* the prediction's shape .*, has shape"):
            fit(Constant(), data, data, CONFIG)


def test_batches_that_are_no_pairs_are_named() -> None:
    with pytest.raises(DataError, match=r"batches must be pairs \(x, y\) with a tensor y, found a tensor of shape \(8, 4\)"):
        fit(network(), [torch.zeros(8, 4)], pairs(), CONFIG)


def test_an_objective_of_ones_own_needs_its_parts() -> None:
    with pytest.raises(NotImplementedError):
        Objective().counts(None)
