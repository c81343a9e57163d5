"""The flags that the jobs on one experiment share; what they do with them is in `jobs.stages`.

Nothing heavy is imported here, so that `--help` and a mistake in the command line are told at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cryptoml.preset_names import Preset

if TYPE_CHECKING:
    from cryptoml.config import ExperimentConfig

__all__ = ["ExperimentArguments"]


@dataclass(frozen=True)
class ExperimentArguments:
    """The experiment and where it runs."""

    data: str
    """A folder of candle files, a lake (local or s3://), or 'synthetic' for the built-in market."""
    out: str
    """Folder of the outputs, local or s3://; the jobs on one experiment share it."""
    train_end: str | None = None
    """Last day that the first model may learn from, such as 2023-12-31 (UTC); by default the last quarter is the test."""
    preset: Preset = "baseline"
    """debug: about a minute; baseline: a laptop; production: a cluster."""
    config: Path | None = None
    """YAML file with changes to the preset."""
    symbols: tuple[str, ...] = ()
    """Markets to use, such as BTC/USDT ETH/USDT; all by default."""
    timeframe: str | None = None
    """Length of a bar; needed where the data holds several."""
    seed: int | None = None
    """Seed of every random choice, that of the built-in market included."""
    folds: int | None = None
    """Refits over the test span."""
    seeds: int | None = None
    """Fits of the whole ensemble with different seeds, all reported."""
    engine: Literal["ray", "local"] = "ray"
    """ray: features, sweep and members side by side on Ray; local: everything in this process."""
    storage: str | None = None
    """Folder for training checkpoints that all nodes of a cluster reach; OUT by default."""
    parallel_folds: int = 1
    """Refits that run side by side on Ray."""
    num_workers: int | None = None
    """Data-parallel workers of each member; 1 unless the experiment says otherwise."""
    cpus: float | None = None
    """CPUs of each worker; 1 unless the experiment says otherwise."""
    gpus: float | None = None
    """GPUs of each worker; a fraction lets several members share one."""
    max_concurrent: int | None = None
    """Members fitted at once; by default as many as the cluster holds."""
    cluster_can_grow: bool = False
    """Wait for nodes that an autoscaler adds, instead of refusing what the cluster cannot hold now."""
    again: bool = False
    """Compute anew what this job has finished here for the same data and settings."""

    def experiment(self) -> "ExperimentConfig":
        """Return the preset with the changes that file and flags state.

        Raises:
            ConfigError: A setting is unknown or impossible.
        """
        from cryptoml.config import load_config, preset

        config = preset(self.preset)
        if self.config is not None:
            config = load_config(self.config, config)
        if self.timeframe is not None:
            config = config.updated(timeframe=self.timeframe)
        if self.seed is not None:
            own = {"seed": self.seed}
            config = config.updated(**own, market=own, baselines=own, bootstrap=own)
        if self.folds is not None:
            config = config.updated(walk_forward={"num_folds": self.folds})
        if self.seeds is not None:
            config = config.updated(num_seeds=self.seeds)
        return config.updated(workers=self.workers())

    def workers(self) -> dict[str, Any]:
        """Return the settings of the workers that flags state."""
        asked = {name: getattr(self, name) for name in ("num_workers", "cpus", "gpus", "max_concurrent")}
        asked["cluster_can_grow"] = self.cluster_can_grow or None
        return {name: value for name, value in asked.items() if value is not None}
