"""Momentum and regime."""

import math

import numpy as np

from tests.features.naive.levels import volatilities
from tests.features.naive.window import (
    correlation,
    decided,
    mean,
    position,
    products,
    ratio,
    smooth,
    smoothed,
    span,
    squares,
    std,
    wilder,
    zscore,
)


def rsis(w, n):
    change = np.diff(w.c)
    ups, downs = (smoothed(np.maximum(sign * change, 0), wilder(n)) for sign in (1, -1))
    return np.array([100 * ratio(up, up + down, 0.5) for up, down in zip(ups, downs, strict=True)])


def macds(w, fast, slow):
    slow_line = smoothed(w.c, span(slow))
    return smoothed(w.c, span(fast))[-len(slow_line) :] - slow_line


def stochastics(w, n, m):
    ends = range(len(w.c) - m + 1, len(w.c) + 1)
    return np.array([100 * position(w.c[e - 1], min(w.l[e - n : e]), max(w.h[e - n : e])) for e in ends])


def cci(w, n):
    typical = w.typical[-n:]
    centre = mean(typical)
    spread = math.fsum(np.abs(typical - centre)) / n
    return (typical[-1] - centre) / (0.015 * spread) if spread > 1e-12 * centre else 0.0


def awesome(w, n, m):
    middle = (w.h + w.l) / 2
    return (mean(middle[-n:]) - mean(middle[-m:])) / w.c[-1]


def ultimate(w, *windows):
    pressure = w.c[1:] - np.minimum(w.l[1:], w.c[:-1])
    shares = [ratio(math.fsum(pressure[-n:]), math.fsum(w.tr[-n:]), 0.5) for n in windows]
    return 100 * (4 * shares[0] + 2 * shares[1] + shares[2]) / 7


def tsi(w, n, m):
    change = np.diff(w.c)
    top, bottom = (smooth(smoothed(x, span(n)), span(m)) for x in (change, np.abs(change)))
    return 100 * ratio(top, bottom, 0.0)


def trix(w, n):
    line = np.log(smoothed(smoothed(smoothed(w.c, span(n)), span(n)), span(n)))
    return 100 * (line[-1] - line[-2])


def aroon(w, n):
    high, low = w.h[-n - 1 :][::-1], w.l[-n - 1 :][::-1]
    return 100 * (int(np.argmin(low)) - int(np.argmax(high))) / n


def vortex(w, n):
    rise, fall = np.abs(w.h[1:] - w.l[:-1])[-n:], np.abs(w.l[1:] - w.h[:-1])[-n:]
    return ratio(math.fsum(rise) - math.fsum(fall), math.fsum(w.tr[-n:]), 0.0)


MOMENTUM = {
    "rsi": lambda w, n: rsis(w, n)[-1],
    "stochastic_rsi": lambda w, n: position(rsis(w, n)[-1], min(rsis(w, n)[-n:]), max(rsis(w, n)[-n:])),
    "cmo": lambda w, n: 100 * ratio(math.fsum(np.diff(w.c)[-n:]), math.fsum(np.abs(np.diff(w.c)[-n:])), 0.0),
    "macd": lambda w, fast, slow, signal: (smooth(w.c, span(fast)) - smooth(w.c, span(slow))) / w.c[-1],
    "macd_signal": lambda w, fast, slow, signal: smooth(macds(w, fast, slow), span(signal)) / w.c[-1],
    "macd_histogram": lambda w, fast, slow, signal: (
        (macds(w, fast, slow)[-1] - smooth(macds(w, fast, slow), span(signal))) / w.c[-1]
    ),
    "stochastic_k": lambda w, n: stochastics(w, n, 1)[-1],
    "stochastic_d": lambda w, n, m: mean(stochastics(w, n, m)),
    "williams_r": lambda w, n: -100 * position(-w.c[-1], -max(w.h[-n:]), -min(w.l[-n:])),
    "roc": lambda w, n: 100 * (w.c[-1] / w.c[-1 - n] - 1),
    "cci": cci,
    "awesome_oscillator": awesome,
    "ultimate_oscillator": ultimate,
    "tsi": tsi,
    "trix": trix,
    "aroon": aroon,
    "vortex": vortex,
    "bull_power": lambda w, n: (w.h[-1] - smooth(w.c, span(n))) / w.c[-1],
    "bear_power": lambda w, n: (w.l[-1] - smooth(w.c, span(n))) / w.c[-1],
    "acceleration": lambda w, n: math.log(w.c[-1] / w.c[-1 - n]) - math.log(w.c[-1 - n] / w.c[-1 - 2 * n]),
    "t_statistic": lambda w, n: ratio(math.log(w.c[-1] / w.c[-1 - n]), std(w.r[-n:]) * math.sqrt(n), 0.0),
}


def directions(w, n):
    """+DI and -DI at every bar."""
    up, down = np.diff(w.h), -np.diff(w.l)
    plus, minus = np.where((up > down) & (up > 0), up, 0), np.where((down > up) & (down > 0), down, 0)
    lines = [smoothed(x, wilder(n)) for x in (plus, minus, w.tr)]
    return np.array([(ratio(p, t, 0.0), ratio(m, t, 0.0)) for p, m, t in zip(*lines, strict=True)]).T


def adx(w, n):
    plus, minus = directions(w, n)
    index = np.array([ratio(abs(p - m), p + m, 0.0) for p, m in zip(plus, minus, strict=True)])
    return 100 * smooth(index, wilder(n))


def efficiency(w, n):
    return ratio(math.log(w.c[-1] / w.c[-1 - n]), math.fsum(np.abs(w.r[-n:])), 0.0)


def trend_r2(w, n):
    steepness = correlation(np.arange(n, dtype=float), np.log(w.c[-n:]), 0.0)
    return math.copysign(steepness**2, steepness)


def choppiness(w, n):
    high, low = np.maximum(w.h[1:], w.c[:-1])[-n:], np.minimum(w.l[1:], w.c[:-1])[-n:]
    return 100 * math.log(ratio(math.fsum(w.tr[-n:]), max(high) - min(low))) / math.log(n)


def autocorrelation(w, n):
    now, before = w.r[-n:], w.r[-n - 1 : -1]
    return ratio(products(now, before), math.sqrt(squares(now)) * math.sqrt(squares(before)), 0.0)


def variance_ratio(w, q, n):
    levels = np.log(w.c)
    return 2 * math.log(ratio(std((levels[q:] - levels[:-q])[-n:]), std(w.r[-n:]))) - math.log(q)


def loudness(w, n, m):
    return zscore(np.log(volatilities(w, n, m)))


def loudness_class(w, n, m):
    score = loudness(w, n, m)
    return math.nan if math.isnan(score) else (decided(score, 1) > 0) - float(decided(score, -1) < 0)


def bull_bear(w, n, m):
    short, long = mean(w.c[-n:]), mean(w.c[-m:])
    return (decided(w.c[-1], short) + decided(w.c[-1], long) + decided(short, long)) / 3


def persistence(w, n):
    ends = range(len(w.c) - n + 1, len(w.c) + 1)
    return sum(decided(w.c[e - 1], mean(w.c[e - n : e])) for e in ends) / n


REGIME = {
    "adx": adx,
    "directional_index": lambda w, n: 100 * (directions(w, n)[0][-1] - directions(w, n)[1][-1]),
    "efficiency_ratio": efficiency,
    "trend_r2": trend_r2,
    "choppiness": choppiness,
    "autocorrelation": autocorrelation,
    "variance_ratio": variance_ratio,
    "volatility_position": lambda w, n, m: position(
        volatilities(w, n, m)[-1], min(volatilities(w, n, m)), max(volatilities(w, n, m))
    ),
    "volatility_zscore": loudness,
    "volatility_class": loudness_class,
    "bull_bear": bull_bear,
    "trend_persistence": persistence,
    "ranging": lambda w, n: 1 - abs(efficiency(w, n)),
}
