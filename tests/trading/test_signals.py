"""One decision path: when it trades, how much, where it gets out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from cryptoml.trading.config import TradingConfig
from cryptoml.trading.description import describe
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.signals import Action, HoldReason, action_names, decide, expected_edge
from cryptoml.trading.sizing import position_size

CONFIG = TradingConfig(min_confidence=0.4)


def forecasts(probabilities, volatility=0.03, quantiles=None, regime=(0.7, 0.1, 0.1, 0.1)) -> Forecasts:
    return Forecasts.of(
        np.asarray(probabilities, dtype=float),
        np.asarray(volatility),
        horizon_bars=24,
        timeframe="1h",
        quantiles=None if quantiles is None else np.asarray(quantiles),
        quantile_levels=() if quantiles is None else (0.1, 0.5, 0.9),
        regime=np.asarray(regime),
    )


@pytest.mark.parametrize(
    ("probabilities", "volatility", "fresh", "action", "reason"),
    [
        ([0.1, 0.2, 0.7], 0.03, True, Action.BUY, HoldReason.NONE),
        ([0.7, 0.2, 0.1], 0.03, True, Action.SELL, HoldReason.NONE),
        ([0.31, 0.3, 0.39], 0.03, True, Action.HOLD, HoldReason.LOW_CONFIDENCE),
        ([0.44, 0.1, 0.46], 0.03, True, Action.HOLD, HoldReason.COST),
        ([0.1, 0.2, 0.7], 0.0005, True, Action.HOLD, HoldReason.COST),
        ([np.nan] * 3, 0.03, True, Action.HOLD, HoldReason.MASKED),
        ([0.1, 0.2, 0.7], np.nan, True, Action.HOLD, HoldReason.MASKED),
        ([0.1, 0.2, 0.7], 0.0, True, Action.HOLD, HoldReason.MASKED),
        ([0.1, 0.2, 0.7], 0.03, False, Action.HOLD, HoldReason.STALE),
    ],
)
def test_what_is_traded(probabilities, volatility, fresh, action, reason):
    signal = decide(forecasts(probabilities, volatility), CONFIG, fresh=fresh)
    assert signal.action == action
    assert signal.reason == reason
    assert np.sign(signal.signed_size) == action
    assert signal.blind == (reason in (HoldReason.MASKED, HoldReason.STALE))
    assert (signal.position_size > 0) == (action != Action.HOLD)


def test_a_median_against_the_classes_costs_edge():
    agreeing = forecasts([0.2, 0.2, 0.6], quantiles=[-0.02, 0.01, 0.05])
    opposed = forecasts([0.2, 0.2, 0.6], quantiles=[-0.05, -0.02, 0.02])
    assert expected_edge(agreeing, CONFIG) == pytest.approx((0.4 * 1.14 * 0.03 + 0.01) / 2)
    assert decide(opposed, CONFIG).reason == HoldReason.COST


def test_size_is_base_at_the_reference_and_grows_with_confidence_and_calm():
    assert position_size(np.array(0.6), np.array(0.4), CONFIG) == pytest.approx(0.02)
    assert position_size(np.array(0.6), np.array(0.6), CONFIG) == pytest.approx(0.03)
    assert position_size(np.array(1.2), np.array(0.4), CONFIG) == pytest.approx(0.01)
    assert position_size(np.array(0.01), np.array(0.4), CONFIG) == CONFIG.max_position
    assert position_size(np.array([np.nan, 0.0]), np.array([0.4, np.nan]), CONFIG).tolist() == [0, 0]


def test_stops_come_from_volatility_and_outer_quantiles_mirrored_for_shorts():
    quantiles = [-0.08, 0.0, 0.04]
    long = decide(forecasts([0.1, 0.2, 0.7], quantiles=quantiles), CONFIG)
    short = decide(forecasts([0.7, 0.2, 0.1], quantiles=quantiles), CONFIG)
    assert long.stop_loss_pct == pytest.approx(np.expm1(0.08))
    assert long.take_profit_pct == pytest.approx(np.expm1(2.5 * 0.03))
    assert short.stop_loss_pct == pytest.approx(np.expm1(1.5 * 0.03))
    assert short.take_profit_pct == pytest.approx(np.expm1(0.08))
    fixed = decide(forecasts([0.1, 0.2, 0.7]), TradingConfig(stop_loss_pct=0.02, take_profit_pct=0.04))
    assert (fixed.stop_loss_pct, fixed.take_profit_pct) == (0.02, 0.04)


@given(arrays(float, (4, 5, 3), elements=st.floats(0.01, 1)), st.integers(0, 3), st.integers(0, 4))
def test_every_row_is_decided_on_its_own(weights, asset, time):
    probabilities = weights / weights.sum(axis=-1, keepdims=True)
    many = forecasts(probabilities, np.full((4, 5), 0.03), regime=np.full((4, 5, 4), 0.25))
    whole, alone = decide(many, CONFIG)[asset, time], decide(many[asset, time], CONFIG)
    assert describe(whole) == describe(alone)
    assert np.abs(whole.signed_size) <= CONFIG.max_position


def test_no_shorts_where_forbidden():
    signal = decide(forecasts([0.7, 0.2, 0.1]), TradingConfig(allow_short=False))
    assert signal.action == Action.SELL
    assert signal.signed_size == signal.position_size == 0


def test_description_has_the_published_keys():
    ticket = describe(decide(forecasts([0.12, 0.1, 0.78], 0.018), CONFIG))
    assert list(ticket)[:7] == [
        "action", "position_size", "confidence", "stop_loss_pct", "take_profit_pct", "market_regime", "predicted_volatility",
    ]  # fmt: skip
    assert ticket["reasoning"] == "UP with 78% confidence in BULL regime"
    assert {type(value) for value in ticket.values()} == {str, float}
    held = describe(decide(forecasts([0.12, 0.1, 0.78], 0.018), CONFIG), np.float64(-0.01))
    assert held == ticket | {"target_position": -0.01}


@pytest.mark.parametrize(
    ("probabilities", "fresh", "words"),
    [
        ([np.nan] * 3, True, "inputs are missing"),
        ([0.1, 0.2, 0.7], False, "too old"),
        ([0.39, 0.3, 0.31], True, "DOWN has only 39%"),
        ([0.44, 0.1, 0.46], True, "edge of 6.8 bps"),
    ],
)
def test_a_hold_says_why(probabilities, fresh, words):
    ticket = describe(decide(forecasts(probabilities, regime=[np.nan] * 4), CONFIG, fresh=fresh))
    assert ticket["action"] == "HOLD"
    assert words in ticket["reasoning"]
    assert ticket["market_regime"] == "UNKNOWN"


def test_action_names():
    assert action_names(np.array([[1, 0], [-1, 1]], dtype=np.int8)).tolist() == [["BUY", "HOLD"], ["SELL", "BUY"]]


def test_contradicting_settings_are_refused():
    with pytest.raises(ValidationError, match="position_size must be at most max_position"):
        TradingConfig(position_size=0.2)
    with pytest.raises(ValidationError, match="min_confidense"):
        TradingConfig(min_confidense=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop_loss_pct": 0.3}, "stop_loss_pct must be within min_stop_pct 0.002 and max_stop_pct 0.25, was 0.3"),
        ({"stop_loss_pct": 0.001}, "stop_loss_pct must be within min_stop_pct 0.002 and max_stop_pct 0.25, was 0.001"),
        ({"take_profit_pct": 0.001}, "take_profit_pct must be at least min_stop_pct 0.002, was 0.001"),
    ],
)
def test_fixed_stops_beyond_the_limits_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        TradingConfig(**given)


@pytest.mark.parametrize(
    ("stop", "take", "limits"),
    [(0.3, 0.04, {"max_stop_pct": 0.4}), (0.001, 0.001, {"min_stop_pct": 0.0005}), (0.25, 3.0, {}), (0.002, 0.002, {})],
)
def test_fixed_stops_within_the_limits_are_taken_as_given(stop, take, limits):
    fixed = decide(forecasts([0.1, 0.2, 0.7]), TradingConfig(stop_loss_pct=stop, take_profit_pct=take, **limits))
    assert (fixed.stop_loss_pct, fixed.take_profit_pct) == (stop, take)


@pytest.mark.parametrize("name", ["max_position", "max_gross", "target_volatility", "take_profit_pct", "cost_multiple"])
def test_infinite_settings_are_refused(name):
    with pytest.raises(ValidationError, match=f"{name}\n.*finite"):
        TradingConfig(**{name: float("inf")})


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"probabilities must have shape \(2, 3\)"):
        Forecasts.of(np.zeros((2, 4)), np.ones(2), horizon_bars=1, timeframe="1h")
