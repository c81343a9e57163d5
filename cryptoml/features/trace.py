"""Record the arithmetic of formulas on a tape, so that a live row can replay the newest bar of every step.

A formula is recorded by calling it with `Series` in place of arrays: what it does to them, NumPy's elementwise functions,
delays and the kernels of `rolling.py` made of both, goes onto the tape, each distinct step once. A step has one value per
bar, a function of other steps' values at that bar and, through delays, at earlier ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["Apply", "Column", "Constant", "Delay", "Series", "Step", "Tape", "UntraceableError", "elementwise"]

Elementwise = TypeVar("Elementwise", bound=Callable[..., Any])


class UntraceableError(TypeError):
    """A formula did something to a series that has no value bar by bar."""


@dataclass(frozen=True)
class Column:
    """An input, filled forward."""

    name: str


@dataclass(frozen=True)
class Constant:
    """A number, in text so that NaN equals itself."""

    text: str


@dataclass(frozen=True)
class Delay:
    """The value of a step so many bars earlier."""

    source: int
    bars: int


@dataclass(frozen=True)
class Apply:
    """An elementwise function of other steps' values at the same bar."""

    function: Callable[..., Any]
    operands: tuple[int, ...]


Step = Column | Constant | Delay | Apply


class Tape:
    """Steps in the order in which they can be worked out.

    Attributes:
        steps: Every distinct step.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.steps: list[Step] = []
        self._places: dict[Step, int] = {}

    def column(self, name: str) -> "Series":
        """Return an input as a series."""
        return self._record(Column(name))

    def delay(self, series: "Series", bars: int) -> "Series":
        """Return a series `bars` earlier."""
        step = self.steps[series.place]
        if bars == 0 or isinstance(step, Constant):
            return series
        return self._record(Delay(step.source, step.bars + bars) if isinstance(step, Delay) else Delay(series.place, bars))

    def apply(self, function: Callable[..., Any], *operands: Any) -> "Series":
        """Return an elementwise function of series and numbers.

        Raises:
            UntraceableError: An operand is neither.
        """
        return self._record(Apply(function, tuple(self._operand(one) for one in operands)))

    def _operand(self, operand: Any) -> int:
        if isinstance(operand, Series):
            return operand.place
        if np.ndim(operand) or not isinstance(operand, bool | int | float | np.number | np.bool_ | np.ndarray):
            raise UntraceableError(f"operand must be a series or a number, was {operand!r}")
        return self._record(Constant(repr(float(operand)))).place

    def _record(self, step: Step) -> "Series":
        if step not in self._places:
            self._places[step] = len(self.steps)
            self.steps.append(step)
        return Series(self, self._places[step])


LOGICAL = {np.bitwise_and: np.logical_and, np.bitwise_or: np.logical_or, np.invert: np.logical_not}
"""Steps hold float64: conditions are 0 and 1."""


class Series(NDArrayOperatorsMixin):
    """Stands for a `[time]` array while a formula is recorded; all series end at the newest bar."""

    shape: tuple[int, ...] = ()
    """As long as any other."""

    def __init__(self, tape: Tape, place: int) -> None:
        """Stand for one step of a tape."""
        self.tape = tape
        self.place = place

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, out: Any = None, **options: Any) -> "Series":
        """Record a NumPy function; in place means a new series under the old name."""
        if method != "__call__" or options or ufunc.nout != 1:
            raise UntraceableError(f"{ufunc.__name__}.{method} has no value bar by bar")
        if ufunc is np.power and not isinstance(operands[1], Series) and operands[1] == 2:
            return self.tape.apply(np.square, operands[0])  # as arrays do
        return self.tape.apply(LOGICAL.get(ufunc, ufunc), *operands)

    def __array_function__(self, function: Callable[..., Any], types: Any, operands: Any, options: Any) -> "Series":
        """Record `np.where`, the one function among those of NumPy's that are not ufuncs."""
        if function is not np.where or options:
            raise UntraceableError(f"{function.__name__} has no value bar by bar")
        return self.tape.apply(np.where, *operands)

    def __getitem__(self, key: Any) -> "Series":
        """Cut bars off the start, which changes nothing, or off the end, which delays."""
        cut = key[1] if isinstance(key, tuple) and len(key) == 2 and key[0] is Ellipsis else key
        if isinstance(cut, slice) and cut.step is None:
            if cut.stop is None:
                return self
            if cut.start is None and cut.stop < 0:
                return self.tape.delay(self, -cut.stop)
        raise UntraceableError(f"series can be cut by [n:] or [:-n], was cut by {key!r}")

    def astype(self, dtype: Any) -> "Series":
        """Return the series itself: every step is float64."""
        if np.dtype(dtype) != np.float64:
            raise UntraceableError(f"series are float64, asked for {dtype!r}")
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """Refuse to become numbers."""
        raise UntraceableError("a series has no numbers")

    def __bool__(self) -> bool:
        """Refuse to decide."""
        raise UntraceableError("a series is neither true nor false")


def elementwise(function: Elementwise) -> Elementwise:
    """Record a function whose value at each bar depends on its operands at that bar as one step; all by position."""

    @wraps(function)
    def call(*operands: Any) -> Any:
        for one in operands:
            if isinstance(one, Series):
                return one.tape.apply(call, *operands)
        return function(*operands)

    return call  # type: ignore[return-value]
