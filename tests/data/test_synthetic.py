"""The built-in market: what is planted can be found, the ceiling is right, candles and tables hold together."""

import time
import tracemalloc
from itertools import groupby

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from cryptoml.data.panel import panel_from_frames
from cryptoml.data.schema import TABLES
from cryptoml.data.synthetic import MarketConfig, SyntheticMarket, synthetic_market
from cryptoml.errors import ConfigError

HORIZON = 24
WARM_UP = 240


@pytest.fixture(scope="module")
def market() -> SyntheticMarket:
    return synthetic_market(MarketConfig(with_tables=False))


@pytest.fixture(scope="module")
def small() -> SyntheticMarket:
    return synthetic_market(MarketConfig(num_assets=3, num_bars=400, orderbook_assets=2))


def trailing(values: np.ndarray, half_life: float) -> np.ndarray:
    """Exponentially weighted mean along time, started at the mean of the first bars."""
    decay = 0.5 ** (1 / half_life)
    start = decay * values[:, :WARM_UP].mean(axis=1, keepdims=True)
    return lfilter([1 - decay], [1, -decay], values, axis=1, zi=start)[0]


def returns_and_sigma(market: SyntheticMarket) -> tuple[np.ndarray, np.ndarray]:
    """Log-returns and causal volatility `[asset, time]`, from closes alone."""
    returns = np.diff(np.log(market.panel.field("close")), axis=1, prepend=np.nan)
    returns[:, 0] = 0.0
    return returns, np.sqrt(trailing(returns**2, 48))


def threshold(market: SyntheticMarket) -> np.ndarray:
    limits = 0.5 * HORIZON**0.5 * returns_and_sigma(market)[1]
    limits[:, :WARM_UP] = np.nan
    return limits


def labels(market: SyntheticMarket) -> np.ndarray:
    """Direction classes `[asset, time - HORIZON]`."""
    log_close, limits = np.log(market.panel.field("close")), threshold(market)[:, :-HORIZON]
    moves = log_close[:, HORIZON:] - log_close[:, :-HORIZON]
    return np.where(moves < -limits, 0, np.where(moves > limits, 2, 1))


def observable_signals(market: SyntheticMarket) -> np.ndarray:
    """What a trader can compute from candles and the graph `[asset, time, 2]`: flow and the leaders' trailing returns."""
    returns, sigma = returns_and_sigma(market)
    trail = trailing(returns / sigma, market.dynamics.config.lead_lag_half_life_bars)
    flow = market.panel.field("taker_buy_volume") / market.panel.field("volume") - 0.5
    return np.stack([flow, market.dynamics.lead_lag(trail.T).T], axis=-1)


def linear_accuracy(market: SyntheticMarket, signals: np.ndarray) -> float:
    """Out-of-sample accuracy of least squares on the signals, cut at the band that is best in the training part."""
    returns, sigma = returns_and_sigma(market)
    classes = labels(market)
    stop = classes.shape[1]
    train, test = slice(WARM_UP, int(0.6 * stop)), slice(int(0.6 * stop) + HORIZON, stop)
    totals = np.cumsum(returns, axis=1)
    target = (totals[:, HORIZON:] - totals[:, :-HORIZON]) / sigma[:, :-HORIZON]
    score = np.empty_like(target)
    for asset in range(len(target)):
        weights = np.linalg.lstsq(signals[asset, train], target[asset, train], rcond=None)[0]
        score[asset] = signals[asset, :stop] @ weights

    def accuracy(band: float, part: slice) -> float:
        chosen = 1 + (score[:, part] > band).astype(int) - (score[:, part] < -band)
        return float((chosen == classes[:, part]).mean())

    best = max(np.linspace(0, 5, 51), key=lambda band: accuracy(band, train))
    return accuracy(best, test)


def test_ceiling_is_where_the_defaults_say_and_agrees_with_what_happened(market: SyntheticMarket) -> None:
    ceiling = market.direction_ceiling(HORIZON, threshold(market), num_paths=200)
    assert 0.59 < ceiling.accuracy < 0.66
    assert 0.70 < ceiling.sign_accuracy < 0.76
    assert 0.33 < ceiling.majority_share < 0.45
    assert abs(ceiling.realised_accuracy - ceiling.accuracy) < 0.035  # about 400 independent days x 6 assets
    assert abs(ceiling.realised_sign_accuracy - ceiling.sign_accuracy) < 0.035
    np.testing.assert_allclose(ceiling.probabilities.sum(axis=-1), 1, atol=1e-5)
    assert ceiling.num_labels == 6 * len(ceiling.bars) == 6 * 500
    assert ceiling.share_of_ceiling(ceiling.accuracy) == 1


def test_oracle_probabilities_are_calibrated_across_a_wide_market() -> None:
    wide = synthetic_market(MarketConfig(num_assets=24, num_bars=6_000, with_tables=False, seed=3))
    ceiling = wide.direction_ceiling(HORIZON, threshold(wide), max_bars=240, num_paths=64)
    happened = labels(wide)[:, ceiling.bars]
    chosen = ceiling.probabilities.argmax(axis=-1)
    for share_low, share_high in ((0.0, 0.5), (0.5, 0.65), (0.65, 1.0)):
        confidence = ceiling.probabilities.max(axis=-1)
        inside = (confidence > share_low) & (confidence <= share_high)
        assert abs((chosen == happened)[inside].mean() - confidence[inside].mean()) < 0.06
    assert abs(ceiling.realised_accuracy - ceiling.accuracy) < 0.03


def test_oracle_equals_the_closed_form_where_there_is_one() -> None:
    """With constant volatility, thin tails and flow alone the forward return is normal with known moments."""
    plain = MarketConfig(
        num_assets=2, num_bars=600, with_tables=False, lead_lag_strength=0, log_volatility_std=0, tail_degrees=1e6,
        regime_drift=(0, 0, 0, 0), regime_volatility=(1, 1, 1, 1), reversion_bars=1e9,
    )  # fmt: skip
    market = synthetic_market(plain)
    limits = np.full((2, 600), 0.015)
    ceiling = market.direction_ceiling(HORIZON, limits, num_paths=4_000, max_bars=12)
    phi, sigma = market.dynamics.flow_decay, market.dynamics.base_volatility[:, None]
    ages = np.arange(1, HORIZON)
    mean = sigma * plain.flow_strength * (1 - phi**HORIZON) / (1 - phi) * market.flow[:, ceiling.bars]
    innovation = plain.flow_strength**2 * (1 - phi**2) * (((1 - phi**ages) / (1 - phi)) ** 2).sum()
    spread = sigma * (HORIZON + innovation) ** 0.5
    np.testing.assert_allclose(ceiling.probabilities[..., 2], norm.sf((0.015 - mean) / spread), atol=0.03)
    np.testing.assert_allclose(ceiling.probabilities[..., 0], norm.cdf((-0.015 - mean) / spread), atol=0.03)


def test_nothing_planted_gives_no_ceiling_above_chance() -> None:
    config = MarketConfig(
        num_bars=4_000, with_tables=False, flow_strength=0, lead_lag_strength=0, regime_drift=(0, 0, 0, 0), reversion_bars=1e9
    )
    ceiling = synthetic_market(config).direction_ceiling(HORIZON, np.full((6, 4_000), 0.015), num_paths=100, max_bars=150)
    assert abs(ceiling.sign_accuracy - 0.5) < 0.01


def test_a_linear_model_on_observables_comes_near_the_ceiling(market: SyntheticMarket) -> None:
    ceiling = market.direction_ceiling(HORIZON, threshold(market), slice(6_000, None), num_paths=100)
    signals = observable_signals(market)
    both, flow, lead = (linear_accuracy(market, part) for part in (signals, signals[..., :1], signals[..., 1:]))
    assert ceiling.share_of_ceiling(both) > 0.7
    assert ceiling.majority_share + 0.05 < flow < both - 0.02
    assert ceiling.majority_share + 0.03 < lead < flow


def test_shuffled_signals_show_nothing(market: SyntheticMarket) -> None:
    signals = np.random.default_rng(0).permutation(observable_signals(market), axis=1)
    shares = np.bincount(labels(market)[:, WARM_UP:].ravel()) / labels(market)[:, WARM_UP:].size
    assert linear_accuracy(market, signals) < shares.max() + 0.03


def test_flow_and_leaders_are_visible_in_candles(market: SyntheticMarket) -> None:
    signals = observable_signals(market)
    share = market.dynamics.config.flow_share
    np.testing.assert_allclose(signals[..., 0] / share, market.flow, atol=1e-6)
    followers = market.adjacency.any(axis=1)
    assert 0 < followers.sum() < 6
    for asset in np.flatnonzero(followers):
        seen, planted = signals[asset, WARM_UP:, 1], market.lead_lag[asset, WARM_UP:]
        assert np.corrcoef(seen, planted)[0, 1] > 0.95
    assert not market.lead_lag[~followers].any()
    assert not (market.adjacency @ market.adjacency).any()  # leaders have no leaders


def test_regimes_last_and_move_as_configured() -> None:
    config = MarketConfig(num_assets=4, num_bars=60_000, with_tables=False, seed=1)
    market = synthetic_market(config)
    runs = [(regime, len(list(run))) for regime, run in groupby(market.regimes.tolist())]
    returns = np.diff(np.log(market.panel.field("close")), axis=1)
    calm = returns[:, market.regimes[:-1] == 2].std()
    for regime, duration in enumerate(config.regime_duration_bars):
        mean_run = np.mean([length for kind, length in runs if kind == regime])
        assert 0.7 < mean_run / duration < 1.4
        during = returns[:, market.regimes[:-1] == regime]
        assert during.std() / calm == pytest.approx(config.regime_volatility[regime] / config.regime_volatility[2], rel=0.12)
    assert returns[:, market.regimes[:-1] == 0].mean() > 0 > returns[:, market.regimes[:-1] == 1].mean()
    tails = market.path.z - market.path.z.mean()
    assert (tails**4).mean() / (tails**2).mean() ** 2 > 3.5


def test_the_hidden_regime_is_known_as_far_as_returns_tell_it() -> None:
    market = synthetic_market(MarketConfig(num_bars=6_000, with_tables=False))
    assert np.bincount(market.regimes).max() / 6_000 + 0.3 < market.regime_ceiling() < 1
    nothing = {"regime_drift": (0, 0, 0, 0), "regime_volatility": (1, 1, 1, 1), "with_tables": False}
    blind = synthetic_market(MarketConfig(num_bars=6_000, **nothing))
    assert blind.regime_ceiling() < np.bincount(blind.regimes).max() / 6_000 + 0.1


def test_prices_stay_in_range_over_years() -> None:
    market = synthetic_market(MarketConfig(num_assets=20, num_bars=40_000, with_tables=False, seed=2))
    close = market.panel.field("close")
    assert (close.max(axis=1) / close.min(axis=1)).max() < 1_000
    assert (np.abs(np.log(close[:, -1] / close[:, 0])) < 4).all()


def test_candles_hold_together(market: SyntheticMarket) -> None:
    panel = market.panel
    columns = {name: panel.field(name) for name in ("open", "high", "low", "close", "volume", "quote_volume", "num_trades")}
    assert np.isfinite(panel.candles).all()
    assert (panel.candles > 0).all()
    assert (columns["high"] >= np.maximum(columns["open"], columns["close"])).all()
    assert (columns["low"] <= np.minimum(columns["open"], columns["close"])).all()
    assert (panel.field("taker_buy_volume") <= columns["volume"]).all()
    assert np.abs(np.log(columns["open"][:, 1:] / columns["close"][:, :-1])).max() < 0.002
    average = columns["quote_volume"] / columns["volume"]
    assert ((average >= columns["low"] * (1 - 1e-12)) & (average <= columns["high"] * (1 + 1e-12))).all()
    size = np.abs(np.log(columns["close"] / columns["open"]))
    assert np.corrcoef(np.log(columns["quote_volume"][0]), size[0])[0, 1] > 0.3
    # Parkinson's estimator from the range agrees with the volatility that made the bars
    parkinson = (np.log(columns["high"] / columns["low"]) ** 2).mean(axis=1) / (4 * np.log(2))
    np.testing.assert_allclose(parkinson, (market.path.past_volatility**2).mean(axis=0), rtol=0.25)


def test_tables_follow_their_schemas(small: SyntheticMarket) -> None:
    tables = small.panel.tables
    assert {name: len(rows) for name, rows in tables.items()} == {
        "funding": 3, "onchain": 3, "venue_candles": 3, "orderbook": 2,
    }  # fmt: skip
    for name, rows in tables.items():
        for frame in rows.values():
            pa.Table.from_pandas(frame, schema=TABLES[name].schema, preserve_index=False)
            assert len(frame) > 10
            assert (frame["available_at"] >= frame["timestamp"]).all()
            keys = frame[list(TABLES[name].key)]
            assert keys.sort_values(list(TABLES[name].key)).equals(keys)
            assert not keys.duplicated().any()
    onchain = tables["onchain"]["BTC"]
    assert (onchain["available_at"] - onchain["timestamp"] == pd.Timedelta("27h")).all()
    assert {"AdrActCnt", "TxCnt", "FeeTotNtv", "FlowInExNtv", "FlowOutExNtv", "SplyCur", "SplyExNtv"} < set(onchain["metric"])


def test_tables_lean_as_described(small: SyntheticMarket) -> None:
    book = small.panel.tables["orderbook"]["ETHUSDT"]
    bids, asks = np.stack(book["bid_sizes"].tolist()), np.stack(book["ask_sizes"].tolist())
    imbalance = (bids.sum(axis=1) - asks.sum(axis=1)) / (bids + asks).sum(axis=1)
    assert np.corrcoef(imbalance, small.flow[1])[0, 1] > 0.9
    bid_prices, ask_prices = np.stack(book["bid_prices"].tolist()), np.stack(book["ask_prices"].tolist())
    assert (bid_prices[:, 0] < ask_prices[:, 0]).all()
    assert (np.diff(bid_prices, axis=1) < 0).all()
    assert (np.diff(ask_prices, axis=1) > 0).all()
    venue = small.panel.tables["venue_candles"]["second:BTCUSDT"]
    basis = np.log(venue["close"].to_numpy() / small.panel.field("close")[0])
    assert 0 < np.abs(basis).max() < 0.005
    assert panel_from_frames({"BTCUSDT": venue.drop(columns="available_at")}, "1h").present.all()


def test_the_seed_decides_everything(small: SyntheticMarket) -> None:
    config = small.dynamics.config
    again, other = synthetic_market(config), synthetic_market(config.model_copy(update={"seed": 1}))
    assert again.panel.fingerprint() == small.panel.fingerprint() != other.panel.fingerprint()
    limits = np.full((3, 400), 0.01)
    first, second = (market.direction_ceiling(4, limits, num_paths=20, max_bars=9) for market in (small, again))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert first.bars.tolist() == second.bars.tolist()


@pytest.mark.parametrize(
    "settings", [{"num_assets": 1, "num_bars": 30}, {"timeframe": "15m"}, {"timeframe": "1d"}, {"num_bars": 2}]
)
def test_small_and_odd_markets(settings: dict) -> None:
    market = synthetic_market(MarketConfig(**({"num_assets": 3, "num_bars": 60} | settings)))
    assert np.isfinite(market.panel.candles).all()
    assert market.panel.slice_time(0, 1).fingerprint()


def test_a_big_market_takes_seconds_and_the_oracle_little_memory() -> None:
    started = time.process_time()
    market = synthetic_market(MarketConfig(num_assets=500, num_bars=10_000, with_tables=False))
    assert time.process_time() - started < 10
    tracemalloc.start()
    market.direction_ceiling(4, np.full((500, 10_000), 0.01), max_bars=4, num_paths=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - 500 * 10_000 * 8 < 500e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon_bars": 0}, "horizon_bars"),
        ({"num_paths": 3}, "num_paths even"),
        ({"threshold": np.ones((2, 2))}, "threshold must have shape"),
        ({"bars": slice(395, None)}, "no origin"),
        ({"threshold": np.full((3, 400), np.nan)}, "no origin"),
    ],
)
def test_bad_ceiling_settings_are_named(small: SyntheticMarket, changes: dict, message: str) -> None:
    settings = {"horizon_bars": 10, "threshold": np.full((3, 400), 0.01), "num_paths": 4} | changes
    with pytest.raises(ConfigError, match=message):
        small.direction_ceiling(**settings)
