"""Settings of a training run and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from cryptoml.errors import ConfigError

__all__ = ["EpochEnd", "FitResult", "Loss", "TrainingConfig"]

Loss = Literal["uncertainty", "sum"]


class TrainingConfig(BaseModel):
    """Settings of the training loop and of the chunks that feed it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_epochs: int = Field(50, ge=1, description="Passes over the training data at most")
    batch_size: int = Field(8, ge=1, description="Chunks (or examples of a plain loader) per batch and worker")
    chunk_bars: int = Field(256, ge=2, description="Bars per chunk, context included")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW step size at the start")
    weight_decay: float = Field(1e-4, ge=0, description="Decoupled decay of weight matrices; biases and scales have none")
    grad_clip: float = Field(1.0, gt=0, description="Largest gradient norm")
    accumulate: int = Field(1, ge=1, description="Batches per optimizer step; their labels count alike, as in one batch")
    patience: int = Field(8, ge=1, description="Epochs without a better validation loss before stopping")
    min_improvement: float = Field(0.0, ge=0, description="Decrease of the validation loss that counts as better")
    lr_patience: int = Field(3, ge=0, description="Epochs without a better validation loss before the rate is cut")
    lr_factor: float = Field(0.5, gt=0, lt=1, description="What the learning rate is multiplied by then")
    min_learning_rate: float = Field(1e-6, ge=0, description="Below this the learning rate is not cut")
    autocast: Literal["none", "bfloat16", "float16"] = Field("none", description="Forward precision; float16: CUDA")
    compile: bool = Field(False, description="Compile the training step by torch.compile")
    loss: Loss = Field(
        "uncertainty", description="Weighing of the tasks: learned uncertainty (Kendall et al. 2018), or the sum by task_weights"
    )
    task_weights: Mapping[str, float] = Field(default_factory=dict, description="Fixed importance per task, 1 where absent")
    checkpoint_every: int = Field(1, ge=1, description="Epochs between resumable checkpoints")
    checkpoint_steps: int = Field(0, ge=0, description="Optimizer steps between those inside an epoch; 0 makes none")
    keep_every: int = Field(0, ge=0, description="Epochs between checkpoints that are kept for good; 0 keeps none")
    seed: int = Field(0, ge=0, description="Seed of everything random in the run")

    def updated(self, **changes: Any) -> Self:
        """Copy with some settings changed and all checked again.

        Raises:
            ConfigError: A setting is unknown or out of range.
        """
        try:
            return type(self)(**(self.model_dump() | changes))
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, was {first['input']}") from error


class EpochEnd(NamedTuple):
    """What `on_epoch_end` hears.

    Attributes:
        epoch: Epochs finished, counted from 1.
        metrics: The epoch's row of the history.
        improved: Whether this is the best epoch so far.
        model: The model after this epoch, in evaluation mode; to be read, not to be changed.
    """

    epoch: int
    metrics: dict[str, float]
    improved: bool
    model: nn.Module


@dataclass(frozen=True)
class FitResult:
    """Outcome of a training run.

    Attributes:
        history: One list per figure, one entry per epoch: train_loss and val_loss (the same fixed-weight sum of means over all
            labels), accuracy, direction_accuracy, mae, mse (validation; NaN where not defined), learning_rate, seconds, and
            for forecasters the validation loss of each task, `val_loss_<task>`.
        best_epoch: Epoch of the lowest validation loss, counted from 1.
        best_validation_loss: That loss.
        seconds: Wall time of all epochs, those before a resume included.
        loading_seconds: Of those, what training waited for batches.
    """

    history: dict[str, list[float]]
    best_epoch: int
    best_validation_loss: float
    seconds: float
    loading_seconds: float = 0.0
