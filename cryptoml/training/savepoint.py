"""What a checkpoint of a run holds: everything that its next step depends on, of all workers."""

from pathlib import Path
from typing import Any

from torch import Tensor

from cryptoml.errors import ConfigError, DataError
from cryptoml.training.checkpoint import join_state, split_state, weights_of
from cryptoml.training.learner import Learner, Progress

__all__ = ["restore_run", "state_of_run"]

MAY_CHANGE = {"max_epochs", "patience", "checkpoint_every", "checkpoint_steps", "keep_every"}


def state_of_run(learner: Learner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Collect tensors and a JSON document, on all workers at once.

    Weights of model and objective now and at their best, optimizer, schedule, gradient scaler, counters and history; of each
    worker the random states now and at the start of the epoch (with the counters, its data position) and the losses so far.
    """
    progress, train = learner.progress, learner.train
    own = {
        "start": train.start if progress.batch else train.state(),
        "now": learner.validation.state(),
        "losses": {"sums": learner.sums.cpu(), "counts": learner.counts.cpu()},
    }
    moments, optimizer = split_state(learner.optimizer)
    parts = {"weights": weights_of(learner.batch_loss), "optimizer": moments}
    if progress.batch or progress.epoch != progress.best_epoch:
        parts["best"] = learner.best_weights
    for rank, place in enumerate(learner.workers.gather(own)):
        parts |= {f"{rank}/{name}": values for name, values in place.items()}
    document = {
        "config": _settings(learner),
        "optimizer": optimizer,
        "schedule": learner.schedule.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "progress": vars(progress) | {"seconds": learner.seconds(), "waited": progress.waited + train.waited},
    }
    return {f"{part}/{name}": values for part, named in parts.items() for name, values in named.items()}, document


def restore_run(learner: Learner, tensors: dict[str, Tensor], document: dict[str, Any], path: Path) -> None:
    """Undo `state_of_run`.

    Args:
        learner: Of the same model, settings and number of workers.
        tensors: As read from the checkpoint.
        document: As read from the checkpoint.
        path: Of the checkpoint, for messages.

    Raises:
        ConfigError: The checkpoint was made with other settings or workers; how long to train and how often to make checkpoints
            may differ.
        DataError: The checkpoint belongs to another model or version.
    """
    rank = learner.workers.rank
    try:
        _require_same(_settings(learner), document["config"], path)
        learner.batch_loss.load_state_dict(_part(tensors, "weights"))
        learner.best_weights = _part(tensors, "best") or _part(tensors, "weights")
        learner.optimizer.load_state_dict(join_state(_part(tensors, "optimizer"), document["optimizer"]))
        learner.schedule.load_state_dict(document["schedule"])
        learner.scaler.load_state_dict(document["scaler"])
        learner.progress = Progress(**document["progress"])
        learner.sums, learner.counts = (tensors[f"{rank}/losses/{name}"].to(learner.device) for name in ("sums", "counts"))
        learner.train.start = _part(tensors, f"{rank}/start")
        learner.train.restore(learner.train.start)
        learner.validation.restore(_part(tensors, f"{rank}/now"))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"checkpoint {path} belongs to another model or version: {error}") from error


def _settings(learner: Learner) -> dict[str, Any]:
    return learner.config.model_dump(mode="json") | {"world_size": learner.workers.world_size}


def _require_same(settings: dict[str, Any], stored: dict[str, Any], path: Path) -> None:
    for name, value in settings.items():
        if name not in MAY_CHANGE and stored.get(name) != value:
            raise ConfigError(f"{name} must be {stored.get(name)} as in checkpoint {path}, was {value}")


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}/"): values for name, values in tensors.items() if name.startswith(f"{part}/")}
