"""Labels against naive loops, and what may never enter them."""

from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from cryptoml.features.targets import TargetConfig, causal_volatility, make_targets

CONFIG = TargetConfig(
    horizons=(1, 3, 6), primary_horizon=6, volatility_halflife_bars=5, minimum_history_bars=4, long_run_halflife_bars=9
)


def make_close(num_assets=3, num_bars=150, seed=0):
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.01 * rng.standard_t(4, (num_assets, num_bars)), axis=1))
    close[1:2, :40] = np.nan  # listed late
    close[2:3, [70, 71, 110]] = np.nan  # gaps
    return close


def targets_of(close, config=CONFIG):
    columns = {"close": close, "high": 1.01 * close, "low": 0.99 * close}
    return make_targets(SimpleNamespace(field=columns.__getitem__), config)


def naive_volatility(close, t, halflife, minimum):
    if np.isnan(close[t]):
        return np.nan
    total = weight = 0.0
    count = 0
    for age in range(min(10 * halflife, t)):
        change = np.log(close[t - age] / close[t - age - 1])
        if not np.isnan(change):
            total, weight, count = total + 0.5 ** (age / halflife) * change**2, weight + 0.5 ** (age / halflife), count + 1
    return np.sqrt(total / weight) if count >= minimum else np.nan


def naive_label(close, t, sigma):
    """Return (direction, volatility, position_size) of one bar, or None where a bar is missing."""
    path = close[t : t + 7]
    if len(path) < 7 or np.isnan(path).any():
        return None
    changes = np.diff(np.log(path))
    move, variation = changes.sum(), (changes**2).sum()
    barrier = 0.5 * sigma * np.sqrt(6)
    direction = -1 if np.isnan(sigma) else 2 if move > barrier else 0 if move < -barrier else 1
    return direction, np.sqrt(variation), abs(move) / np.sqrt(6 * variation)


def test_every_label_equals_the_naive_loop():
    close = make_close()
    targets = targets_of(close)
    for asset in range(3):
        for t in range(close.shape[1]):
            sigma = naive_volatility(close[asset], t, 5, 4)
            np.testing.assert_allclose(targets.sigma[asset, t], sigma, rtol=1e-5)
            expected = naive_label(close[asset], t, sigma)
            direction, sizes = targets.direction[asset, t], (targets.volatility[asset, t], targets.position_size[asset, t])
            if expected is None:
                assert direction == -1
                assert np.isnan(sizes).all()
                continue
            assert direction == expected[0]
            np.testing.assert_allclose(sizes, expected[1:], rtol=1e-5)


def test_returns_are_missing_where_any_bar_of_the_span_is():
    close = make_close()
    targets = targets_of(close)
    for index, horizon in enumerate(CONFIG.horizons):
        for t in range(150):
            path = close[2, t : t + horizon + 1]
            expected = np.log(path[-1] / path[0]) if len(path) == horizon + 1 and not np.isnan(path).any() else np.nan
            np.testing.assert_allclose(targets.log_return[2, t, index], expected, rtol=1e-5)


def test_labels_reach_exactly_label_bars_ahead():
    close = make_close()
    targets = targets_of(close)
    changed = close.copy()
    changed[0, 100:] *= np.linspace(1.5, 0.5, 50)
    other = targets_of(changed)
    assert targets.label_bars == 6
    known = slice(0, 100 - targets.label_bars)
    np.testing.assert_array_equal(targets.sigma[0, :100], other.sigma[0, :100])
    np.testing.assert_array_equal(targets.threshold[0, :100], other.threshold[0, :100])
    for name in ("direction", "volatility", "regime", "position_size", "log_return"):
        np.testing.assert_array_equal(getattr(targets, name)[0, known], getattr(other, name)[0, known])
    assert targets.volatility[0, 94] != other.volatility[0, 94]


def test_sigma_of_a_short_buffer_equals_the_whole():
    close = make_close(1, 400)
    config = CONFIG
    whole = causal_volatility(close, 5, 4)
    buffer = causal_volatility(close[:, -config.sigma_window_bars :], 5, 4)
    assert whole[0, -1] == buffer[0, -1]


def test_constant_price_has_no_sigma_and_no_direction():
    targets = targets_of(np.full((1, 60), 0.1))
    assert np.isnan(targets.sigma).all()
    assert (targets.direction == -1).all()
    np.testing.assert_array_equal(targets.position_size[0, :54], 0)


def test_straight_line_deserves_the_full_position():
    close = 50 * np.exp(0.001 * np.arange(60))[None]
    np.testing.assert_allclose(targets_of(close).position_size[0, :54], 1, rtol=1e-6)


@pytest.mark.parametrize("change", [{"horizons": (4, 1)}, {"primary_horizon": 5}, {"quantiles": (0.5, 0.1)}, {"horizon": 1}])
def test_config_refuses_nonsense(change):
    with pytest.raises(ValidationError):
        TargetConfig(**change)


def test_a_volatility_before_the_first_bar_is_that_of_so_many_bars_put_before_it() -> None:
    close = make_close()[:1]
    past = close[:, :1] * np.exp(0.02 * (np.arange(400, 0, -1) % 2))
    put_before = np.concatenate([past, close], axis=1)
    expected = causal_volatility(put_before, 5, 4, put_before.shape[1])[:, 400:]
    found = causal_volatility(close, 5, 4, close.shape[1], before=0.02)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
