"""Fits laid on slots: nothing is left out or done twice, and no slot waits long for the others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.distributed.schedule import Piece, pieces_of


def makespan(pieces: list[Piece], costs: list[float], epochs: list[int], slots: int) -> float:
    """Return when the last piece ends: a free slot takes the first piece that waits and whose fit is not running."""
    waiting, running, done, now = list(pieces), list[tuple[float, Piece]](), [0] * len(costs), 0.0
    while waiting or running:
        busy = {piece.index for _, piece in running}
        piece = next((one for one in waiting if one.index not in busy), None) if len(running) < slots else None
        if piece is None:
            now, ended = min(running, key=lambda one: one[0])
            running.remove((now, ended))
            continue
        waiting.remove(piece)
        stop = epochs[piece.index] if piece.until is None else piece.until
        running.append((now + costs[piece.index] * (stop - done[piece.index]) / epochs[piece.index], piece))
        done[piece.index] = stop
    assert done == epochs
    return now


@pytest.mark.parametrize(
    ("costs", "slots", "expected"),
    [
        ([1], 2, [(0, None)]),
        ([1, 1, 1, 1], 2, [(0, None), (1, None), (2, None), (3, None)]),
        ([1, 1, 1], 2, [(0, None), (1, 5), (2, None), (1, None)]),
        ([48, 20, 107], 2, [(2, None), (0, None), (1, None)]),
        ([24, 19.5, 14.7], 2, [(0, None), (1, 7), (2, None), (1, None)]),
        ([1, 1, 1, 1, 1], 1, [(0, None), (1, None), (2, None), (3, None), (4, None)]),
        ([1, 2], 8, [(1, None), (0, None)]),
        ([0, 0, 0], 2, [(0, None), (1, None), (2, None)]),
    ],
)
def test_a_fit_gives_way_only_where_that_ends_all_sooner(costs: list[float], slots: int, expected: list) -> None:
    assert pieces_of(costs, [10] * len(costs), slots) == [Piece(*piece) for piece in expected]


def test_a_fit_of_one_epoch_stays_whole() -> None:
    assert sorted(piece.index for piece in pieces_of([1, 1, 1], [1, 1, 1], 2)) == [0, 1, 2]


@settings(deadline=None)
@given(
    fits=st.lists(st.tuples(st.floats(0.1, 100.0), st.integers(1, 60)), min_size=1, max_size=12),
    slots=st.integers(1, 6),
)
def test_all_slots_end_together_but_for_an_epoch(fits: list[tuple[float, int]], slots: int) -> None:
    costs, epochs = [cost for cost, _ in fits], [count for _, count in fits]
    pieces = pieces_of(costs, epochs, slots)
    assert len(pieces) <= len(fits) + slots - 1
    best = max(*costs, sum(costs) / slots) if len(costs) > 1 else costs[0]
    epoch = max(cost / count for cost, count in fits)
    assert makespan(pieces, costs, epochs, slots) <= best / 0.95 + slots * epoch
