"""What a driver shows of work on the cluster: epochs of members, trials of a sweep."""

import time
from collections.abc import Mapping, Sequence
from typing import Self

from ray import tune
from tqdm import tqdm

from cryptoml.distributed.member_store import MemberStore
from cryptoml.training.member_curves import OnMemberEpoch

__all__ = ["MemberProgress", "SweepProgress"]

REMOTE_SECONDS = 10.0
"""Between two looks at a storage that is asked over the network."""


class MemberProgress:
    """Tells of each epoch of each member once, in order; on a terminal it shows a bar as well.

    Args:
        on_epoch: Who is told.
        total_epochs: Of all members; early stopping may end before.
    """

    def __init__(self, on_epoch: OnMemberEpoch, total_epochs: int) -> None:
        self._on_epoch, self._heard = on_epoch, dict[str, int]()
        self._bar = tqdm(total=total_epochs, desc="members", unit="epoch", disable=None, leave=False)
        self._next_look = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def look(self, running: Mapping[str, MemberStore]) -> None:
        """Tell what workers have left in their runs' storage since the last look.

        Args:
            running: Name of the member -> storage of its run.
        """
        if time.monotonic() < self._next_look:
            return
        for name, store in running.items():
            self.tell(name, store.epochs())
        if not all(store.is_local for store in running.values()):
            self._next_look = time.monotonic() + REMOTE_SECONDS

    def finish(self, name: str, history: Mapping[str, Sequence[float]]) -> None:
        """Tell what has not been told of a member that is fitted."""
        rows = [dict(zip(history, values, strict=True)) for values in zip(*history.values(), strict=True)]
        self.tell(name, dict(enumerate(rows, start=1)))

    def tell(self, name: str, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Tell the epochs, counted from 1, that follow on what was told."""
        while (epoch := self._heard.get(name, 0) + 1) in rows:
            self._on_epoch(name, epoch, rows[epoch])
            self._heard[name] = epoch
            self._bar.update()


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
