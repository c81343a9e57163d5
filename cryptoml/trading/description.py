"""One decision in words and plain numbers, as an order ticket or an API answers with it."""

from typing import Any

from cryptoml.features.targets import REGIMES
from cryptoml.trading.signals import Action, HoldReason, Signals

__all__ = ["describe"]

_WHY = {
    HoldReason.MASKED: "HOLD: no forecast, inputs are missing",
    HoldReason.STALE: "HOLD: the newest candle is too old",
    HoldReason.LOW_CONFIDENCE: "HOLD: {side} has only {confidence:.0%} confidence",
    HoldReason.COST: "HOLD: expected edge of {edge:.1f} bps does not pay the round-trip cost",
}


def describe(signal: Signals, target_position: float | None = None) -> dict[str, Any]:
    """Return one row of signals (`signals[asset, time]`) as a dictionary of plain Python values.

    Keys: action, position_size, confidence, stop_loss_pct, take_profit_pct, market_regime, predicted_volatility,
    expected_edge, reasoning, and target_position where it is given. A missing number is None, a missing regime
    `"UNKNOWN"`.

    Args:
        signal: One decision.
        target_position: What to hold after it, signed fraction of equity, as `PositionBook.targets` says.
    """
    action = Action(int(signal.action))
    ticket = {
        "action": action.name,
        "position_size": float(signal.position_size),
        "confidence": _number(signal.confidence),
        "stop_loss_pct": _number(signal.stop_loss_pct),
        "take_profit_pct": _number(signal.take_profit_pct),
        "market_regime": _regime(signal),
        "predicted_volatility": _number(signal.predicted_volatility),
        "expected_edge": _number(signal.expected_edge),
        "reasoning": _reasoning(signal, action),
    }
    return ticket if target_position is None else ticket | {"target_position": float(target_position)}


def _number(value: Any) -> float | None:
    number = float(value)
    return number if number == number else None


def _regime(signal: Signals) -> str:
    index = int(signal.market_regime)
    return REGIMES[index] if index >= 0 else "UNKNOWN"


def _reasoning(signal: Signals, action: Action) -> str:
    side = "UP" if signal.side > 0 else "DOWN"
    if action is Action.HOLD:
        edge_bps = float(signal.side * signal.expected_edge) * 1e4
        return _WHY[HoldReason(int(signal.reason))].format(side=side, confidence=float(signal.confidence), edge=edge_bps)
    return f"{side} with {float(signal.confidence):.0%} confidence in {_regime(signal)} regime"
