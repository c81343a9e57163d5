"""Replay a tape one bar at a time: what many formulas make of the newest bar, in a few vectorised calls.

The steps of a tape are put into groups of one function each, so that a group is one call on a vector of its members.
Delays are read from histories before the first group, in one gather; after the last, the histories take the new values.
The arithmetic of a step is that of the batch, and so is its value.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.rolling import delay
from cryptoml.features.trace import Apply, Column, Constant, Delay, Step

__all__ = ["Program", "Replay"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class _Call:
    """One function into consecutive registers; operands are places of registers or constants, `[member]` each."""

    function: Callable[..., Any]
    operands: tuple[IntArray | FloatArray, ...]
    out: slice


class Program:
    """The steps of a tape that some outputs need, in an order of few calls; shared by all who replay it.

    Registers hold one value per step: columns first, then constants, delays, and the results of the calls.

    Attributes:
        columns: Names of the inputs, in the order of their registers.
    """

    def __init__(self, steps: Sequence[Step], outputs: Sequence[int]) -> None:
        """Plan for the values of some of the steps, given by place."""
        self.steps = _needed(steps, outputs)
        self.fixed = {place: float(step.text) for place, step in self.steps.items() if isinstance(step, Constant)}
        columns = {place: step.name for place, step in self.steps.items() if isinstance(step, Column)}
        delays = {place: step for place, step in self.steps.items() if isinstance(step, Delay)}
        groups = _groups(self.steps)
        order = [*columns, *self.fixed, *delays, *(place for group in groups for place in group)]
        self.columns = tuple(columns.values())
        self.register_of = {place: register for register, place in enumerate(order)}
        self.outputs = self._registers(outputs)
        self.delayed = slice(len(columns) + len(self.fixed), len(columns) + len(self.fixed) + len(delays))
        self.calls = [self._call(group) for group in groups]
        self._plan_histories(delays)

    def _registers(self, places: Iterable[int]) -> IntArray:
        return np.array([self.register_of[place] for place in places], dtype=np.int64)

    def _call(self, group: list[int]) -> _Call:
        members = [step for step in (self.steps[place] for place in group) if isinstance(step, Apply)]
        operands = [
            np.array([self.fixed[place] for place in places]) if set(places) <= set(self.fixed) else self._registers(places)
            for places in zip(*(step.operands for step in members), strict=True)
        ]
        first = self.register_of[group[0]]
        return _Call(members[0].function, tuple(operands), slice(first, first + len(group)))

    def _plan_histories(self, delays: Mapping[int, Delay]) -> None:
        """Lay the rings of all delayed steps out in one array, each a power of two that holds its longest delay."""
        longest: dict[int, int] = {}
        for step in delays.values():
            longest[step.source] = max(longest.get(step.source, 0), step.bars)
        sizes = [1 << (bars - 1).bit_length() for bars in longest.values()]
        stops = list(accumulate(sizes))
        self.rings = {place: slice(stop - size, stop) for place, size, stop in zip(longest, sizes, stops, strict=True)}
        self.history_length = sum(sizes)
        self.kept = self._registers(longest)
        self.kept_in = _Rings(list(self.rings.values()))
        self.read_from = _Rings([self.rings[step.source] for step in delays.values()])
        self.bars_ago = np.array([step.bars for step in delays.values()], dtype=np.int64)


class _Rings:
    """Places of rings in one array, `[ring]`."""

    def __init__(self, rings: Sequence[slice]) -> None:
        self._start = np.array([ring.start for ring in rings], dtype=np.int64)
        self._mask = np.array([ring.stop - ring.start - 1 for ring in rings], dtype=np.int64)

    def at(self, time: IntArray | int) -> IntArray:
        """Return where the rings hold the values of some bars."""
        return self._start + (time & self._mask)


class Replay:
    """Where one series stands in a program."""

    def __init__(self, program: Program) -> None:
        """Stand before the first bar."""
        self._program = program
        self._time = 0
        self._registers = np.full(len(program.steps), np.nan)
        for place, value in program.fixed.items():
            self._registers[program.register_of[place]] = value
        self._history = np.full(program.history_length, np.nan)

    def run(self, columns: Mapping[str, FloatArray]) -> None:
        """Work through the columns `[time]` of the first bars, filled forward."""
        self._time = min(map(len, columns.values()), default=0)
        if self._time:
            with np.errstate(all="ignore"):
                self._run(columns)

    def _run(self, columns: Mapping[str, FloatArray]) -> None:
        program, values = self._program, dict[int, Any](self._program.fixed)
        last_use = {place: user for user, step in program.steps.items() for place in _operands(step)}
        for place, step in program.steps.items():
            if place not in program.fixed:
                values[place] = series = _series(step, values, columns)
                self._registers[program.register_of[place]] = series[-1]
                if place in program.rings:
                    ring = self._history[program.rings[place]]
                    tail = series[-len(ring) :]
                    ring[np.arange(self._time - len(tail), self._time) % len(ring)] = tail
            for done in {one for one in _operands(step) if last_use[one] == place}:
                del values[done]

    def step(self, newest: FloatArray) -> None:
        """Take one more bar of the columns `[column]`; what is missing keeps its last value."""
        program, registers, history = self._program, self._registers, self._history
        np.copyto(registers[: len(newest)], newest, where=np.isfinite(newest))
        registers[program.delayed] = history[program.read_from.at(self._time - program.bars_ago)]
        with np.errstate(all="ignore"):
            for call in program.calls:
                operands = [registers[one] if one.dtype == np.int64 else one for one in call.operands]
                registers[call.out] = call.function(*operands)
        history[program.kept_in.at(self._time)] = registers[program.kept]
        self._time += 1

    @property
    def outputs(self) -> FloatArray:
        """`[output]` at the newest bar."""
        return self._registers[self._program.outputs]


def _operands(step: Step) -> tuple[int, ...]:
    if isinstance(step, Apply):
        return step.operands
    return (step.source,) if isinstance(step, Delay) else ()


def _series(step: Step, values: Mapping[int, Any], columns: Mapping[str, FloatArray]) -> FloatArray:
    """Return a step's values at every bar."""
    if isinstance(step, Column):
        return columns[step.name]
    if isinstance(step, Delay):
        return delay(values[step.source], step.bars)
    assert isinstance(step, Apply)
    return np.asarray(step.function(*(values[place] for place in step.operands)), dtype=np.float64)


def _needed(steps: Sequence[Step], outputs: Iterable[int]) -> dict[int, Step]:
    """Return the steps on which some depend, by place."""
    needed = set(outputs)
    for place in range(len(steps) - 1, -1, -1):
        if place in needed:
            needed.update(_operands(steps[place]))
    return {place: steps[place] for place in sorted(needed)}


def _groups(steps: Mapping[int, Step]) -> list[list[int]]:
    """Put the applied steps into groups of one function, in an order in which operands come first.

    The function whose ready steps begin the longest chain goes next: most of the others' steps wait for company.
    """
    inner = {
        place: [one for one in step.operands if isinstance(steps[one], Apply)]
        for place, step in steps.items()
        if isinstance(step, Apply)
    }
    chain = dict.fromkeys(inner, 1)
    for place in reversed(inner):
        for one in inner[place]:
            chain[one] = max(chain[one], chain[place] + 1)
    order, ready, groups = TopologicalSorter(inner), defaultdict[Any, list[int]](list), list[list[int]]()
    order.prepare()
    while order.is_active():
        for place in order.get_ready():
            ready[_kind(steps[place])].append(place)
        groups.append(ready.pop(max(ready, key=lambda kind: max(chain[place] for place in ready[kind]))))
        order.done(*groups[-1])
    return groups


def _kind(step: Step) -> tuple[Callable[..., Any], int]:
    assert isinstance(step, Apply)
    return step.function, len(step.operands)
