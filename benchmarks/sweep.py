"""The hyperparameter sweep on Ray Tune: pruning against random search, Ray's overhead, and a thousand trivial trials.

python -m benchmarks.sweep [--small] [--parts quality overhead scale]

Trials fit small forecasters of the built-in market on two cores, one thread each, scored by an inner walk-forward on the
training span. The start of the Ray cluster is left out; that of the trials' processes is not.
"""

import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import tyro
from optuna.trial import TrialState

from benchmarks.bars import Bar, report
from cryptoml.config import preset
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.distributed.cluster import cluster
from cryptoml.distributed.tuning.engine import RayEngine
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.targets import make_targets
from cryptoml.training.fold import inner_folds
from cryptoml.training.search import search
from cryptoml.training.search_config import SearchConfig
from cryptoml.training.study import Study
from cryptoml.training.sweep import SweepConfig, run_sweep
from cryptoml.training.sweep_trial import MemberObjective
from cryptoml.training.trial import Report, SweepTrial, Worker
from cryptoml.training.worker_config import WorkerConfig
from cryptoml.walk_forward import plan_folds

__all__ = ["Arguments", "main"]

CORES = 2
SPACE = {
    "search": ("architecture", "hidden_size", "num_heads", "dropout", "learning_rate", "weight_decay", "batch_size", "loss"),
    "architecture": ("tcn", "linear"),
    "hidden_size": (8, 16, 32),
    "learning_rate": (1e-4, 3e-2),
    "batch_size": (4, 8, 16),
}


@dataclass(frozen=True)
class Arguments:
    """Measure sweeps on two cores and print the figures beside their bars; everything lies in a temporary folder."""

    small: bool = False
    """A quick run that proves nothing but that it works."""
    parts: tuple[Literal["quality", "overhead", "scale"], ...] = ("quality", "overhead", "scale")
    """What to measure."""
    seeds: int = 3
    """Sweeps of each kind in the part on quality."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A sweep to run.

    Attributes:
        objective: Holds the inner folds and the task.
        config: Around the task, as many trials as random search gets.
    """

    objective: MemberObjective
    config: SweepConfig

    def sweep(self, seed: int | None = None, **changes: Any) -> tuple[list[SweepTrial], float]:
        """Run the sweep on Ray, with the task's own seed or another one; returns its trials and its wall time."""
        task = self.objective.task
        if seed is not None:
            task = replace(task, training=task.training.updated(seed=seed))
        started = time.perf_counter()
        config = self.config.model_copy(update=changes)
        trials = run_sweep(self.objective.folds, task, config, engine=RayEngine(WorkerConfig(cpus=1)))
        return trials, time.perf_counter() - started


def main(arguments: Arguments) -> int:
    """Run the parts and return the exit code."""
    bars: list[Bar] = []
    with cluster(num_cpus=CORES):
        if {"quality", "overhead"} & set(arguments.parts):
            problem = _problem(arguments.small)
            problem.sweep(num_trials=CORES)  # processes that have run before are used again
        if "quality" in arguments.parts:
            bars += _quality(problem, arguments.seeds)
        if "overhead" in arguments.parts:
            bars += _overhead(problem)
        if "scale" in arguments.parts:
            bars += _scale(50 if arguments.small else 1000, 10 if arguments.small else 100)
    return report("Sweeps", bars)


def _problem(small: bool) -> Problem:
    """Return the sweep of a small member of the built-in market."""
    market = MarketConfig(num_assets=4, num_bars=1500 if small else 5000)
    config = preset("debug").updated(market=market.model_dump(), lookback=16, training={"max_epochs": 9, "chunk_bars": 128})
    panel = synthetic_market(config.market).panel
    features = build_features(panel, AdvancedFeatureEngineer(config.features))
    targets, fold = make_targets(panel, config.targets), plan_folds(config, panel, None)[0]
    folds = inner_folds(features, targets, fold, config.targets, config.scaling, num_folds=2, test_fraction=0.4)
    task = config.members[1].task(folds[-1], config.training, config.lookback)
    sweep = SweepConfig(num_trials=4 if small else 16, max_epochs=3 if small else 9, num_folds=2, space=SPACE).around(task)
    return Problem(MemberObjective(folds, task, sweep.max_epochs), sweep)


def _quality(problem: Problem, seeds: int) -> list[Bar]:
    """Twice the trials with pruning against random search that runs each to its end."""
    bars, ratios, gains, found = [], [], [], []
    for seed in range(seeds):
        plain, plain_seconds = problem.sweep(seed, sampler="random", pruner="none")
        pruned, pruned_seconds = problem.sweep(seed, num_trials=2 * problem.config.num_trials, pruner="asha")
        best = [min(trial.cost for trial in trials) for trials in (pruned, plain)]
        stopped = sum(trial.state == "PRUNED" for trial in pruned)
        ratios.append(pruned_seconds / plain_seconds)
        gains.append(best[1] - best[0])
        found.append(_found_after(pruned, pruned_seconds, best[1]) / plain_seconds)
        note = (
            f"{len(pruned)} trials, {stopped} pruned, {pruned_seconds:.0f} s, as good after {found[-1] * plain_seconds:.0f} s; "
            f"{len(plain)} random, {plain_seconds:.0f} s"
        )
        bars.append(Bar(f"seed {seed}: best loss {best[0]:.4f} with pruning, {best[1]:.4f} at random", gains[-1], note=note))
        bars.append(Bar(f"seed {seed}: trials at once", _most_at_once(plain), least=CORES, most=CORES, note="from their logs"))
    return [
        *bars,
        Bar("loss of random search less that with pruning, mean", float(np.mean(gains)), least=0.0),
        Bar("wall time with pruning over random search, mean", float(np.mean(ratios))),
        Bar("wall time with pruning over random search, worst", max(ratios), most=1.0),
        Bar("time until as good over that of random search, worst", max(found), most=1.0, note="inf: never"),
    ]


def _found_after(trials: Sequence[SweepTrial], seconds: float, loss: float) -> float:
    """Return how much of the sweep's wall time had passed when a trial had ended that is at least as good as a loss."""
    ends = [trial.started + trial.seconds for trial in trials if trial.cost <= loss]
    return seconds - (max(trial.started + trial.seconds for trial in trials) - min(ends)) if ends else np.inf


def _overhead(problem: Problem) -> list[Bar]:
    """The same configurations on Ray and in a pool of two processes with plain Optuna."""
    changes = {"sampler": "random", "pruner": "none"}
    trials, ray_seconds = problem.sweep(**changes)
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        storage = f"sqlite:///{folder}/pool.db"
        study = optuna.create_study(storage=storage, study_name="pool")
        for trial in trials:
            study.enqueue_trial(trial.parameters, user_attrs={"given": True})
        started = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(CORES) as pool:
            pool.map(partial(_work_off, storage, problem.objective, problem.config), range(CORES))
        pool_seconds = time.perf_counter() - started
        losses = {trial.number: trial.value for trial in study.trials if trial.state == TrialState.COMPLETE}
    same = np.allclose([trial.values["loss"] for trial in trials], [losses[trial.number] for trial in trials], atol=1e-5)
    note = f"{len(trials)} trials: {ray_seconds:.1f} s and {pool_seconds:.1f} s, {'the same' if same else 'OTHER'} losses"
    return [Bar("Ray over plain Optuna in two processes", ray_seconds / pool_seconds, most=1.25, note=note)]


def _work_off(storage: str, objective: MemberObjective, config: SweepConfig, _: int) -> None:
    """Run trials that wait in a study until none is left."""
    import torch

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name="pool", storage=storage)
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        trial = study.ask()
        if not trial.user_attrs:  # the other process took the last one
            study.tell(trial, state=TrialState.FAIL)
            return
        study.tell(trial, objective(config.space.suggest(trial), _hear_nothing, Worker())["loss"])


def _hear_nothing(step: int, value: float) -> None:
    """Take a report and do nothing."""


class Trivial:
    """A trial that costs nothing."""

    def __call__(self, parameters: Mapping[str, Any], report: Report, worker: Worker) -> dict[str, float]:
        """Return the distance from a corner."""
        loss = float(sum(value**2 for value in parameters.values()))
        report(1, loss)
        return {"loss": loss}


def _suggest(trial: Any) -> dict[str, float]:
    return {name: trial.suggest_float(name, 0.0, 1.0) for name in ("a", "b", "c", "d", "e", "f")}


def _scale(num_trials: int, slots: int) -> list[Bar]:
    """What the searcher costs per trial, early and late."""
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    study = Study(_suggest, SearchConfig(num_trials=num_trials, pruner="none"), 1, folder=folder)
    started = time.perf_counter()
    with suppress(KeyboardInterrupt):
        search(Trivial(), study, RayEngine(WorkerConfig(cpus=0.01, max_concurrent=slots)))
    seconds = time.perf_counter() - started
    overhead = [1e3 * trial.searcher_seconds for trial in study.trials]
    shutil.rmtree(folder)
    fifths = [float(np.median(part)) for part in np.array_split(overhead, 5)]
    note = f"median per fifth of the trials: {', '.join(f'{value:.1f}' for value in fifths)} ms"
    return [
        Bar(f"{num_trials} trials in {slots} slots, trials per second", num_trials / seconds, note=f"{seconds:.0f} s in all"),
        Bar("trials at once, most", _most_at_once(study.trials)),
        Bar("searcher, ms per trial, mean", float(np.mean(overhead))),
        Bar("searcher, last fifth over the middle fifth", fifths[-1] / fifths[2], most=1.25, note=note),
    ]


def _most_at_once(trials: Sequence[SweepTrial]) -> int:
    """Return how many trials ran at the same time, by their own logs."""
    changes = [(trial.started, 1) for trial in trials] + [(trial.started + trial.seconds, -1) for trial in trials]
    return int(np.cumsum([change for _, change in sorted(changes)]).max())


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, prog="python -m benchmarks.sweep")))
