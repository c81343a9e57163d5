"""A small random market for the training room: features that hold the next bar's return, and its targets."""

from collections.abc import Callable

import numpy as np
import pytest

from cryptoml.data.windows import chunk_spans
from cryptoml.features.targets import TargetConfig, Targets, make_targets
from cryptoml.training.chunks import ChunkLoader

NUM_BARS, LOOKBACK = 400, 8
TARGETS = TargetConfig(
    horizons=(1, 4), primary_horizon=4, volatility_halflife_bars=5, minimum_history_bars=5, long_run_halflife_bars=9
)


class Closes:
    """The part of a panel that targets read."""

    def __init__(self, close: np.ndarray) -> None:
        self.close = close

    def field(self, name: str) -> np.ndarray:
        return self.close


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
