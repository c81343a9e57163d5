"""Trials of several data-parallel workers, on a cluster with its dashboard."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cryptoml.distributed.cluster import cluster
from cryptoml.distributed.tuning.engine import RayEngine
from cryptoml.training.member import FoldData
from cryptoml.training.sweep import SweepConfig, run_sweep
from cryptoml.training.worker_config import WorkerConfig
from tests.distributed.market import small_task
from tests.distributed.objectives import Scripted
from tests.distributed.test_tuning import most_at_once, run

NEIGHBOUR = """
import sys, ray
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def dashboard_cluster() -> Iterator[None]:
    """A cluster with another one beside it on the same machine, which no process of the one may take for its own."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a short path, as sockets need
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("RAY_ADDRESS", raising=False)
        patched.setenv("RAY_TMPDIR", folder)
        neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with neighbour, cluster(num_cpus=2, dashboard=True):
            assert neighbour.stdout is not None
            assert neighbour.stdout.readline() == "up\n"
            yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("dashboard_cluster", "one_thread")
class TestWorkers:
    def test_a_trial_of_two_workers_is_that_of_one_with_twice_the_batch(self, fold: FoldData, tmp_path: Path) -> None:
        space, task = {"search": ("learning_rate",)}, small_task(fold, dropout=0.0)
        config = SweepConfig(num_trials=1, max_epochs=2, num_folds=1, pruner="none", space=space).around(task)
        parted, whole = (replace(task, training=task.training.updated(batch_size=size)) for size in (2, 4))
        engine = RayEngine(WorkerConfig(num_workers=2), storage=str(tmp_path))
        found, plain = run_sweep([fold], parted, config, engine=engine), run_sweep([fold], whole, config)
        assert [trial.state for trial in found] == ["COMPLETE"]
        assert [trial.steps for trial in found] == [2]
        losses = [[trial.values["loss"] for trial in trials] for trials in (found, plain)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)

    def test_stopping_trials_of_several_workers_does_not_lock_up(self, tmp_path: Path) -> None:
        objective = Scripted(tmp_path, epochs=9, seconds=0.1)
        trials = run(objective, tmp_path, num_trials=3, max_steps=9, num_workers=2)
        assert [trial.state for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED"]
        assert most_at_once(trials) == 1
