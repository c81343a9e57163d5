"""Signals at every bar equal those of the predictor bar by bar, and no later candle changes one."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import BundleError, DataError
from cryptoml.live.endpoint import EndpointSignals
from cryptoml.live.predictor import Predictor
from cryptoml.live.signal_source import COLUMNS, BundleSignals, open_bundle, present_candles
from cryptoml.models.registry import Registry
from tests.live.served import served

HOUR = pd.Timedelta(hours=1)
NUMBERS = ["position_size", "confidence", "stop_loss_pct", "take_profit_pct", "predicted_volatility", "expected_edge"]


@pytest.fixture(scope="module")
def source(trained: Any) -> BundleSignals:
    return BundleSignals(trained.path)


@pytest.fixture(scope="module")
def endpoint(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointSignals]:
    with served(trained.path, tmp_path_factory.mktemp("served")) as address, closing(EndpointSignals(address)) as source:
        yield source


def test_every_bar_equals_a_prediction_at_that_bar(trained: Any, source: BundleSignals) -> None:
    predictor = Predictor(trained.path)
    table = source.signals("ETHUSDT", trained.frames(2400))
    assert {"BUY", "SELL"} <= set(table["action"])
    for stop in (predictor.history_bars, 2222, 2400):
        one = next(one for one in predictor.predict(trained.frames(stop)) if one.symbol == "ETHUSDT")
        row = table.loc[one.timestamp]
        assert row["action"] == one.signal["action"]
        assert row["market_regime"] == one.signal["market_regime"]
        expected = [one.signal[name] for name in NUMBERS] + [one.direction["UP"], one.quantiles[24][0.1]]
        np.testing.assert_allclose(row[[*NUMBERS, "p_up", "q10"]].to_numpy(dtype=float), expected, atol=1e-6)


@pytest.mark.parametrize("stop", [2100, 2277, 2399])
def test_later_candles_change_no_bit(trained: Any, source: BundleSignals, stop: int) -> None:
    whole = source.signals("BTCUSDT", trained.frames(2400))
    pd.testing.assert_frame_equal(source.signals("BTCUSDT", trained.frames(stop)), whole.iloc[:stop], check_exact=True)


def test_short_history_holds(trained: Any, source: BundleSignals) -> None:
    table = source.signals("BTCUSDT", trained.frames(2400))
    young = table.iloc[: source.history_bars - 1]
    assert set(young["action"]) == {"HOLD"}
    assert young["confidence"].isna().all()
    assert table["confidence"].iloc[source.history_bars - 1 :].notna().all()
    assert set(source.signals("BTCUSDT", trained.frames(20))["action"]) == {"HOLD"}


def test_newest_bars_alone_are_the_same(trained: Any, source: BundleSignals) -> None:
    whole = source.signals("SOLUSDT", trained.frames(2400))
    newest = source.signals("SOLUSDT", trained.frames(2400), 24)
    assert newest.index.equals(whole.index[-24:])
    assert newest["action"].tolist() == whole["action"].tolist()[-24:]
    np.testing.assert_allclose(newest[NUMBERS], whole[NUMBERS].iloc[-24:], atol=1e-6)


def test_a_changed_candle_is_seen(trained: Any, source: BundleSignals) -> None:
    frames = trained.frames(2400)
    before = source.signals("BTCUSDT", frames)
    changed = frames["BTCUSDT"].copy()
    changed.loc[2390, ["high", "close"]] *= 1.1
    after = source.signals("BTCUSDT", frames | {"BTCUSDT": changed})
    assert before["confidence"].iloc[:2390].equals(after["confidence"].iloc[:2390])
    assert before["confidence"].iloc[2390] != after["confidence"].iloc[2390]


def test_other_symbols_may_be_absent_or_end_elsewhere(trained: Any, source: BundleSignals) -> None:
    frames = trained.frames(2400)
    alone = source.signals("BTCUSDT", {"BTCUSDT": frames["BTCUSDT"], "DOGEUSDT": frames["BTCUSDT"]})
    assert alone["confidence"].iloc[-1] == pytest.approx(
        Predictor(trained.path).predict({"BTCUSDT": frames["BTCUSDT"]})[0].signal["confidence"], abs=1e-6
    )
    cut = {**frames, "BTCUSDT": frames["BTCUSDT"].iloc[:2300]}
    pd.testing.assert_frame_equal(source.signals("BTCUSDT", cut), source.signals("BTCUSDT", trained.frames(2300)))


def test_unknown_symbol_has_no_rows(trained: Any, source: BundleSignals) -> None:
    table = source.signals("DOGEUSDT", {"DOGEUSDT": trained.frames(50)["BTCUSDT"]})
    assert table.empty
    assert set(COLUMNS) <= set(table.columns)


def test_filled_gaps_count_as_absent(trained: Any) -> None:
    frame = trained.frames(50)["BTCUSDT"]
    frame.loc[7, ["open", "high", "low", "close"]] = frame.loc[6, "close"]
    frame.loc[7, "volume"] = 0.0
    assert len(present_candles(frame, "BTCUSDT", "1h")) == 49


def test_bundle_comes_from_a_folder_or_a_registry(trained: Any, tmp_path: Any) -> None:
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.add(trained.bundle))
    assert open_bundle(tmp_path / "registry").symbols == open_bundle(trained.path).symbols == trained.bundle.symbols
    with pytest.raises(BundleError, match=r"bundle\.json"):
        open_bundle(tmp_path)


def test_endpoint_answers_as_the_bundle_does(trained: Any, source: BundleSignals, endpoint: EndpointSignals) -> None:
    frames = trained.frames(2400)
    assert endpoint.history_bars == source.history_bars
    assert endpoint.holding_bars == source.holding_bars
    served, local = endpoint.signals("ETHUSDT", frames, 5), source.signals("ETHUSDT", frames).iloc[-5:]
    assert served.index.equals(local.index)
    assert served["action"].tolist() == local["action"].tolist()
    np.testing.assert_allclose(served[NUMBERS], local[NUMBERS], atol=1e-6)
    assert endpoint.signals("DOGEUSDT", frames, 5).empty


def test_endpoint_errors(endpoint: EndpointSignals) -> None:
    with pytest.raises(DataError, match="http address"):
        EndpointSignals("localhost:8000")
    with pytest.raises(DataError, match="answered 404"):
        EndpointSignals(f"{endpoint._url}/elsewhere")
    with pytest.raises(OSError, match="refused"):
        EndpointSignals("http://127.0.0.1:9")
