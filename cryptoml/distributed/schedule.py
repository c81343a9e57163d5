"""Lay fits of unlike length on slots so that all slots end together: some fits move, between two epochs, to another slot.

McNaughton 1959, "Scheduling with deadlines and loss functions", sec. 3: where fits can be interrupted, m slots need no longer
than the longest fit or the m-th part of all, and m - 1 interruptions are enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace

__all__ = ["Piece", "pieces_of"]

WORTHWHILE = 0.95  # of the time without moves; a smaller gain is not worth one


@dataclass(frozen=True)
class Piece:
    """A fit, or a part of one that runs without interruption.

    Attributes:
        index: Of the fit.
        until: Epochs, counted from the fit's first, after which it gives way; None is its end.
    """

    index: int
    until: int | None = None


def pieces_of(costs: Sequence[float], epochs: Sequence[int], slots: int) -> list[Piece]:
    """Return the pieces in the order in which they should start, each as soon as a slot is free and its fit not running.

    Args:
        costs: What each fit computes, in any unit.
        epochs: Of each fit; one of a single epoch stays whole.
        slots: Fits that run at once.
    """
    longest_first = sorted(range(len(costs)), key=lambda index: -costs[index])
    end = max(*costs, sum(costs) / slots, 0.0)
    if end > WORTHWHILE * _end_without_moves(costs, slots):
        return [Piece(index) for index in longest_first]
    starts = list[tuple[float, Piece]]()
    filled = 0.0  # of the slot that is being laid out
    for index in longest_first:
        over = filled + costs[index] - end
        turn = round(epochs[index] * over / costs[index]) if over > 0 else 0
        if turn:
            starts.append((0.0, Piece(index, turn if turn < epochs[index] else None)))
        if turn < epochs[index]:
            starts.append((filled, Piece(index)))
        filled = over if over > 0 else filled + costs[index]
    return [piece for _, piece in sorted(starts, key=lambda start: start[0])]


def _end_without_moves(costs: Sequence[float], slots: int) -> float:
    """Return when all fits have ended that start longest first, each on the slot that is free first."""
    busy = [0.0] * slots
    for cost in sorted(costs, reverse=True):
        heapreplace(busy, busy[0] + cost)
    return max(busy)
