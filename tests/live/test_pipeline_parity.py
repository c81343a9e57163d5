"""A live predictor on the pipeline's bundle repeats the pipeline's table of predictions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.config import preset
from cryptoml.live.prediction import prediction_frame
from cryptoml.live.predictor import Predictor
from cryptoml.pipeline import open_market, run_pipeline

NUMBERS = ["p_down", "p_sideways", "p_up", "q10", "q50", "q90", "volatility", "confidence", "position_size", "stop_loss_pct"]

MEMBERS = [
    {"name": "tft", "architecture": "tft", "hidden_size": 16, "num_heads": 2, "variable_size": 4},
    {"name": "tcn", "architecture": "tcn", "hidden_size": 16, "num_heads": 2, "feature_groups": ["price", "volatility"]},
    {
        "name": "outside",
        "architecture": "linear",
        "hidden_size": 8,
        "num_heads": 2,
        "feature_groups": ["onchain", "cross_exchange"],
    },
]


@pytest.mark.slow
def test_live_equals_the_table_of_the_pipeline(tmp_path: Path) -> None:
    config = preset("debug").updated(
        market={"num_bars": 3200},
        training={"max_epochs": 1},
        sweep={"num_trials": 0},
        shuffled_label_run=False,
        members=MEMBERS,
    )
    market = open_market("synthetic", config)
    table = run_pipeline(config, market, tmp_path).predictions
    predictor = Predictor(tmp_path / "bundle")
    assert predictor.history_bars < 3200 - 500
    for timestamp in pd.DatetimeIndex(table["timestamp"].unique())[[-1, -7, -200]]:
        cut = market.panel.slice_time(None, timestamp + pd.Timedelta(hours=1))
        frames = {symbol: cut.frame(symbol).tail(predictor.history_bars) for symbol in cut.symbols}
        live = prediction_frame(predictor.predict(frames, cut.tables)).set_index("symbol")
        offline = table[table["timestamp"] == timestamp].set_index("symbol").loc[live.index]
        np.testing.assert_allclose(live[NUMBERS].astype(float), offline[NUMBERS].astype(float), atol=1e-6)
        assert live["action"].tolist() == offline["action"].tolist()
        assert live["regime"].tolist() == offline["regime"].tolist()
        assert set(offline.columns) <= set(live.columns)
