import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cryptoml.errors import ConfigError, DataError
from cryptoml.models.forecaster import Forecaster, ForecasterConfig, build_forecaster
from cryptoml.training.checkpoint import latest_checkpoint, load_weights, unpack
from cryptoml.training.trainer import TrainingConfig, UltimateTrainer, fit

CONFIG = TrainingConfig(max_epochs=4, batch_size=3, chunk_bars=32, learning_rate=3e-3)


def forecaster(seed: int = 0, **options: object) -> Forecaster:
    torch.manual_seed(seed)
    shape = {"architecture": "linear", "num_features": 3, "num_assets": 2, "hidden_size": 8, "num_heads": 2, "lookback": 8}
    return build_forecaster(ForecasterConfig(**shape | {"horizons": (1, 4), "dropout": 0.1} | options))


@pytest.fixture
def loaders(loader):
    def make(**options):
        return loader(shuffle=True, random_phase=True, **options), loader(start=300, stop=390)

    return make


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


def test_training_learns_the_next_bar(loaders):
    model = forecaster()
    result = fit(model, *loaders(), CONFIG.updated(max_epochs=12, learning_rate=2e-2))
    losses = result.history["val_loss"]
    assert losses[-1] < 0.9 * losses[0]
    assert result.best_validation_loss == min(losses) == losses[result.best_epoch - 1]
    assert result.history["direction_accuracy"][-1] > 0.6
    assert {len(values) for values in result.history.values()} == {12}
    assert not model.training


def test_model_ends_with_the_best_weights(loaders):
    model, seen = forecaster(), {}
    result = fit(
        model,
        *loaders(),
        CONFIG.updated(learning_rate=0.3),
        on_epoch_end=lambda end: seen.update({end.epoch: model.asset.clone()}),
    )
    assert torch.equal(model.asset, seen[result.best_epoch])


def test_same_seed_same_weights_and_the_callers_random_state_is_kept(loaders):
    first, second = forecaster(), forecaster()
    before = torch.get_rng_state()
    fit(first, *loaders(), CONFIG.updated(max_epochs=2))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    fit(second, *loaders(), CONFIG.updated(max_epochs=2))
    assert same_weights(first, second)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_run_equals_one_that_never_stopped(loaders, tmp_path, accumulate: int):
    config = CONFIG.updated(accumulate=accumulate, lr_patience=0, learning_rate=0.05)
    whole, parted, fresh = forecaster(), forecaster(), forecaster(seed=9)
    expected = fit(whole, *loaders(), config)
    fit(parted, *loaders(), config.updated(max_epochs=2), checkpoint_dir=tmp_path)
    resumed = fit(fresh, *loaders(), config, resume=tmp_path)
    assert same_weights(whole, fresh)
    expected.history.pop("seconds")
    resumed.history.pop("seconds")
    assert resumed.history == expected.history
    assert resumed.best_epoch == expected.best_epoch


def test_finished_run_resumes_to_its_result(loaders, tmp_path):
    first, second = forecaster(), forecaster(seed=5)
    done = fit(first, *loaders(), CONFIG.updated(max_epochs=2), checkpoint_dir=tmp_path)
    again = fit(second, *loaders(), CONFIG.updated(max_epochs=2), resume=latest_checkpoint(tmp_path))
    assert again == done
    assert same_weights(first, second)


def epoch_in(content):
    return unpack(content, "")[1]["progress"]["epoch"]


def test_checkpoints_inside_an_epoch_are_told_of_too(loaders, tmp_path):
    heard = []
    config = CONFIG.updated(max_epochs=2, checkpoint_steps=1)
    fit(forecaster(), *loaders(), config, checkpoint_dir=tmp_path, on_checkpoint=lambda content: heard.append(epoch_in(content)))
    assert heard == sorted(heard)
    assert (heard.count(0), heard.count(2)) == (heard.count(1) - 1, 1)
    assert heard.count(0) > 1


def test_checkpoints_best_and_periodic(loaders, tmp_path):
    heard = []
    model = forecaster()
    config = CONFIG.updated(keep_every=2, checkpoint_every=3)
    fit(model, *loaders(), config, checkpoint_dir=tmp_path, on_checkpoint=lambda content: heard.append(epoch_in(content)))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "epoch-0002.safetensors", "epoch-0004.safetensors"}
    assert heard == [3, 4]
    for name in ("best", "last", "epoch-0004"):
        loaded = forecaster(seed=7)
        load_weights(loaded, tmp_path / f"{name}.safetensors")
        assert same_weights(loaded, model)


def test_resume_refuses_other_settings_models_and_damage(loaders, tmp_path):
    fit(forecaster(), *loaders(), CONFIG.updated(max_epochs=1), checkpoint_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"learning_rate must be 0\.003"):
        fit(forecaster(), *loaders(), CONFIG.updated(learning_rate=1.0), resume=tmp_path)
    with pytest.raises(DataError, match="belongs to another model"):
        fit(forecaster(hidden_size=4), *loaders(), CONFIG, resume=tmp_path)
    damaged = tmp_path / "last.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DataError, match="is damaged"):
        fit(forecaster(), *loaders(), CONFIG, resume=tmp_path)
    with pytest.raises(DataError, match="must be an existing file"):
        fit(forecaster(), *loaders(), CONFIG, resume=tmp_path / "nothing.safetensors")


def test_unwritable_checkpoint_is_a_clear_error(loaders, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        fit(forecaster(), *loaders(), CONFIG, checkpoint_dir=blocked)


def test_early_stopping_and_learning_rate_schedule(loaders):
    result = fit(forecaster(), *loaders(), CONFIG.updated(max_epochs=30, patience=2, lr_patience=0, learning_rate=0.5))
    rates = result.history["learning_rate"]
    assert len(rates) == result.best_epoch + 2 < 30
    assert any(later == pytest.approx(0.5 * earlier) for earlier, later in pairwise(rates))


def test_non_finite_loss_names_bars_and_symbols_and_keeps_good_weights(loaders, market, monkeypatch):
    train, validation = loaders(symbols=("BTCUSDT", "ETHUSDT"))
    train.labels = {name: values.clone() for name, values in train.labels.items()}
    model = forecaster()
    good = {}

    def poison(end):
        good.update({name: values.clone() for name, values in model.state_dict().items()})
        train.labels["volatility"][1, 100:200] = math.inf

    with pytest.raises(DataError, match=r"in epoch 2 on bars .* infinite values of ETHUSDT"):
        fit(model, train, validation, CONFIG, on_epoch_end=poison)
    assert all(torch.equal(good[name], values) for name, values in model.state_dict().items())


def test_what_the_callback_raises_reaches_the_caller(loaders):
    class PrunedError(Exception):
        pass

    def prune(end):
        raise PrunedError

    with pytest.raises(PrunedError):
        fit(forecaster(), *loaders(), CONFIG, on_epoch_end=prune)


def test_tensorboard_events_are_written(loaders, tmp_path):
    fit(forecaster(), *loaders(), CONFIG.updated(max_epochs=1), log_dir=tmp_path)
    assert list(tmp_path.glob("events*"))


def test_bfloat16_autocast_trains(loaders):
    result = fit(forecaster(), *loaders(), CONFIG.updated(max_epochs=2, autocast="bfloat16"))
    assert math.isfinite(result.best_validation_loss)
    with pytest.raises(ConfigError, match="float16 needs a CUDA device"):
        fit(forecaster(), *loaders(), CONFIG.updated(autocast="float16"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
def test_compiled_training_takes_the_same_steps(loader):
    losses = []
    for compiled in (False, True):
        config = CONFIG.updated(max_epochs=2, compile=compiled)
        history = fit(forecaster(dropout=0.0), loader(stop=82, batch_size=1), loader(300, 340), config).history
        losses.append(history["train_loss"] + history["val_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_accumulated_batches_are_one_batch(loaders):
    """Batches of 2 by threes take the steps of batches of 6, however labels are spread over them."""
    histories = []
    for options, accumulate in (({"batch_size": 6}, 1), ({"batch_size": 2}, 3)):
        model = forecaster(dropout=0.0)
        histories.append(fit(model, *loaders(**options), CONFIG.updated(accumulate=accumulate)).history)
    for name in ("train_loss", "val_loss", "mae"):
        assert histories[1][name] == pytest.approx(histories[0][name], rel=1e-5)


def test_waiting_for_chunks_is_measured(loaders):
    result = fit(forecaster(), *loaders(), CONFIG.updated(max_epochs=2))
    assert 0 < result.loading_seconds < result.seconds


def test_unlearned_weights_descend_what_is_monitored(loaders):
    result = fit(forecaster(), *loaders(), CONFIG.updated(loss="sum", task_weights={"regime": 0.0}))
    assert result.history["train_loss"][-1] < result.history["train_loss"][0]


def pairs(y: Callable[[torch.Tensor], torch.Tensor]) -> DataLoader:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, y(x)), batch_size=16, shuffle=True)


def test_ultimate_trainer_on_plain_regression(tmp_path):
    data = pairs(lambda x: x[:, :1] * 2)
    trainer = UltimateTrainer(nn.Linear(4, 1), torch.device("cpu"), tmp_path)
    history = trainer.train(data, data, num_epochs=30, learning_rate=0.05, patience=30, grad_clip=10.0)
    assert history["val_loss"][-1] < 0.01
    assert history["direction_accuracy"][-1] > 0.95
    assert latest_checkpoint(tmp_path) is not None
    assert {"train_loss", "val_loss", "accuracy", "direction_accuracy", "mae", "mse", "learning_rate", "seconds"} <= set(history)


def test_ultimate_trainer_on_classes_and_a_loss_of_ones_own():
    data = pairs(lambda x: (x[:, 0] > 0).long() * 2)
    history = UltimateTrainer(nn.Linear(4, 3)).train(data, data, 20, 0.1)
    assert history["accuracy"][-1] > 0.9
    assert history["direction_accuracy"][-1] > 0.9
    own = UltimateTrainer(nn.Linear(4, 3), loss_fn=lambda logits, y: nn.functional.multi_margin_loss(logits, y))
    assert own.train(data, data, 20, 0.1)["val_loss"][-1] < 0.2


def test_plain_loader_resumes_exactly(tmp_path):
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    data, whole, fresh = pairs(lambda x: x[:, :1]), model(), model()
    fit(whole, data, data, TrainingConfig(max_epochs=4))
    fit(model(), data, data, TrainingConfig(max_epochs=2), checkpoint_dir=tmp_path)
    fit(fresh, data, data, TrainingConfig(max_epochs=4), resume=tmp_path)
    assert same_weights(whole, fresh)


def test_ultimate_trainer_on_chunks_resumes(loaders, tmp_path):
    trainer = UltimateTrainer(forecaster(), save_dir=tmp_path, config=CONFIG)
    trainer.train(*loaders(), num_epochs=1)
    assert len(UltimateTrainer(forecaster(), save_dir=tmp_path, config=CONFIG).train(*loaders(), 3, resume=True)["val_loss"]) == 3
    with pytest.raises(ConfigError, match="resume needs save_dir"):
        UltimateTrainer(forecaster()).train(*loaders(), resume=True)


def test_settings_are_checked_and_named():
    with pytest.raises(ConfigError, match=r"patience: .*greater than or equal to 1, was 0"):
        CONFIG.updated(patience=0)


@pytest.mark.parametrize(("device", "words"), [("cuda:99", "CUDA devices, was cuda:99"), ("abacus", "torch knows, was 'abacus'")])
def test_a_device_that_is_not_there_is_named(loaders, device: str, words: str):
    with pytest.raises(ConfigError, match=rf"device must be .*{words}"):
        fit(forecaster(), *loaders(), CONFIG, device=device)
