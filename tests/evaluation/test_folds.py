"""Joining the refits of a walk-forward: in order along time, and skipped where any refit was."""

from dataclasses import fields

import numpy as np
import pytest

from cryptoml.evaluation.candidates import Candidate
from cryptoml.evaluation.folds import join_candidates, join_predictions
from cryptoml.models.ensemble import Predictions
from cryptoml.trading.forecasts import Forecasts

ASSETS = 2


def predictions(bars: int, value: float) -> Predictions:
    """Predictions that hold one number in every place."""

    def filled(*tail: int) -> np.ndarray:
        return np.full((ASSETS, bars, *tail), value, dtype=np.float32)

    return Predictions(filled(3), filled(), filled(4), filled(), filled(3, 3))


def forecasts(bars: int, value: float) -> Forecasts:
    made = predictions(bars, value)
    return Forecasts.of(
        np.full((ASSETS, bars, 3), 1 / 3, dtype=np.float32),
        made.volatility,
        horizon_bars=4,
        timeframe="1h",
        quantiles=made.quantiles[:, :, 0],
        quantile_levels=(0.1, 0.5, 0.9),
        regime=np.full((ASSETS, bars, 4), 0.25, dtype=np.float32),
    )


def candidate(name: str, bars: int, value: float, *, target: bool = False) -> Candidate:
    made = predictions(bars, value)
    return Candidate(name, forecasts(bars, value), made.quantiles, made.volatility if target else None)


def test_predictions_join_along_time() -> None:
    joined = join_predictions([predictions(3, 1.0), predictions(2, 2.0)])
    for part in fields(Predictions):
        values = getattr(joined, part.name)
        assert values.shape[:2] == (ASSETS, 5)
        assert values.dtype == np.float32
        assert (values[:, :3] == 1.0).all()
        assert (values[:, 3:] == 2.0).all()


class TestCandidates:
    def test_join_by_name_whatever_the_order(self) -> None:
        folds = [[candidate("a", 3, 1.0), candidate("b", 3, 2.0)], [candidate("b", 2, 4.0), candidate("a", 2, 3.0)]]
        first, second = join_candidates(folds)
        assert (first.name, second.name) == ("a", "b")
        assert first.forecasts is not None
        assert first.forecasts.volatility[0].tolist() == [1.0, 1.0, 1.0, 3.0, 3.0]
        assert first.quantiles is not None
        assert first.quantiles.shape == (ASSETS, 5, 3, 3)
        assert first.target is None

    def test_targets_of_rules_join_too(self) -> None:
        joined = join_candidates([[candidate("rule", 3, 0.5, target=True)], [candidate("rule", 2, 0.25, target=True)]])[0]
        assert joined.target is not None
        assert joined.target[1].tolist() == [0.5, 0.5, 0.5, 0.25, 0.25]

    def test_one_skipped_in_any_fold_is_skipped_with_its_reason(self) -> None:
        folds = [[candidate("a", 3, 1.0)], [Candidate("a", skipped="too few rows")]]
        assert join_candidates(folds)[0].skipped == "too few rows"
        assert join_candidates(folds[::-1])[0].forecasts is None

    def test_one_fold_is_given_back(self) -> None:
        joined = join_candidates([[candidate("a", 3, 1.0)]])[0]
        assert joined.forecasts is not None
        np.testing.assert_array_equal(joined.forecasts.probabilities, np.full((ASSETS, 3, 3), 1 / 3, dtype=np.float32))

    def test_folds_must_hold_the_same_candidates(self) -> None:
        with pytest.raises(KeyError, match="a"):
            join_candidates([[candidate("a", 3, 1.0)], [candidate("b", 3, 1.0)]])
