"""A small market with a planted signal, its features, and an evaluation of it."""

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.evaluation.candidates import BootstrapConfig, EvaluationInput
from cryptoml.features.targets import TargetConfig, make_targets

NUM_ASSETS, NUM_BARS = 4, 1500


@pytest.fixture(scope="session")
def planted() -> tuple[EvaluationInput, np.ndarray]:
    """Drift that changes every 12 bars; feature 0 shows it through noise, the others are noise."""
    rng = np.random.default_rng(3)
    drift = np.repeat(rng.normal(size=(NUM_ASSETS, NUM_BARS // 12)), 12, axis=1)
    returns = np.concatenate([np.zeros((NUM_ASSETS, 1)), 0.002 * drift[:, :-1]], axis=1)
    closes = 100 * np.exp(np.cumsum(returns + rng.normal(0, 0.004, returns.shape), axis=1))
    opens = np.concatenate([closes[:, :1], closes[:, :-1]], axis=1)
    candles = np.full((NUM_ASSETS, NUM_BARS, len(CANDLE_FIELDS)), np.nan)
    for column, values in enumerate((opens, np.maximum(opens, closes), np.minimum(opens, closes), closes)):
        candles[:, :, column] = values
    candles[1, 700:705] = np.nan
    stamps = pd.date_range("2024-01-01", periods=NUM_BARS, freq="h", tz="UTC")
    panel = Panel(("AUSDT", "BUSDT", "CUSDT", "DUSDT"), "1h", stamps, candles)
    features = rng.normal(size=(NUM_ASSETS, NUM_BARS, 5)).astype(np.float32)
    features[..., 0] = drift + 0.3 * features[..., 0]
    features[rng.random(features.shape) < 0.02] = np.nan
    features[~panel.present] = np.nan
    config = TargetConfig(horizons=(1, 4, 8), primary_horizon=8)
    targets = make_targets(panel, config)
    inputs = EvaluationInput(panel, targets, config, (0, 980), (1000, NUM_BARS), bootstrap=BootstrapConfig(num_draws=100))
    return inputs, features
