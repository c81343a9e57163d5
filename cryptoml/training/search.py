"""A search: an objective tried on the configurations of a study, here one after the other, elsewhere on a cluster."""

import logging
from collections.abc import Callable

import optuna
from tqdm import tqdm

from cryptoml.errors import ConfigError, CryptomlError
from cryptoml.training.study import Study
from cryptoml.training.trial import Objective, SweepTrial, attempt

__all__ = ["Engine", "log_end", "run_here", "search"]

logger = logging.getLogger(__name__)

Engine = Callable[[Objective, Study], None]
"""Runs what remains of a study, and tells it each outcome."""


def search(objective: Objective, study: Study, engine: Engine | None = None) -> list[SweepTrial]:
    """Run what remains of a study; returns all its trials.

    An interrupt or an error leaves the study consistent: what was running is failed and will be repeated.

    Raises:
        ConfigError: No trial is asked for, or an earlier study cannot be read.
        CryptomlError: Every trial failed; the message is that of the last.
    """
    if study.config.num_trials < 1:
        raise ConfigError(f"num_trials must be at least 1, was {study.config.num_trials}")
    study.warm_start()
    try:
        if study.remaining:
            (engine or run_here)(objective, study)
    finally:
        study.interrupt()
    trials = study.trials
    if all(trial.state == "FAIL" for trial in trials):
        raise CryptomlError(f"every trial of the search failed, the last with: {trials[-1].reason}")
    return trials


def run_here(objective: Objective, study: Study) -> None:
    """Try one configuration after the other in this process."""
    with tqdm(total=study.remaining, desc="sweep", unit="trial", disable=None, leave=False) as bar:
        while study.remaining:
            number, parameters = study.ask()

            def report(step: int, value: float, number: int = number) -> None:
                if study.report(number, step, value):
                    raise optuna.TrialPruned

            trial = study.tell(number, attempt(objective, parameters, report))
            log_end(trial)
            bar.update()


def log_end(trial: SweepTrial) -> None:
    """Say how a trial ended."""
    if trial.state == "FAIL":
        logger.warning("trial %d failed: %s", trial.number, trial.reason)
    else:
        told = ", ".join(f"{name} {value:.5g}" for name, value in trial.values.items()) or f"loss so far {trial.last_value}"
        logger.info("trial %d %s after %.0f s: %s", trial.number, trial.state.lower(), trial.seconds, told)
