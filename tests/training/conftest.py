"""A small random market for the training room: features that hold the next bar's return, and its targets."""

from collections.abc import Callable

import numpy as np
import pytest

from cryptoml.data.splits import walk_forward
from cryptoml.data.windows import chunk_spans
from cryptoml.features.targets import TargetConfig, Targets, make_targets
from cryptoml.training.chunks import ChunkLoader
from cryptoml.training.config import TrainingConfig
from cryptoml.training.member import FoldData, MemberConfig, MemberTask

NUM_BARS, LOOKBACK = 400, 8
TARGETS = TargetConfig(
    horizons=(1, 4), primary_horizon=4, volatility_halflife_bars=5, minimum_history_bars=5, long_run_halflife_bars=9
)


class Closes:
    """The part of a panel that targets read."""

    def __init__(self, close: np.ndarray) -> None:
        self.close = close

    def field(self, name: str) -> np.ndarray:
        return self.close * {"high": 1.01, "low": 0.99}.get(name, 1.0)


@pytest.fixture(scope="package")
def market() -> tuple[np.ndarray, Targets]:
    random = np.random.default_rng(0)
    returns = 0.01 * random.standard_normal((2, NUM_BARS))
    close = 100 * np.exp(np.cumsum(returns, axis=1))
    features = random.standard_normal((2, NUM_BARS, 3)).astype(np.float32)
    features[:, :-1, 0] = 100 * returns[:, 1:]
    features[0, 50:60, 1] = np.nan
    features[1, :40] = np.nan
    close[1, :40] = np.nan
    return features, make_targets(Closes(close), TARGETS)


@pytest.fixture
def loader(market: tuple[np.ndarray, Targets]) -> Callable[..., ChunkLoader]:
    def make(start: int = 0, stop: int = 300, **options: object) -> ChunkLoader:
        features, targets = market
        spans = chunk_spans(NUM_BARS, 32, LOOKBACK, start=start, stop=stop)
        return ChunkLoader(features, targets, spans, **{"batch_size": 3, "target_config": TARGETS} | options)

    return make


@pytest.fixture(scope="package")
def fold_data(market: tuple[np.ndarray, Targets]) -> FoldData:
    """One fold of the market: train [0, 252), validation [260, 312), test [320, 400)."""
    features, targets = market
    fold = walk_forward(NUM_BARS, test_start=320, label_bars=4, embargo_bars=4, validation_bars=52)[0]
    return FoldData(features, targets, fold, TARGETS, ("AUSDT", "BUSDT"), ("price_next", "volume_noise", "time_noise"))


@pytest.fixture(scope="package")
def task(fold_data: FoldData) -> MemberTask:
    """A small member of two epochs."""
    member = MemberConfig(name="tcn", architecture="tcn", hidden_size=8, num_heads=2)
    return member.task(fold_data, TrainingConfig(max_epochs=2, chunk_bars=64, batch_size=4), LOOKBACK, seed=3)
