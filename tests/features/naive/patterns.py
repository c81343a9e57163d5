"""Candlesticks, one candle after the other; -1 is the newest."""

from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np

from tests.features.naive.window import decided, mean, ratio


@dataclass
class Candle:
    """One bar and what was usual before it."""

    open: float
    high: float
    low: float
    close: float
    usual_body: float = 0.0
    usual_range: float = 0.0
    near: float = 0.0

    @property
    def body(self):
        return abs(self.close - self.open)

    @property
    def range(self):
        return self.high - self.low

    @property
    def top(self):
        return max(self.open, self.close)

    @property
    def bottom(self):
        return min(self.open, self.close)

    @property
    def upper(self):
        return self.high - self.top

    @property
    def lower(self):
        return self.bottom - self.low

    @property
    def colour(self):
        return 1.0 if self.close >= self.open else -1.0

    @property
    def is_short(self):
        return decided(self.body, self.usual_body) < 0

    @property
    def is_long(self):
        return decided(self.body, self.usual_body) > 0

    @property
    def is_doji(self):
        return decided(self.body, 0.1 * self.usual_range) <= 0

    @property
    def has_upper(self):
        return decided(self.upper, 0.1 * self.usual_range)

    @property
    def has_lower(self):
        return decided(self.lower, 0.1 * self.usual_range)


def candle(w, age=0):
    """Return a candle some bars ago."""
    at = len(w.c) - 1 - age
    plain = [Candle(*row) for row in zip(w.o[: at + 1], w.h[: at + 1], w.l[: at + 1], w.c[: at + 1], strict=True)]
    last = plain[at]
    if at >= 10:
        bodies, ranges = (np.array([getattr(one, name) for one in plain[at - 10 : at]]) for name in ("body", "range"))
        last.usual_body, last.usual_range, last.near = mean(bodies), mean(ranges), 0.2 * mean(ranges[-5:])
    return last


def hammer_shape(one):
    return one.is_short and one.lower > one.body and one.has_upper < 0


def inverted_shape(one):
    return one.is_short and one.upper > one.body and one.has_lower < 0


def hammer(w):
    one, before = candle(w), candle(w, 1)
    return float(hammer_shape(one) and decided(one.bottom, before.low + before.near) <= 0)


def hanging_man(w):
    one, before = candle(w), candle(w, 1)
    return -float(hammer_shape(one) and decided(one.bottom, before.high - before.near) >= 0)


def dragonfly(w):
    one = candle(w)
    return float(one.is_doji and one.has_upper < 0 and one.has_lower > 0)


def shooting_star(w):
    one, before = candle(w), candle(w, 1)
    return -float(inverted_shape(one) and one.bottom >= before.top)


def inverted_hammer(w):
    one, before = candle(w), candle(w, 1)
    return float(inverted_shape(one) and one.top <= before.bottom)


def engulfing(w):
    one, before = candle(w), candle(w, 1)
    larger = one.top >= before.top and one.bottom <= before.bottom and (one.top > before.top or one.bottom < before.bottom)
    return one.colour if larger and one.colour == -before.colour else 0.0


def harami(w):
    one, before = candle(w), candle(w, 1)
    inside = one.top <= before.top and one.bottom >= before.bottom
    return -before.colour if inside and before.is_long and not one.is_long else 0.0


def piercing(w):
    one, before = candle(w), candle(w, 1)
    middle = (before.open + before.close) / 2
    if not before.is_long:
        return 0.0
    if before.close < before.open:
        return float(one.open <= before.close and middle < one.close < before.open)
    return -float(one.open >= before.close and middle > one.close > before.open)


def marubozu(w):
    one = candle(w)
    return one.colour if one.is_long and one.has_upper < 0 and one.has_lower < 0 else 0.0


def spinning_top(w):
    one = candle(w)
    return one.colour if one.is_short and one.upper > one.body and one.lower > one.body else 0.0


def star(w):
    first, second, third = candle(w, 2), candle(w, 1), candle(w)
    middle = (first.open + first.close) / 2
    if not (first.is_long and not second.is_long and third.is_long):
        return 0.0
    if first.close < first.open:
        return float(third.close > middle and third.colour > 0)
    return -float(third.close < middle and third.colour < 0)


def three_in_a_row(w):
    trio = [candle(w, age) for age in (2, 1, 0)]
    for before, after in pairwise(trio):
        follows = after.colour == before.colour and after.colour * (after.close - before.close) > 0
        centre, half = (before.open + before.close) / 2, before.body / 2
        if not (follows and abs(after.open - centre) <= half):
            return 0.0
    return trio[-1].colour


def inside_bar(w):
    high, low = w.h[-2], w.l[-2]
    inside, outside = w.h[-1] < high and w.l[-1] > low, w.h[-1] > high and w.l[-1] < low
    return float(inside) - float(outside)


def streak(w):
    signs = np.sign(w.c - w.o)[::-1]
    return sum(takewhile(lambda sign: sign and sign == signs[0], signs))


PATTERN = {
    "body_ratio": lambda w: ratio(w.c[-1] - w.o[-1], w.h[-1] - w.l[-1], 0.0),
    "upper_shadow_ratio": lambda w: ratio(candle(w).upper, candle(w).range, 0.0),
    "lower_shadow_ratio": lambda w: ratio(candle(w).lower, candle(w).range, 0.0),
    "body_size": lambda w: ratio(candle(w).body, candle(w).usual_body, 0.0),
    "doji": lambda w: float(candle(w).is_doji),
    "dragonfly_doji": dragonfly,
    "hammer": hammer,
    "hanging_man": hanging_man,
    "shooting_star": shooting_star,
    "inverted_hammer": inverted_hammer,
    "engulfing": engulfing,
    "harami": harami,
    "piercing": piercing,
    "marubozu": marubozu,
    "spinning_top": spinning_top,
    "star": star,
    "three_in_a_row": three_in_a_row,
    "inside_bar": inside_bar,
    "streak": streak,
    "bullish_share": lambda w, n: sum((c > o) - float(c < o) for o, c in zip(w.o[-n:], w.c[-n:], strict=True)) / n,
}
