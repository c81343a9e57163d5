"""Kernels against pandas and direct sums, and what running sums get wrong."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.features import rolling

WINDOWS = [1, 2, 3, 7, 16, 29, 60]


@pytest.fixture(scope="module")
def series():
    return np.random.default_rng(0).normal(3, 2, 200)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min"])
def test_simple_kernels_equal_pandas(series, name, window):
    actual = getattr(rolling, f"rolling_{name}")(series, window)
    expected = getattr(pd.Series(series).rolling(window), name)().to_numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("window", WINDOWS[1:])
def test_second_moments_equal_pandas(series, window):
    frame, other = pd.Series(series), pd.Series(np.roll(series, 3) ** 2)
    np.testing.assert_allclose(rolling.rolling_std(series, window), frame.rolling(window).std(), rtol=1e-9)
    xx, yy = (rolling.rolling_moments(values, window)[1] for values in (series, other.to_numpy()))
    xy = rolling.rolling_comoment(series, other.to_numpy(), window)
    np.testing.assert_allclose(xy / (window - 1), frame.rolling(window).cov(other), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(yy / (window - 1)), other.rolling(window).std(), rtol=1e-9)
    assert (xx[window:] > 0).all()


@pytest.mark.parametrize("window", WINDOWS[2:])
def test_line_and_linear_weights(series, window):
    slope, r_squared = rolling.rolling_slope(series, window)
    for t in (window - 1, 100, 199):
        part, time = series[t - window + 1 : t + 1], np.arange(window)
        np.testing.assert_allclose(slope[t], np.polyfit(time, part, 1)[0], rtol=1e-8)
        np.testing.assert_allclose(r_squared[t], np.corrcoef(time, part)[0, 1] ** 2, rtol=1e-8)
        np.testing.assert_allclose(rolling.rolling_wma(series, window)[t], np.average(part, weights=time + 1), rtol=1e-12)


def test_ema_equals_the_endless_recursion_after_its_window(series):
    for span in (2, 5, 9):
        expected = pd.Series(series).ewm(span=span, adjust=False).mean()
        window = rolling.span_window(span)
        np.testing.assert_allclose(rolling.span_ema(series, span)[window:], expected[window:], rtol=1e-6)


def test_ema_window_keeps_all_but_the_forgotten_share():
    for span in (2, 14, 99, 200):
        decay = rolling.decay_of_span(span)
        assert decay ** rolling.ema_window(decay) <= rolling.FORGOTTEN
    assert rolling.span_window(200) <= 2_200
    assert rolling.ema_window(0.0) == 1


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-8, 1e8), st.integers(2, 80))
def test_constant_series_is_exact(value, window):
    constant = np.full(120, value)
    known = slice(window - 1, None)
    np.testing.assert_array_equal(rolling.rolling_mean(constant, window)[known], value)
    np.testing.assert_array_equal(rolling.ema(constant, 0.9, window)[known], value)
    np.testing.assert_array_equal(rolling.rolling_std(constant, window)[known], 0)
    np.testing.assert_array_equal(rolling.zscore(constant, window)[known], 0)
    np.testing.assert_array_equal(rolling.rolling_slope(constant, window)[0][known], 0)


@pytest.mark.parametrize(
    "kernel",
    [
        rolling.rolling_sum,
        rolling.rolling_mean,
        rolling.rolling_std,
        rolling.rolling_max,
        rolling.rolling_wma,
        lambda x, w: rolling.ema(x, 0.8, w),
        lambda x, w: rolling.decayed_sum(x, 0.8, w),
    ],
)
def test_spike_and_nan_are_forgotten_to_the_bit(series, kernel):
    for wrong in (1e300, np.nan, np.inf):
        spoiled = series.copy()
        spoiled[50] = wrong
        with np.errstate(all="ignore"):
            actual = kernel(spoiled, 29)
        np.testing.assert_array_equal(actual[50 + 29 :], kernel(series, 29)[50 + 29 :])
        np.testing.assert_array_equal(actual[28:50], kernel(series, 29)[28:50])


def test_kernels_work_along_the_last_axis(series):
    both = np.stack([series, series[::-1]])
    for kernel in (rolling.rolling_sum, rolling.rolling_std, rolling.rolling_max):
        np.testing.assert_array_equal(kernel(both, 13)[1], kernel(series[::-1], 13))


def test_short_series_is_all_missing(series):
    assert np.isnan(rolling.rolling_std(series[:5], 29)).all()
    assert np.isnan(rolling.delay(series[:5], 29)).all()
    assert rolling.rolling_mean(series[:0], 29).shape == (0,)


def test_safe_ratio_keeps_nan_and_names_the_undefined():
    top, bottom = np.array([1.0, 0.0, np.nan, 2.0]), np.array([0.0, 0.0, 0.0, 4.0])
    np.testing.assert_array_equal(rolling.safe_ratio(top, bottom, 7.0)[[0, 1, 3]], [7, 7, 0.5])
