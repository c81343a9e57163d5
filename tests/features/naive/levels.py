"""Price, volume and volatility."""

import math

import numpy as np

from tests.features.naive.window import TieError, correlation, mean, position, ratio, smooth, span, std, wilder, zscore

LEVELS = (0.0, 0.236, 0.382, 0.5, 0.618, 0.786, 1.0)

PRICE = {
    "simple_return": lambda w, n: w.c[-1] / w.c[-1 - n] - 1,
    "log_return": lambda w, n: math.log(w.c[-1] / w.c[-1 - n]),
    "scaled_return": lambda w, n, m: ratio(math.log(w.c[-1] / w.c[-1 - n]), std(w.r[-m:]) * math.sqrt(n), 0.0),
    "sma_distance": lambda w, n: math.log(w.c[-1] / mean(w.c[-n:])),
    "ema_distance": lambda w, n: math.log(w.c[-1] / smooth(w.c, span(n))),
    "wma_distance": lambda w, n: math.log(w.c[-1] / np.average(w.c[-n:], weights=range(1, n + 1))),
    "sma_cross": lambda w, n, m: math.log(mean(w.c[-n:]) / mean(w.c[-m:])),
    "sma_slope": lambda w, n: math.log(mean(w.c[-n:]) / mean(w.c[-2 * n : -n])) / n,
    "zscore_close": lambda w, n: zscore(np.log(w.c[-n:])),
    "support_distance": lambda w, n: math.log(w.c[-1] / min(w.l[-n:])),
    "resistance_distance": lambda w, n: math.log(max(w.h[-n:]) / w.c[-1]),
    "range_position": lambda w, n: position(w.c[-1], min(w.l[-n:]), max(w.h[-n:])),
    "fibonacci_nearest": lambda w, n: nearest_gap(position(w.c[-1], min(w.l[-n:]), max(w.h[-n:]))),
    "fibonacci_distance": lambda w, n, level: math.log(w.c[-1] / (min(w.l[-n:]) + level * (max(w.h[-n:]) - min(w.l[-n:])))),
    "drawdown": lambda w, n: math.log(w.c[-1] / max(w.c[-n:])),
    "midpoint_distance": lambda w, n: math.log(w.c[-1] / ((max(w.h[-n:]) + min(w.l[-n:])) / 2)),
    "open_gap": lambda w: math.log(w.o[-1] / w.c[-2]),
    "body_return": lambda w: math.log(w.c[-1] / w.o[-1]),
    "log_range": lambda w: math.log(w.h[-1] / w.l[-1]),
    "close_location": lambda w: close_location(w)[-1],
}


def nearest_gap(place):
    gaps = sorted((place - level for level in LEVELS), key=abs)
    if abs(abs(gaps[0]) - abs(gaps[1])) < 1e-9:
        raise TieError
    return gaps[0]


def close_location(w):
    return np.array([ratio(2 * close - high - low, high - low, 0.0) for high, low, close in zip(w.h, w.l, w.c, strict=True)])


def signed_turnover(w, n, sign):
    steps = np.diff(w.typical)[-n:]
    return math.fsum((w.typical * w.v)[-n:][sign * steps > 0])


def window_sums(x, n):
    return np.array([math.fsum(x[stop - n : stop]) for stop in range(n, len(x) + 1)])


def mean_share(x, n):
    return math.log1p(ratio(x[-1], mean(x[-n:])))


def oscillator(w, n, m):
    flow, traded = window_sums(close_location(w) * w.v, m), window_sums(w.v, m)
    return ratio(smooth(flow, span(n)) - smooth(flow, span(m)), smooth(traded, span(m)))


def ease(w, n):
    middle = np.log((w.h + w.l) / 2)
    travelled = math.fsum((np.diff(middle) * np.log(w.h / w.l)[1:])[-n:])
    return travelled / (1 + ratio(w.v[-1], mean(w.v[-n:])))


VOLUME = {
    "ratio": lambda w, n: mean_share(w.v, n),
    "volume_zscore": lambda w, n: zscore(w.v[-n:]),
    "trend": lambda w, n, m: ratio(mean(w.v[-n:]) - mean(w.v[-m:]), mean(w.v[-n:]) + mean(w.v[-m:])),
    "change": lambda w, n: ratio(w.v[-1] - w.v[-1 - n], w.v[-1] + w.v[-1 - n]),
    "seasonal_ratio": lambda w, n: math.log1p(ratio(w.v[-1], mean(w.v[-1 - n :: -n][:7]))),
    "obv": lambda w, n: ratio(math.fsum(np.sign(np.diff(w.c)[-n:]) * w.v[-n:]), math.fsum(w.v[-n:])),
    "accumulation_distribution": lambda w, n: ratio(math.fsum((close_location(w) * w.v)[-n:]), math.fsum(w.v[-n:])),
    "chaikin_oscillator": oscillator,
    "mfi": lambda w, n: 100 * ratio(signed_turnover(w, n, 1), signed_turnover(w, n, 1) + signed_turnover(w, n, -1), 0.5),
    "vwap_distance": lambda w, n: math.log(w.c[-1] / ratio(math.fsum((w.typical * w.v)[-n:]), math.fsum(w.v[-n:]))),
    "concentration": lambda w, n: n * ratio(math.fsum(w.v[-n:] ** 2), math.fsum(w.v[-n:]) ** 2),
    "peak_share": lambda w, n: ratio(max(w.v[-n:]), math.fsum(w.v[-n:])),
    "force_index": lambda w, n: ratio(smooth(w.r * w.v[1:], span(n)), smooth(w.v, span(n))),
    "ease_of_movement": ease,
    "price_correlation": lambda w, n: correlation(np.abs(w.r[-n:]), w.v[-n:], 0.0),
    "trade_count_ratio": lambda w, n: mean_share(w["num_trades"], n),
    "trade_size_ratio": lambda w, n: math.log(
        ratio(w.v[-1], w["num_trades"][-1] * ratio(math.fsum(w.v[-n:]), math.fsum(w["num_trades"][-n:])))
    ),
}


def rogers_satchell(w, n):
    up, down, body = (np.log(x / w.o)[-n:] for x in (w.h, w.l, w.c))
    return mean(up * (up - body) + down * (down - body))


def yang_zhang(w, n):
    k = 0.34 / (1.34 + (n + 1) / max(n - 1, 1))
    gaps, bodies = np.log(w.o[1:] / w.c[:-1])[-n:], np.log(w.c / w.o)[-n:]
    return w.annual(std(gaps) ** 2 + k * std(bodies) ** 2 + (1 - k) * rogers_satchell(w, n))


def garman_klass(w, n):
    return w.annual(mean((0.5 * np.log(w.h / w.l) ** 2 - (2 * math.log(2) - 1) * np.log(w.c / w.o) ** 2)[-n:]))


def volatilities(w, n, m):
    """Standard deviations of n returns at the last m bars."""
    return np.array([std(w.r[stop - n : stop]) for stop in range(len(w.r) - m + 1, len(w.r) + 1)])


VOLATILITY = {
    "historical": lambda w, n: w.annual(std(w.r[-n:]) ** 2),
    "parkinson": lambda w, n: w.annual(mean(np.log(w.h / w.l)[-n:] ** 2) / (4 * math.log(2))),
    "garman_klass": garman_klass,
    "rogers_satchell": lambda w, n: w.annual(rogers_satchell(w, n)),
    "yang_zhang": yang_zhang,
    "atr": lambda w, n: smooth(w.tr, wilder(n)) / w.c[-1],
    "true_range_ratio": lambda w, n, m: math.log(ratio(mean(w.tr[-n:]), mean(w.tr[-m:]))),
    "ewma": lambda w, half: w.annual(smooth(w.r**2, 0.5 ** (1 / half))),
    "volatility_ratio": lambda w, n, m: math.log(ratio(std(w.r[-n:]), std(w.r[-m:]))),
    "of_volatility": lambda w, n, m: ratio(std(volatilities(w, n, m)), mean(volatilities(w, n, m))),
    "downside_share": lambda w, n: ratio(math.fsum(w.r[-n:][w.r[-n:] < 0] ** 2), math.fsum(w.r[-n:] ** 2), 0.5),
    "bollinger_width": lambda w, n: 4 * std(w.c[-n:]) / mean(w.c[-n:]),
    "range_ratio": lambda w, n: ratio(np.log(w.h[-1] / w.l[-1]), mean(np.log(w.h / w.l)[-n:]), 1.0),
    "jump_share": lambda w, n: ratio(
        math.fsum(w.r[-n:] ** 2) - math.pi / 2 * math.fsum(np.abs(w.r[-n:] * w.r[-n - 1 : -1])), math.fsum(w.r[-n:] ** 2), 0.0
    ),
}
