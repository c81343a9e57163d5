"""A study as Ray Tune sees it: a searcher that asks it for configurations, a scheduler that asks it whom to stop.

Ray's own OptunaSearch records trials that a scheduler stopped as COMPLETE, leaves those with a loss that is not finite
RUNNING, and cannot go on with a study in a database; here the study alone decides and records.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cryptoml.distributed.tuning.reports import ARRAYS, FACTS, LOSS, OUTCOME, STEP
from cryptoml.errors import CryptomlError
from cryptoml.training.search import log_end
from cryptoml.training.study import Study
from cryptoml.training.trial import Outcome

__all__ = ["StudyArrays", "StudyPruning", "StudySearch"]


class StudySearch(Searcher):
    """Asks a study for configurations and tells it how each ended.

    Args:
        study: The study; it keeps itself, so Tune's checkpoints of the searcher hold nothing.
        resources: What each trial holds.

    Attributes:
        failure: Why the study could not be written, which Tune itself would bury in an error of its own.
    """

    def __init__(self, study: Study, resources: dict[str, float]) -> None:
        super().__init__()
        self.study, self.resources = study, resources
        self.numbers: dict[str, int] = {}
        self.arrays: dict[str, dict[str, np.ndarray]] = {}
        self.failure: CryptomlError | None = None

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the next configuration."""
        with self.remembering():
            self.numbers[trial_id], parameters = self.study.ask()
        return parameters

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep an error of the study for whoever started the search."""
        try:
            yield
        except CryptomlError as error:
            self.failure = error
            raise

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study: the trial's own outcome, or that it was stopped, or that its process died."""
        number, result = self.numbers.pop(trial_id), result or {}
        facts = json.loads(result.get(FACTS, "{}")) | {"resources": self.resources}
        if OUTCOME in result:
            outcome = Outcome(**json.loads(result[OUTCOME]) | {"arrays": self.arrays.pop(trial_id, {})})
        elif error:
            outcome = Outcome("FAIL", facts=facts, reason="its process died, for want of memory or with its node")
        else:
            outcome = Outcome("PRUNED", facts=facts)
        with self.remembering():
            log_end(self.study.tell(number, outcome))

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study keeps itself."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudyArrays(Callback):
    """Takes arrays out of a trial's last report for the study, before Tune keeps them and writes them with every trial.

    Args:
        search: Knows the study and its trials.
    """

    def __init__(self, search: StudySearch) -> None:
        self.search = search

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any) -> None:
        """Move the arrays of a report to the searcher."""
        if ARRAYS in result:
            self.search.arrays[trial.trial_id] = result.pop(ARRAYS)


class StudyPruning(FIFOScheduler):
    """Stops the trials that the study's pruner gives up.

    Args:
        search: Knows the study and its trials.
    """

    def __init__(self, search: StudySearch) -> None:
        super().__init__()
        self.search = search

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the loss of an epoch, and decide."""
        if LOSS not in result:
            return TrialScheduler.CONTINUE
        with self.search.remembering():
            stop = self.search.study.report(self.search.numbers[trial.trial_id], result[STEP], result[LOSS])
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
