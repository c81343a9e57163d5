"""One progress bar on the driver, fed from workers anywhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from tqdm import tqdm

__all__ = ["SweepProgress", "epoch_counter", "epoch_progress"]


class _Counter:
    """Counts finished epochs over all runs."""

    def __init__(self) -> None:
        self.epochs = 0

    def tick(self) -> None:
        """Count one epoch."""
        self.epochs += 1

    def count(self) -> int:
        """Return the epochs counted so far."""
        return self.epochs


def epoch_counter() -> Any:
    """Start the actor whose `tick` workers call after each epoch; None where nobody watches."""
    return ray.remote(num_cpus=0)(_Counter).remote() if sys.stderr.isatty() else None


@contextmanager
def epoch_progress(counter: Any, total_epochs: int, label: str) -> Iterator[Callable[[], None]]:
    """Give a function that brings the bar up to date; early stopping may end before the total.

    Without a counter there is no bar.
    """
    with tqdm(total=total_epochs, desc=label, unit="epoch", disable=counter is None, leave=False) as bar:

        def refresh() -> None:
            if counter is not None:
                bar.update(ray.get(counter.count.remote()) - bar.n)

        yield refresh


class SweepProgress(tune.Callback):
    """Shows how many trials of a sweep have ended."""

    def __init__(self, num_trials: int) -> None:
        self.bar = tqdm(total=num_trials, desc="sweep", unit="trial", disable=None, leave=False)

    def on_trial_complete(self, iteration: int, trials: list, trial: object, **info: object) -> None:
        """Count a trial that ended."""
        self.bar.update()

    def on_trial_error(self, iteration: int, trials: list, trial: object, **info: object) -> None:
        """Count a trial that failed."""
        self.bar.update()

    def on_experiment_end(self, trials: list, **info: object) -> None:
        """Take the bar away."""
        self.bar.close()
