"""The curves of an ensemble's members as TensorBoard runs, written by whoever drives the fits, wherever those run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from cryptoml.training.events import EventLog

__all__ = ["MemberCurves", "OnMemberEpoch", "hear_nothing"]

OnMemberEpoch = Callable[[str, int, Mapping[str, float]], None]
"""Hears the member's name, the epoch counted from 1, and its row of the history, of each epoch once and in order."""


def hear_nothing(name: str, epoch: int, row: Mapping[str, float]) -> None:
    """Take an epoch and do nothing."""


class MemberCurves:
    """Event files, one folder per member; epochs that an earlier process has written and this one repeats replace those.

    Args:
        folder: Where the members' folders lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._logs: dict[str, EventLog] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for log in self._logs.values():
            log.close()

    def add(self, name: str, epoch: int, row: Mapping[str, float]) -> None:
        """Write the figures of an epoch of a member.

        Raises:
            DataError: The folder cannot be written.
        """
        if name not in self._logs:
            self._logs[name] = EventLog(self.folder / name, epoch - 1)
        self._logs[name].add(epoch, row)
