"""What to hold: whole panels and bar by bar agree, limits hold, blind is flat, the brake follows its formula."""

import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.positions import (
    PositionBook,
    brake_scale,
    limit_positions,
    overlap_tranches,
    plan_trades,
    target_positions,
)
from cryptoml.trading.signals import Signals, decide

SYMBOLS = ("AUSDT", "BUSDT", "CUSDT")
STAMPS = pd.date_range("2024-01-01", periods=40, freq="4h", tz="UTC")
HORIZON = 6


def random_forecasts(seed: int, masked: float = 0.15) -> Forecasts:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1.5, 1, 1.5], size=(len(SYMBOLS), len(STAMPS)))
    probabilities[rng.random(probabilities.shape[:2]) < masked] = np.nan
    volatility = rng.uniform(0.01, 0.05, probabilities.shape[:2])
    quantiles = np.sort(rng.normal(0, 0.03, (*volatility.shape, 3)), axis=-1)
    return Forecasts.of(
        probabilities, volatility, horizon_bars=HORIZON, timeframe="4h", quantiles=quantiles, quantile_levels=(0.1, 0.5, 0.9)
    )


def size_of(signal: Signals) -> float | None:
    return None if signal.blind else float(signal.signed_size)


def by_bar(signals: Signals, config: TradingConfig, drawdowns: np.ndarray, *, restarts: bool = False) -> np.ndarray:
    """Record one decision after the other and read the targets at every bar."""
    book, found = PositionBook(SYMBOLS, "4h", config, HORIZON), []
    for bar, stamp in enumerate(STAMPS):
        for row, symbol in enumerate(SYMBOLS):
            book.record(symbol, stamp, size_of(signals[row, bar]))
        found.append(list(book.targets(stamp, drawdowns[bar]).values()))
        if restarts:
            state = json.loads(json.dumps(book.to_dict()))
            book = PositionBook(SYMBOLS, "4h", config, HORIZON).restored(state)
    return np.array(found).T


CONFIGS = st.builds(
    TradingConfig,
    min_confidence=st.sampled_from([0.35, 0.5]),
    max_gross=st.sampled_from([0.03, 1.0]),
    allow_short=st.booleans(),
    holding_bars=st.sampled_from([None, 1, 3]),
    drawdown_brake=st.sampled_from([None, 0.2]),
)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), CONFIGS, st.booleans())
def test_bar_by_bar_equals_the_whole_panel_bit_for_bit(seed: int, config: TradingConfig, restarts: bool) -> None:
    signals = decide(random_forecasts(seed), config)
    drawdowns = np.random.default_rng(seed).uniform(0, 0.3, len(STAMPS))
    scales = np.array([brake_scale(drawdown, config) for drawdown in drawdowns])
    whole = target_positions(signals, config, HORIZON) * scales
    np.testing.assert_array_equal(by_bar(signals, config, drawdowns, restarts=restarts), whole)


@given(st.integers(0, 10_000), CONFIGS)
def test_limits_hold(seed: int, config: TradingConfig) -> None:
    target = plan_trades(random_forecasts(seed), config).target
    assert np.abs(target).max() <= config.max_position
    assert np.abs(target).sum(axis=0).max() <= config.max_gross * (1 + 1e-12)
    assert config.allow_short or target.min() >= 0


@given(st.integers(0, 10_000), CONFIGS, st.integers(0, len(STAMPS) - 1))
def test_no_decision_reads_a_later_forecast(seed: int, config: TradingConfig, bar: int) -> None:
    one, two = random_forecasts(seed), random_forecasts(seed)
    other = random_forecasts(seed + 1)
    two.probabilities[:, bar + 1 :] = other.probabilities[:, bar + 1 :]
    two.volatility[:, bar + 1 :] = other.volatility[:, bar + 1 :]
    early, late = plan_trades(one, config), plan_trades(two, config)
    for name in ("target", "stop_loss_pct", "take_profit_pct"):
        np.testing.assert_array_equal(getattr(early, name)[:, : bar + 1], getattr(late, name)[:, : bar + 1])


def steady(num_bars: int, masked: slice) -> Signals:
    probabilities = np.tile([0.1, 0.2, 0.7], (1, num_bars, 1))
    probabilities[:, masked] = np.nan
    forecasts = Forecasts.of(probabilities, np.full((1, num_bars), 0.03), horizon_bars=4, timeframe="1h")
    return decide(forecasts, TradingConfig())


def test_blind_is_flat_and_what_is_left_of_the_tranches_comes_back():
    signals = steady(12, slice(6, 8))
    size = float(signals.position_size[0, 0])
    target = target_positions(signals, TradingConfig(), 4)[0]
    np.testing.assert_allclose(target / size, [0.25, 0.5, 0.75, 1, 1, 1, 0, 0, 0.5, 0.5, 0.75, 1], rtol=1e-6)


def test_stale_inputs_are_flat_too():
    probabilities, fresh = np.tile([0.1, 0.2, 0.7], (1, 6, 1)), np.array([[1, 1, 1, 0, 1, 1]], dtype=bool)
    forecasts = Forecasts.of(probabilities, np.full((1, 6), 0.03), horizon_bars=2, timeframe="1h")
    target = target_positions(decide(forecasts, TradingConfig(), fresh=fresh), TradingConfig(), 2)
    assert (target[0] > 0).tolist() == [True, True, True, False, True, True]


def test_tranches_are_the_mean_of_the_last_decisions():
    sizes = np.array([[1.0, 1.0, -1.0, np.nan, 0.5]])
    assert overlap_tranches(sizes, 2).tolist() == [[0.5, 1.0, 0.0, -0.5, 0.25]]
    assert overlap_tranches(sizes, 1).tolist() == [[1.0, 1.0, -1.0, 0.0, 0.5]]


def test_limits_by_hand():
    config = TradingConfig(max_position=0.5, max_gross=0.8)
    limited = limit_positions(np.array([[0.9, 0.1], [-0.9, np.nan]]), config)
    np.testing.assert_allclose(limited, [[0.4, 0.1], [-0.4, 0.0]])


def test_stops_lie_on_the_side_that_is_held():
    forecasts = random_forecasts(3, masked=0.0)
    plan = plan_trades(forecasts, TradingConfig(stop_loss_multiple=0.01, take_profit_multiple=0.01, min_stop_pct=1e-6))
    short = plan.target < 0
    assert short.any()
    upper = np.expm1(np.fmax(0.01 * forecasts.volatility, forecasts.quantiles[..., 2]))
    np.testing.assert_allclose(plan.stop_loss_pct[short], np.clip(upper, 1e-6, 0.25)[short])


def test_the_brake_leaves_the_cushion_and_never_less_than_a_tenth():
    config = TradingConfig(drawdown_brake=0.2)
    assert [brake_scale(loss, config) for loss in (0.0, 0.05, 0.1, 0.2, 0.9)] == pytest.approx([1, 0.75, 0.5, 0.1, 0.1])
    assert brake_scale(0.9, TradingConfig()) == 1.0


class TestBook:
    """What a live system does to it that a backtest does not."""

    @pytest.fixture
    def signals(self) -> Signals:
        return decide(random_forecasts(11, masked=0.0), TradingConfig())

    def test_a_bar_recorded_twice_counts_once(self, signals: Signals) -> None:
        once, twice = (PositionBook(SYMBOLS, "4h", TradingConfig(), HORIZON) for _ in range(2))
        for bar in range(5):
            once.record("BUSDT", STAMPS[bar], size_of(signals[1, bar]))
            twice.record("BUSDT", STAMPS[bar], size_of(signals[1, bar + 7]))
            twice.record("BUSDT", STAMPS[bar], size_of(signals[1, bar]))
        assert once.targets(STAMPS[4]) == twice.targets(STAMPS[4])

    def test_missed_bars_are_flat_decisions(self, signals: Signals) -> None:
        book = PositionBook(SYMBOLS, "4h", TradingConfig(), HORIZON)
        for bar in (0, 1, 5):
            book.record("AUSDT", STAMPS[bar], size_of(signals[0, bar]))
        gapped = np.array(signals.signed_size[:1, :6])
        gapped[0, 2:5] = 0
        assert book.targets(STAMPS[5])["AUSDT"] == pytest.approx(overlap_tranches(gapped, HORIZON)[0, 5])

    def test_a_symbol_without_a_decision_at_the_bar_is_flat(self, signals: Signals) -> None:
        book = PositionBook(SYMBOLS, "4h", TradingConfig(), HORIZON)
        book.record("AUSDT", STAMPS[0], size_of(signals[0, 0]))
        assert book.targets(STAMPS[1])["AUSDT"] == 0.0
        assert book.targets(STAMPS[0])["BUSDT"] == 0.0

    def test_state_survives_json_and_forgets_symbols_that_are_gone(self, signals: Signals) -> None:
        book = PositionBook(SYMBOLS, "4h", TradingConfig(), HORIZON)
        for row, symbol in enumerate(SYMBOLS):
            book.record(symbol, STAMPS[0], size_of(signals[row, 0]))
        state = json.loads(json.dumps(book.to_dict()))
        fewer = PositionBook(("CUSDT", "DUSDT"), "4h", TradingConfig(), HORIZON).restored(state)
        assert fewer.targets(STAMPS[0]) == {"CUSDT": book.targets(STAMPS[0])["CUSDT"], "DUSDT": 0.0}

    def test_an_unknown_symbol_is_refused(self, signals: Signals) -> None:
        with pytest.raises(ValueError, match="symbol must be one of AUSDT, BUSDT, CUSDT, was XUSDT"):
            PositionBook(SYMBOLS, "4h", TradingConfig(), HORIZON).record("XUSDT", STAMPS[0], size_of(signals[0, 0]))


def test_signals_are_all_of_one_shape():
    signals = decide(random_forecasts(1), TradingConfig())
    assert {np.shape(getattr(signals, field.name)) for field in fields(signals)} == {(len(SYMBOLS), len(STAMPS))}
