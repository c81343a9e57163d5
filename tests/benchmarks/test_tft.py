"""The ETTh1 task and the way to the peers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import etth1
from benchmarks.peers import missing
from benchmarks.tft_peers import prepare
from cryptoml.models.tft import TemporalFusionTransformer


@pytest.fixture
def frame() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), 300
    series = {name: rng.normal(size=rows).cumsum() for name in etth1.COLUMNS}
    return pd.DataFrame(
        {"date": pd.date_range("2016-07-01", periods=rows, freq="h"), **series, **dict.fromkeys(etth1.CALENDAR, 0.0)}
    )


def test_pinball_by_hand() -> None:
    series = np.concatenate([np.zeros(5), np.ones(etth1.HORIZON + 1)])
    forecasts = np.zeros((2, etth1.HORIZON, 3))
    assert etth1.pinball(series, forecasts, slice(5, 6 + etth1.HORIZON)) == pytest.approx((0.1 + 0.5 + 0.9) / 3)
    with pytest.raises(ValueError, match="forecasts must have shape"):
        etth1.pinball(series, forecasts[:1], slice(5, 6 + etth1.HORIZON))


def test_inputs_know_nothing_of_the_future(frame: pd.DataFrame) -> None:
    changed = frame.copy()
    changed.loc[200:, list(etth1.COLUMNS)] += 5.0
    before, after = prepare(frame), prepare(changed)
    for name in ("inputs", "level", "scale"):
        assert torch.equal(getattr(before, name)[:200], getattr(after, name)[:200])
    assert torch.equal(before.target[150], before.level[151 : 151 + etth1.HORIZON])


def test_a_forecast_reads_its_own_chunk(frame: pd.DataFrame) -> None:
    series = prepare(frame)
    model = TemporalFusionTransformer(14, 8, num_horizons=etth1.HORIZON, lookback=16, known_future_size=4).eval()
    chunks = series.forecast(model, torch.tensor([0, 100]), 40, 30)
    assert chunks.shape == (2, 10, etth1.HORIZON, 3)
    single, _ = model(series.inputs[None, 100:131], known_future=series.known[None, 100 : 131 + etth1.HORIZON])
    assert torch.allclose(chunks[1, 0], series.level[130] + series.scale[130] * single[0], atol=1e-4)


def test_an_absent_peer_has_a_reason(tmp_path: Path) -> None:
    assert missing(str(tmp_path / "python"), "neuralforecast").startswith("neuralforecast: no interpreter at")


def test_the_split_of_the_real_table(shared_data: Path) -> None:
    frame = etth1.read_etth1(shared_data / "benchmarks" / "ETTh1.csv")
    assert len(frame) == etth1.TEST.stop
    assert np.allclose(frame.loc[: etth1.TRAIN.stop - 1, list(etth1.COLUMNS)].mean(), 0.0, atol=1e-3)
