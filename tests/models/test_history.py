"""Which forecasts are withheld for want of history."""

import numpy as np

from cryptoml.models.ensemble import Predictions
from cryptoml.models.history import forget, history_bars, young_bars


def predictions(assets: int, bars: int) -> Predictions:
    tails = {"probabilities": (3,), "volatility": (), "regime": (4,), "position_size": (), "quantiles": (2, 3)}
    return Predictions(**{name: np.ones((assets, bars, *tail), np.float32) for name, tail in tails.items()})


def test_the_hungriest_part_sets_the_history() -> None:
    assert history_bars([1, 200, 5], 16, 121) == 215
    assert history_bars([1, 2], 16, 121) == 121


def test_a_symbol_is_young_until_it_has_the_history_gaps_included() -> None:
    present = np.ones((3, 10), dtype=bool)
    present[1, :4] = False
    present[1, 6] = False
    present[2] = False
    young = young_bars(present, 3)
    assert young.sum(axis=1).tolist() == [2, 6, 10]
    assert young[1, :6].all()


def test_only_the_forecasts_of_those_rows_are_forgotten() -> None:
    rows = np.zeros((2, 4), dtype=bool)
    rows[1, :3] = True
    found = forget(predictions(2, 4), rows)
    for values in vars(found).values():
        assert np.isnan(values[rows]).all()
        assert (values[~rows] == 1).all()
