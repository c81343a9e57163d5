"""Settings of a search and the Optuna parts that they choose."""

from typing import Literal, Self, get_args

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cryptoml.training.halving import SuccessiveHalving

__all__ = ["OBJECTIVES", "ObjectiveName", "SearchConfig", "make_pruner", "make_sampler"]

Direction = Literal["minimize", "maximize"]
ObjectiveName = Literal["loss", "latency", "sharpe", "drawdown"]
OBJECTIVES: dict[ObjectiveName, Direction] = {
    "loss": "minimize",
    "latency": "minimize",
    "sharpe": "maximize",
    "drawdown": "minimize",
}
"""What a trial can be judged by: loss out of sample, milliseconds per forecast, annual Sharpe ratio, largest drawdown."""

MEDIAN_INTERVAL = 3
"""Epochs between comparisons with the median: a trial that is unlucky in one is not given up for it in each."""


class SearchConfig(BaseModel):
    """How many configurations are tried, how they are drawn, and when one is given up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_trials: int = Field(4, ge=0, description="Configurations to try in all; 0 skips the search")
    objectives: tuple[ObjectiveName, ...] = Field(
        ("loss",), min_length=1, description=f"What a trial is judged by, one or several of {', '.join(get_args(ObjectiveName))}"
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="tpe: multivariate, with a constant liar for parallel trials")
    startup_trials: int = Field(16, ge=1, description="Configurations that tpe draws at random before it learns from them")
    pruner: Literal["asha", "hyperband", "median", "none"] = Field(
        "asha",
        description="Which trials end early, by epochs; only with loss as the single objective. asha and hyperband let one in "
        "`reduction_factor` go on at each rung; median ends the worse half, every third epoch, once four are complete",
    )
    grace_epochs: int = Field(2, ge=1, description="Epochs that every trial may run")
    reduction_factor: int = Field(3, ge=2, description="asha, hyperband: one trial in this many goes on at each rung")
    warm_start: tuple[str, ...] = Field(
        (), description="Earlier studies, each a storage URL or file: their best configurations are tried first"
    )

    @model_validator(mode="after")
    def _objectives_differ(self) -> Self:
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives must differ, were {self.objectives}")
        return self

    @property
    def prunes(self) -> bool:
        """Whether trials can end early: Optuna compares steps of one objective only, and epochs report losses."""
        return self.pruner != "none" and self.objectives == ("loss",)


def make_sampler(config: SearchConfig, seed: int) -> BaseSampler:
    """Return the sampler; one for a study that goes on needs another seed, lest it draw the same again."""
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True)


def make_pruner(config: SearchConfig, max_steps: int) -> BasePruner:
    """Return the pruner for trials of at most `max_steps` epochs."""
    if not config.prunes:
        return NopPruner()
    if config.pruner == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=config.grace_epochs, interval_steps=MEDIAN_INTERVAL)
    if config.pruner == "asha":
        return SuccessiveHalving(config.grace_epochs, config.reduction_factor)
    return HyperbandPruner(min_resource=config.grace_epochs, max_resource=max_steps, reduction_factor=config.reduction_factor)
