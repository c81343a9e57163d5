"""Ray Tune as the engine of a search: as many trials at once as the cluster holds, each a plain call of the objective."""

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune

from cryptoml.distributed.progress import SweepProgress
from cryptoml.distributed.resources import slots_for
from cryptoml.distributed.tuning.reports import epoch_report, outcome_report, use_threads
from cryptoml.distributed.tuning.search import StudyArrays, StudyPruning, StudySearch
from cryptoml.errors import ConfigError, CryptomlError
from cryptoml.training.study import Study
from cryptoml.training.trial import Objective, Worker, attempt
from cryptoml.training.worker_config import WorkerConfig

__all__ = ["RayEngine"]

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it takes Ctrl-C for the end of the sweep, and stays afterwards
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study writes tables and curves
}


@dataclass(frozen=True)
class RayEngine:
    """Runs what remains of a study on the connected cluster.

    The objective, with all its data, lies once in the object store; the processes of trials are used again.

    Attributes:
        workers: What each trial holds: a share of a GPU, one, or several workers with theirs; on CPUs one each by default.
        storage: Folder that all nodes reach, local or `s3://`, for trials of several workers; one of this machine by default.
        mlflow: Tracking URI of an MLflow server or store to log to as well, such as `sqlite:///mlflow.db`; needs the extra
            `mlflow`.
    """

    workers: WorkerConfig = field(default_factory=WorkerConfig)
    storage: str | None = None
    mlflow: str | None = None

    def __call__(self, objective: Objective, study: Study) -> None:
        """Run the trials; the study hears of each epoch and of each end.

        Raises:
            ConfigError: The cluster can never hold a trial, or MLflow is not installed. Nothing has been started.
            CryptomlError: The study cannot be written any more.
        """
        workers, slots = self.workers, slots_for(self.workers, study.remaining)
        if workers.num_workers > 1:
            _require_dashboard()
        search = StudySearch(study, _held(workers))
        callbacks = [StudyArrays(search), SweepProgress(study.remaining), *self._loggers(study)]
        os.environ.update(SETTINGS)
        with tempfile.TemporaryDirectory(prefix="cryptoml-sweep-") as folder:
            tuner = tune.Tuner(
                _trainable([ray.put(objective)], workers, self.storage or folder),
                tune_config=tune.TuneConfig(
                    search_alg=search,
                    scheduler=StudyPruning(search),
                    num_samples=study.remaining,
                    max_concurrent_trials=slots,
                    reuse_actors=workers.num_workers == 1,
                    trial_name_creator=lambda trial: f"trial_{search.numbers[trial.trial_id]:05d}",
                ),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=folder,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=workers.max_failures),
                    callbacks=callbacks,
                ),
            )
            try:
                tuner.fit()
            except (tune.TuneError, RuntimeError) as error:
                raise search.failure or CryptomlError(f"the search ended: {error}") from error

    def _loggers(self, study: Study) -> list[tune.Callback]:
        if self.mlflow is None:
            return []
        if importlib.util.find_spec("mlflow") is None:
            raise ConfigError(f"mlflow {self.mlflow} needs the package of that name: pip install cryptoml[mlflow]")
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        return [MLflowLoggerCallback(tracking_uri=self.mlflow, experiment_name=study.name)]


def _require_dashboard() -> None:
    from cryptoml.distributed.tuning.workers import require_dashboard  # loads torch

    require_dashboard()


def _trainable(shared: list[ray.ObjectRef], workers: WorkerConfig, folder: str) -> Callable[..., Any]:
    """Return the trial with what it holds; one of several workers leaves it all to them."""
    if workers.num_workers == 1:
        alone = tune.with_parameters(_trial, shared=shared, workers=workers)
        return tune.with_resources(alone, _held(workers))
    from cryptoml.distributed.tuning.workers import run_workers  # loads torch

    together = tune.with_parameters(run_workers, shared=shared, workers=workers, held=_held(workers), folder=folder)
    return tune.with_resources(together, {"memory": 1})  # Tune takes no trial that holds nothing; a byte stands in no one's way


def _held(workers: WorkerConfig) -> dict[str, float]:
    """Return the resources of a whole trial."""
    each = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    return {name: value * workers.num_workers for name, value in each.items()}


def _trial(parameters: dict[str, Any], shared: list[ray.ObjectRef], workers: WorkerConfig) -> None:
    """Run one trial in a Tune actor."""
    started = time.time()
    objective = ray.get(shared[0])
    use_threads(workers.threads)

    def report(step: int, value: float) -> None:
        tune.report(epoch_report(step, value, started))

    outcome = attempt(objective, parameters, report, Worker("cuda" if _has_gpu(workers.gpus) else None), _held(workers))
    tune.report(outcome_report(outcome))


def _has_gpu(gpus: float) -> bool:
    """Tell whether a real GPU came with the trial; of a shared one it takes no more memory than its share."""
    if not gpus:
        return False
    import torch

    if not torch.cuda.is_available():
        return False
    torch.cuda.set_per_process_memory_fraction(min(1.0, gpus))
    return True
