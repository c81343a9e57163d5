"""Windows that an accelerator takes together: the same forecasts as one after the other."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from cryptoml.live.predictor import Predictor
from serve import members
from serve.members import forecast_windows


@pytest.mark.parametrize("most_assets", [1, 7, 8192])
@pytest.mark.parametrize("place", [0, 1])
def test_together_is_as_one_by_one(today: Any, place: int, most_assets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST_ASSETS", most_assets)
    question, context = Predictor(today.bundle).question(today.frames), today.bundle.context_bars
    windows = [question.features + np.float32(shift) for shift in (0.0, 0.1, -0.2)]
    windows[1][1] = np.nan  # an absent asset
    windows[2][0, :, 3] = np.nan  # a missing input
    member = today.bundle.ensemble.members[place].eval()
    alone, together = forecast_windows(member, windows, context), members._together(member, windows, context)
    assert len(alone) == len(together) == 3
    for one, other in zip(alone, together, strict=True):
        for part in fields(one):
            np.testing.assert_allclose(getattr(one, part.name), getattr(other, part.name), atol=1e-6)
    assert np.isnan(together[1].volatility[1]).all()
