"""A small fold and small members, for tests and for the drivers that tests start and kill."""

import numpy as np
import pytest

from cryptoml.data.splits import walk_forward
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.features.targets import TargetConfig, make_targets
from cryptoml.training.config import TrainingConfig
from cryptoml.training.member import FittedMember, FoldData, MemberConfig, MemberTask

__all__ = ["LOOKBACK", "assert_same", "small_fold", "small_task"]

LOOKBACK = 8
TARGETS = TargetConfig(
    horizons=(1, 4), primary_horizon=4, volatility_halflife_bars=12, minimum_history_bars=12, long_run_halflife_bars=24
)
NAMES = ("price_noise", "volume_noise", "time_noise")


def small_fold(num_bars: int = 400, num_features: int = 3) -> FoldData:
    """Two assets with noise for features."""
    panel = synthetic_market(MarketConfig(num_assets=2, num_bars=num_bars, with_tables=False)).panel
    values = np.random.default_rng(0).standard_normal((2, num_bars, num_features), dtype=np.float32)
    fold = walk_forward(num_bars, test_start=num_bars - 80, label_bars=4, embargo_bars=4, validation_bars=52)[0]
    names = tuple(NAMES[index % 3] + f"_{index // 3}" for index in range(num_features))
    return FoldData(values, make_targets(panel, TARGETS), fold, TARGETS, panel.symbols, names)


def small_task(data: FoldData, name: str = "tcn", *, seed: int = 0, max_epochs: int = 2, **changes: object) -> MemberTask:
    """Return a member of a few hundred weights."""
    settings = {"architecture": "tcn", "hidden_size": 8, "num_heads": 2} | changes
    loop = TrainingConfig(max_epochs=max_epochs, patience=max_epochs, chunk_bars=64, batch_size=4)
    return MemberConfig(name=name, seed=seed, **settings).task(data, loop, LOOKBACK)  # type: ignore[arg-type]


def assert_same(found: FittedMember, expected: FittedMember) -> None:
    assert found.weights.keys() == expected.weights.keys()
    for name in found.weights:
        np.testing.assert_allclose(found.weights[name], expected.weights[name], atol=1e-6, err_msg=name)
    assert found.validation_loss == pytest.approx(expected.validation_loss, abs=1e-6)
    assert found.history["val_loss"] == pytest.approx(expected.history["val_loss"], abs=1e-6)
