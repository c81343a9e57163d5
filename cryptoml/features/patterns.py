"""Candlestick patterns: +1 bullish, -1 bearish, 0 absent, by the definitions and defaults of TA-Lib.

A market that never closes opens where it closed, so where TA-Lib asks for a gap (stars, inverted hammer, piercing line,
dark cloud) touching is enough here. "Short", "long" and "near" compare a candle with the mean of the bars before it:
bodies over 10 bars, ranges over 10 or 5.
Three candles in a row may be of any size.
The patterns are computed here rather than by TA-Lib because its running totals let rounding from older bars decide ties.
"""

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, feature
from cryptoml.features.rolling import delay, rolling_mean, rolling_sum, safe_ratio

__all__: list[str] = []

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
OHLC = ("open", "high", "low", "close")
NISON = "Nison 1991, Japanese Candlestick Charting Techniques; TA-Lib defaults"


def _body(bars: Bars) -> FloatArray:
    return bars.memo("body", lambda: np.abs(bars.close - bars.open))


def _range(bars: Bars) -> FloatArray:
    return bars.memo("range", lambda: bars.high - bars.low)


def _upper(bars: Bars) -> FloatArray:
    return bars.memo("upper", lambda: bars.high - np.maximum(bars.open, bars.close))


def _lower(bars: Bars) -> FloatArray:
    return bars.memo("lower", lambda: np.minimum(bars.open, bars.close) - bars.low)


def _colour(bars: Bars) -> FloatArray:
    """+1 where the close is at or above the open, -1 elsewhere."""
    return bars.memo("colour", lambda: np.where(bars.close >= bars.open, 1.0, -1.0))


def _usual_body(bars: Bars) -> FloatArray:
    """Mean body of the 10 bars before each bar."""
    return bars.memo("usual_body", lambda: delay(rolling_mean(_body(bars), 10), 1))


def _usual_range(bars: Bars, n: int = 10) -> FloatArray:
    """Mean range of the n bars before each bar."""
    return bars.memo(("usual_range", n), lambda: delay(rolling_mean(_range(bars), n), 1))


def _when(condition: BoolArray, sign: FloatArray | float = 1.0) -> FloatArray:
    return np.where(condition, sign, 0.0)


@feature("pattern", lookback=1, inputs=OHLC, source="definition")
def body_ratio(bars: Bars) -> FloatArray:
    """(close - open) / (high - low); 0 for an empty range"""
    return safe_ratio(bars.close - bars.open, _range(bars), 0.0)


@feature("pattern", lookback=1, inputs=OHLC, source="definition")
def upper_shadow_ratio(bars: Bars) -> FloatArray:
    """(high - max(open, close)) / (high - low); 0 for an empty range"""
    return safe_ratio(_upper(bars), _range(bars), 0.0)


@feature("pattern", lookback=1, inputs=OHLC, source="definition")
def lower_shadow_ratio(bars: Bars) -> FloatArray:
    """(min(open, close) - low) / (high - low); 0 for an empty range"""
    return safe_ratio(_lower(bars), _range(bars), 0.0)


@feature("pattern", lookback=11, inputs=OHLC, source="definition")
def body_size(bars: Bars) -> FloatArray:
    """|close - open| / mean of the 10 bars before; 0 where those had no body"""
    return safe_ratio(_body(bars), _usual_body(bars), 0.0)


@feature("pattern", lookback=11, inputs=OHLC, source=NISON)
def doji(bars: Bars) -> FloatArray:
    """1 where the body is at most a tenth of the usual range"""
    return _when(_body(bars) <= 0.1 * _usual_range(bars))


@feature("pattern", lookback=11, inputs=OHLC, source=NISON)
def dragonfly_doji(bars: Bars) -> FloatArray:
    """1 for a doji with almost no upper shadow and a lower one"""
    small = 0.1 * _usual_range(bars)
    return _when((_body(bars) <= small) & (_upper(bars) < small) & (_lower(bars) > small))


@feature("pattern", lookback=12, inputs=OHLC, source=NISON)
def hammer(bars: Bars) -> FloatArray:
    """1 for a short body with a longer lower shadow, almost no upper one, at or below the previous low"""
    near = delay(bars.low + 0.2 * _usual_range(bars, 5), 1)
    shape = (_body(bars) < _usual_body(bars)) & (_lower(bars) > _body(bars)) & (_upper(bars) < 0.1 * _usual_range(bars))
    return _when(shape & (np.minimum(bars.open, bars.close) <= near))


@feature("pattern", lookback=12, inputs=OHLC, source=NISON)
def hanging_man(bars: Bars) -> FloatArray:
    """-1 for the hammer's shape at or above the previous high"""
    near = delay(bars.high - 0.2 * _usual_range(bars, 5), 1)
    shape = (_body(bars) < _usual_body(bars)) & (_lower(bars) > _body(bars)) & (_upper(bars) < 0.1 * _usual_range(bars))
    return _when(shape & (np.minimum(bars.open, bars.close) >= near), -1.0)


def _inverted(bars: Bars) -> BoolArray:
    return (_body(bars) < _usual_body(bars)) & (_upper(bars) > _body(bars)) & (_lower(bars) < 0.1 * _usual_range(bars))


@feature("pattern", lookback=12, inputs=OHLC, source=NISON)
def shooting_star(bars: Bars) -> FloatArray:
    """-1 for a short body with a longer upper shadow, almost no lower one, not below the top of the previous body"""
    previous = delay(np.maximum(bars.open, bars.close), 1)
    return _when(_inverted(bars) & (np.minimum(bars.open, bars.close) >= previous), -1.0)


@feature("pattern", lookback=12, inputs=OHLC, source=NISON)
def inverted_hammer(bars: Bars) -> FloatArray:
    """1 for the shooting star's shape, not above the bottom of the previous body"""
    previous = delay(np.minimum(bars.open, bars.close), 1)
    return _when(_inverted(bars) & (np.maximum(bars.open, bars.close) <= previous))


@feature("pattern", lookback=2, inputs=OHLC, source=NISON)
def engulfing(bars: Bars) -> FloatArray:
    """+1 / -1 where a body of the opposite colour contains the previous body and exceeds it on at least one side"""
    top, bottom = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    above, below = delay(top, 1), delay(bottom, 1)
    larger = (top >= above) & (bottom <= below) & ((top > above) | (bottom < below))
    return _when(larger & (_colour(bars) == -delay(_colour(bars), 1)), _colour(bars))


@feature("pattern", lookback=12, inputs=OHLC, source=NISON)
def harami(bars: Bars) -> FloatArray:
    """+1 / -1 where a short body lies inside the previous long one, against that one's colour"""
    top, bottom = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    inside = (top <= delay(top, 1)) & (bottom >= delay(bottom, 1))
    return _when(inside & _previous_long(bars) & (_body(bars) <= _usual_body(bars)), -delay(_colour(bars), 1))


def _previous_long(bars: Bars) -> BoolArray:
    return delay(_body(bars), 1) > delay(_usual_body(bars), 1)


@feature("pattern", lookback=12, inputs=OHLC, source=NISON)
def piercing(bars: Bars) -> FloatArray:
    """+1 piercing line / -1 dark cloud: opens at or beyond the close of a long candle, closes past the middle of its body"""
    before_open, before_close = delay(bars.open, 1), delay(bars.close, 1)
    middle = (before_open + before_close) / 2.0
    falling, rising = _previous_long(bars) & (before_close < before_open), _previous_long(bars) & (before_close > before_open)
    bullish = falling & (bars.open <= before_close) & (bars.close > middle) & (bars.close < before_open)
    bearish = rising & (bars.open >= before_close) & (bars.close < middle) & (bars.close > before_open)
    return bullish.astype(np.float64) - bearish


@feature("pattern", lookback=11, inputs=OHLC, source=NISON)
def marubozu(bars: Bars) -> FloatArray:
    """+1 / -1 for a long body with almost no shadows"""
    small = 0.1 * _usual_range(bars)
    return _when((_body(bars) > _usual_body(bars)) & (_upper(bars) < small) & (_lower(bars) < small), _colour(bars))


@feature("pattern", lookback=11, inputs=OHLC, source=NISON)
def spinning_top(bars: Bars) -> FloatArray:
    """+1 / -1 for a short body with both shadows longer than it"""
    shape = (_body(bars) < _usual_body(bars)) & (_upper(bars) > _body(bars)) & (_lower(bars) > _body(bars))
    return _when(shape, _colour(bars))


@feature("pattern", lookback=13, inputs=OHLC, source=NISON)
def star(bars: Bars) -> FloatArray:
    """+1 morning / -1 evening star: long candle, short body, then an opposite candle past the middle of the first body"""
    first_open, first_close = delay(bars.open, 2), delay(bars.close, 2)
    long_first = delay(_body(bars), 2) > delay(_usual_body(bars), 2)
    short_second = delay(_body(bars), 1) <= delay(_usual_body(bars), 1)
    middle = (first_open + first_close) / 2.0
    turn = long_first & short_second & (_body(bars) > _usual_body(bars))
    morning = turn & (first_close < first_open) & (bars.close > middle) & (_colour(bars) > 0)
    evening = turn & (first_close > first_open) & (bars.close < middle) & (_colour(bars) < 0)
    return morning.astype(np.float64) - evening


@feature("pattern", lookback=3, inputs=OHLC, source="Nison 1991, three white soldiers and three black crows, of any size")
def three_in_a_row(bars: Bars) -> FloatArray:
    """+1 / -1 where three bodies of one colour each close further and open inside the previous body"""
    colour = _colour(bars)
    step = colour * (bars.close - delay(bars.close, 1)) > 0
    opens_inside = np.abs(bars.open - delay((bars.open + bars.close) / 2.0, 1)) <= delay(_body(bars), 1) / 2.0
    follows = (step & opens_inside & (colour == delay(colour, 1))).astype(np.float64)
    return _when((follows > 0) & (delay(follows, 1) > 0), colour)


@feature("pattern", lookback=2, inputs=("high", "low"), source="definition")
def inside_bar(bars: Bars) -> FloatArray:
    """+1 where the range lies inside the previous one, -1 where it contains it, 0 otherwise"""
    high, low = delay(bars.high, 1), delay(bars.low, 1)
    inside, outside = (bars.high < high) & (bars.low > low), (bars.high > high) & (bars.low < low)
    return inside.astype(np.float64) - outside


def _streak(condition: BoolArray, limit: int) -> FloatArray:
    """Length of the run of true values that ends at each bar, at most `limit`."""
    index = np.arange(len(condition))
    broken = np.maximum.accumulate(np.where(condition, -1, index))
    return np.minimum(index - broken, limit).astype(np.float64)


@feature("pattern", lookback=10, inputs=("open", "close"), source="definition")
def streak(bars: Bars) -> FloatArray:
    """Consecutive bullish candles, or minus the bearish ones, at most 10"""
    return _streak(bars.close > bars.open, 10) - _streak(bars.close < bars.open, 10)


@feature("pattern", lookback=lambda n: n, params=(10, 24), inputs=("open", "close"), source="definition")
def bullish_share(bars: Bars, n: int) -> FloatArray:
    """Share of the last n candles that closed above their open, minus the share below"""
    return rolling_sum(np.sign(bars.close - bars.open), n) / n
