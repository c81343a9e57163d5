"""The feature lake without Ray: equal to the plain features for any stretch, up to date with the least work, and readable."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.lake import Lake
from cryptoml.data.loading import load_panel
from cryptoml.data.panel import Panel
from cryptoml.data.schema import CANDLES, TRADES, VENUE_CANDLES
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.errors import ConfigError, DataError
from cryptoml.features.contract import Bars, feature
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.store import FeatureLakeReport, ItemStatus, WorkItem, build_feature_lake, read_feature_panel, read_features
from cryptoml.features.store.build import ItemTask, run_here
from cryptoml.features.store.manifest import write_manifest
from cryptoml.features.store.reading import stored_symbols
from tests.features.conftest import FEW, aged, stored

NUM_BARS = 2_600


def trades_of(panel: Panel, symbol: str, per_bar: int = 3) -> pd.DataFrame:
    """A few trades within every bar of the panel, one of them at its close."""
    rng = np.random.default_rng(1)
    within = (np.linspace(0.3, 1.0, per_bar) * 3.6e9).astype(np.int64)
    known = (panel.timestamps.as_unit("us").asi8[:, None] + within).ravel()
    stamps = pd.DatetimeIndex(known.view("datetime64[us]"), tz="UTC")
    flow = {"size": rng.lognormal(0, 1, len(stamps)), "is_buyer_taker": rng.random(len(stamps)) > 0.5}
    price = float(np.nanmean(panel.field("close")[panel.index_of(symbol)]))
    return pd.DataFrame({"timestamp": stamps, "available_at": stamps, "trade_id": np.arange(len(stamps)), "price": price, **flow})


@pytest.fixture(scope="module")
def full_panel() -> Panel:
    """Three symbols with tables, two with single trades: one listed late, one with a gap and delisted early."""
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=NUM_BARS, orderbook_assets=1)).panel
    trades = {symbol: trades_of(panel, symbol) for symbol in panel.symbols[:2]}
    panel, candles = replace(panel, tables={**panel.tables, "trades": trades}), panel.candles.copy()
    candles[1, :900] = np.nan
    candles[2, 400:430] = np.nan
    candles[2, 2_000:] = np.nan
    return replace(panel, candles=candles)


@pytest.fixture(scope="module")
def full_lake(full_panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("lake"), full_panel)


def outcomes(report: FeatureLakeReport) -> dict[str, int]:
    return report.table()["outcome"].value_counts().to_dict()


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


class TestParity:
    @pytest.mark.parametrize("chunk_bars", [1_111, 50_000])
    def test_equals_the_plain_features_of_every_category(self, full_lake: Path, tmp_path: Path, chunk_bars: int) -> None:
        engineer = AdvancedFeatureEngineer()
        plain = build_features(load_panel(full_lake).panel, engineer)
        traded = [plain.symbols.index(symbol) for symbol in ("BTCUSDT", "ETHUSDT")]
        flow = plain.values[traded, 1_000:, plain.names.index("microstructure_trade_flow_imbalance")]
        assert np.isfinite(flow).all()
        assert not build_feature_lake(full_lake, tmp_path, engineer, chunk_bars=chunk_bars).failed
        stored = read_feature_panel(tmp_path)
        assert (stored.names, stored.symbols, stored.timeframe) == (plain.names, plain.symbols, plain.timeframe)
        assert stored.timestamps.equals(plain.timestamps)
        assert_close(stored.values, plain.values)

    @pytest.mark.parametrize("chunk_bars", [67, 97, 800, 801])
    def test_any_length_of_stretch(self, lake: Path, tmp_path: Path, chunk_bars: int) -> None:
        engineer = AdvancedFeatureEngineer({"include": ("momentum_rsi_14",)})
        symbol = Lake(lake).symbols("1h")[0]
        build_feature_lake(lake, tmp_path / "out", engineer, symbols=[symbol], chunk_bars=chunk_bars)
        plain = build_features(load_panel(lake, symbols=[symbol]).panel, engineer)
        assert_close(read_feature_panel(tmp_path / "out").values, plain.values)

    def test_symbols_absent_from_a_stretch_leave_the_choice_of_peers_alone(self, tmp_path: Path) -> None:
        panel = synthetic_market(MarketConfig(num_assets=19, num_bars=9_400, with_tables=False)).panel
        candles = panel.candles.copy()
        candles[[1, 2, 7], :9_000] = np.nan
        candles[17, 300:] = np.nan
        folder = stored(tmp_path / "lake", replace(panel, candles=candles))
        engineer = AdvancedFeatureEngineer({"include": ("cross_section_peer_lead_*", "cross_section_leader_*", "time_hour_sin")})
        build_feature_lake(folder, tmp_path / "out", engineer)
        assert_close(read_feature_panel(tmp_path / "out").values, build_features(load_panel(folder).panel, engineer).values)

    def test_the_price_through_bitcoin_needs_no_wish_for_bitcoin(
        self, full_lake: Path, full_panel: Panel, tmp_path: Path
    ) -> None:
        other = full_panel.symbols[1]
        base = other.removesuffix("USDT")
        lake = Lake(shutil.copytree(full_lake, tmp_path / "lake"))
        closes = full_panel.frame(other).assign(available_at=lambda rows: rows["timestamp"] + pd.Timedelta(hours=1))
        scaled = closes.assign(**{name: closes[name] / 20_000 for name in ("open", "high", "low", "close")})
        partition = {"venue": "kraken", "timeframe": "1h", "symbol": f"{base}BTC"}
        lake.append(VENUE_CANDLES, partition, scaled.astype({"num_trades": "Int64"}))
        engineer = AdvancedFeatureEngineer({"categories": ("cross_exchange",)})
        build_feature_lake(lake, tmp_path / "out", engineer, symbols=[other])
        found = read_features(tmp_path / "out", other).filter(like="triang")
        assert found.notna().to_numpy().mean() > 0.5

    def test_the_triangle_of_the_own_venue(self, full_lake: Path, full_panel: Panel, tmp_path: Path) -> None:
        bitcoin, other = full_panel.frame("BTCUSDT"), full_panel.symbols[1]
        lake = Lake(shutil.copytree(full_lake, tmp_path / "lake"))
        pair = bitcoin.assign(**{name: 0.05 * bitcoin[name] / bitcoin["close"] for name in ("open", "high", "low", "close")})
        lake.append(CANDLES, {"timeframe": "1h", "symbol": f"{other.removesuffix('USDT')}BTC"}, pair)
        engineer = AdvancedFeatureEngineer({"include": ("cross_exchange_triangular", "cross_section_rank_return_1h")})
        build_feature_lake(lake, tmp_path / "out", engineer, symbols=[other])
        found = read_features(tmp_path / "out", other)["cross_exchange_triangular"].iloc[1:]
        both = full_panel.field("close")[:2, -len(found) :]
        np.testing.assert_allclose(found, 1e4 * np.log(0.05 * both[0] / both[1]), rtol=1e-5)
        for symbols in ([other], None):
            panel = load_panel(tmp_path / "lake", symbols=symbols).panel
            plain = build_features(panel, engineer).values[panel.index_of(other), -len(found) :, 0]
            np.testing.assert_allclose(found, plain, rtol=1e-6)


class TestUpToDate:
    def test_unchanged_input_is_not_even_read(self, lake: Path, tmp_path: Path) -> None:
        first = build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=300)
        assert set(outcomes(first)) == {"built"}

        def refuse(task: ItemTask, items: list[WorkItem]) -> list[ItemStatus]:
            pytest.fail(f"{len(items)} items were run")

        again = build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=300, run=refuse)
        assert outcomes(again) == {"kept": len(first.statuses)}
        assert again.table()["rows"].tolist() == first.table()["rows"].tolist()

    def test_files_with_new_times_and_old_rows_are_not_computed_again(self, lake: Path, tmp_path: Path) -> None:
        first = build_feature_lake(lake, tmp_path / "out", FEW)
        for file in lake.rglob("*.parquet"):
            file.touch()
        assert outcomes(build_feature_lake(lake, tmp_path / "out", FEW)) == {"kept": len(first.statuses)}

    def test_new_bars_touch_the_last_stretch_only(self, lake: Path, tmp_path: Path) -> None:
        build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=300)
        panel = load_panel(lake).panel
        later = panel.frame(panel.symbols[0]).tail(5)
        later = later.assign(timestamp=later["timestamp"] + pd.Timedelta(hours=5))
        Lake(lake).append(CANDLES, {"timeframe": "1h", "symbol": panel.symbols[0]}, later.astype({"num_trades": "Int64"}))
        table = build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=300).table()
        built = table[table["outcome"] == "built"]
        assert built["symbol"].tolist() == ["(cross-section)", panel.symbols[0]]
        assert_close(read_feature_panel(tmp_path / "out").values, build_features(load_panel(lake).panel, FEW).values)

    def test_a_new_day_of_trades_is_read_by_the_last_stretch_only(self, lake: Path, tmp_path: Path) -> None:
        panel, engineer = load_panel(lake).panel, AdvancedFeatureEngineer({"include": ("microstructure_trade_flow_imbalance",)})
        trades, run = trades_of(panel, "BTCUSDT"), []
        days = trades["timestamp"].dt.floor("D")
        Lake(lake).append(TRADES, {"symbol": "BTCUSDT"}, trades[days < days.max()])
        build_feature_lake(aged(lake), tmp_path / "out", engineer, chunk_bars=300)
        Lake(lake).append(TRADES, {"symbol": "BTCUSDT"}, trades)

        def watch(task: ItemTask, items: list[WorkItem]):
            run.extend(items)
            return run_here(task, items)

        report = build_feature_lake(lake, tmp_path / "out", engineer, chunk_bars=300, run=watch)
        assert [(item.symbol, item.stop) for item in run] == [("BTCUSDT", panel.timestamps[-1] + pd.Timedelta(hours=1))]
        assert outcomes(report) == {"kept": len(report.statuses) - 1, "built": 1}
        plain = build_features(load_panel(lake).panel, engineer)
        assert np.isfinite(plain.values[panel.index_of("BTCUSDT")]).all()
        assert_close(read_feature_panel(tmp_path / "out").values, plain.values)

    def test_a_revised_bar_is_computed_again_where_it_is_seen(self, lake: Path, tmp_path: Path) -> None:
        build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=300)
        panel = load_panel(lake).panel
        revised = panel.frame(panel.symbols[1]).iloc[[150]]
        revised = revised.assign(close=revised["high"]).astype({"num_trades": "Int64"})
        Lake(lake).append(CANDLES, {"timeframe": "1h", "symbol": panel.symbols[1]}, revised, overwrite=True)
        table = build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=300).table()
        assert set(table[table["outcome"] == "built"]["symbol"]) == {"(cross-section)", panel.symbols[1]}
        assert "kept" in table[table["symbol"] == panel.symbols[1]]["outcome"].tolist()
        assert_close(read_feature_panel(tmp_path / "out").values, build_features(load_panel(lake).panel, FEW).values)

    def test_another_catalogue_is_computed_again_each_pass_on_its_own(self, lake: Path, tmp_path: Path) -> None:
        build_feature_lake(lake, tmp_path / "out", FEW)
        include = ("momentum_rsi_14", "price_log_return_1h", "cross_section_rank_return_*")
        table = build_feature_lake(lake, tmp_path / "out", AdvancedFeatureEngineer({"include": include})).table()
        assert set(table[table["outcome"] == "built"]["symbol"]) == {"(cross-section)"}

    def test_other_stretches_leave_no_file_behind(self, lake: Path, tmp_path: Path) -> None:
        build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=100)
        leftover = tmp_path / "out/features/timeframe=1h/symbol=BTCUSDT/.20230101T000000Z.parquet.0.tmp"
        leftover.touch()
        report = build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=450)
        assert not leftover.exists()
        assert {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.parquet")} == {
            status.path for status in report.statuses
        }
        assert len(read_features(tmp_path / "out", "BTC/USDT")) == 800

    def test_a_lost_or_damaged_file_and_a_lost_manifest(self, lake: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        first = build_feature_lake(lake, out, FEW, chunk_bars=300)
        lost, damaged = (out / status.path for status in first.statuses[:2])
        lost.unlink()
        damaged.write_bytes(b"PAR1")
        again = build_feature_lake(lake, out, FEW, chunk_bars=300)
        assert {out / status.path for status in again.statuses if status.outcome == "built"} == {lost, damaged}
        (out / "features/timeframe=1h/_manifest.json").unlink()
        assert outcomes(build_feature_lake(lake, out, FEW, chunk_bars=300)) == {"kept": len(first.statuses)}

    def test_a_damaged_manifest_is_named(self, lake: Path, tmp_path: Path) -> None:
        path = tmp_path / "out/features/timeframe=1h/_manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        with pytest.raises(DataError, match="is no manifest of a feature lake"):
            build_feature_lake(lake, tmp_path / "out", FEW)

    def test_an_interrupted_run_goes_on_where_it_stopped(self, lake: Path, tmp_path: Path) -> None:
        def stop_after_two(task: ItemTask, items: list[WorkItem]):
            for number, status in enumerate(run_here(task, items)):
                if number == 2:
                    raise KeyboardInterrupt  # this item's file is there, its status is lost
                yield status

        with pytest.raises(KeyboardInterrupt):
            build_feature_lake(lake, tmp_path / "out", FEW, run=stop_after_two)
        again = build_feature_lake(lake, tmp_path / "out", FEW)
        assert outcomes(again) == {"kept": 3, "built": len(again.statuses) - 3}

    def test_books_that_cannot_be_written_on_the_way_stop_nothing(self, lake: Path, tmp_path: Path, monkeypatch) -> None:
        written = []

        def fail_at_first(*arguments: object) -> None:
            written.append(arguments)
            if len(written) == 1:
                raise DataError("the store is away")
            write_manifest(*arguments)

        monkeypatch.setattr("cryptoml.features.store.build.write_manifest", fail_at_first)
        report = build_feature_lake(lake, tmp_path / "out", FEW)
        assert not report.failed
        assert len(written) >= 2
        assert outcomes(build_feature_lake(lake, tmp_path / "out", FEW)) == {"kept": len(report.statuses)}


class _Fragile(AdvancedFeatureEngineer):
    """Fails on a symbol whose first price is a marked one."""

    @feature("price", lookback=1, inputs=("close",))
    def fragile(self, bars: Bars) -> np.ndarray:
        """The close"""
        if (bars.close == 12_345.0).any():
            raise ZeroDivisionError("a marked price")
        return bars.close


class TestFailure:
    def corrupt(self, lake: Path, symbol: str) -> Path:
        file = next((lake / f"candles/timeframe=1h/symbol={symbol}").glob("2023*"))
        file.write_bytes(file.read_bytes()[:1_000])
        return file

    def test_a_damaged_symbol_is_named_and_tried_again_while_others_finish(self, lake: Path, tmp_path: Path) -> None:
        first, second, third = load_panel(lake).panel.symbols
        self.corrupt(lake, second)
        report = build_feature_lake(lake, tmp_path / "out", FEW, retries=2)
        (failed,) = report.failed
        assert (failed.symbol, failed.attempts, failed.rows) == (second, 3, 0)
        assert f"symbol={second}/2023.parquet" in failed.error
        assert second in report.to_text()
        assert stored_symbols(tmp_path / "out") == [first, third]
        rest = build_features(load_panel(lake, symbols=[first, third]).panel, FEW)
        assert_close(read_feature_panel(tmp_path / "out").values, rest.values)

    def test_a_repaired_symbol_joins_the_cross_section(self, lake: Path, tmp_path: Path) -> None:
        intact = shutil.copytree(lake, tmp_path / "intact")
        symbol = load_panel(lake).panel.symbols[0]
        file = self.corrupt(lake, symbol)
        build_feature_lake(lake, tmp_path / "out", FEW)
        shutil.copy(intact / file.relative_to(lake), file)
        assert not build_feature_lake(lake, tmp_path / "out", FEW).failed
        assert_close(read_feature_panel(tmp_path / "out").values, build_features(load_panel(intact).panel, FEW).values)

    def test_an_unreadable_file_of_other_hands(self, lake: Path, tmp_path: Path) -> None:
        folder = lake / "candles/timeframe=1h/symbol=AAAUSDT"
        folder.mkdir()
        (folder / "part-0.parquet").write_bytes(b"nothing")
        (failed,) = build_feature_lake(lake, tmp_path / "out", FEW).failed
        assert failed.symbol == "AAAUSDT"
        assert "part-0.parquet" in failed.error

    def test_a_feature_that_fails_names_its_error(self, lake: Path, tmp_path: Path) -> None:
        symbol = load_panel(lake).panel.symbols[2]
        marked = (
            load_panel(lake).panel.frame(symbol).iloc[[10]].assign(open=12_345.0, high=12_345.0, low=12_345.0, close=12_345.0)
        )
        partition = {"timeframe": "1h", "symbol": symbol}
        Lake(lake).append(CANDLES, partition, marked.astype({"num_trades": "Int64"}), overwrite=True)
        (failed,) = build_feature_lake(lake, tmp_path / "out", _Fragile({"include": ("price_fragile",)})).failed
        assert (failed.symbol, failed.error) == (symbol, "ZeroDivisionError: a marked price")

    def test_an_item_without_an_answer_has_failed(self, lake: Path, tmp_path: Path) -> None:
        report = build_feature_lake(lake, tmp_path / "out", FEW, run=lambda task, items: [])
        assert {status.error.partition(":")[0] for status in report.failed} == {"WorkerDied"}

    def test_one_that_succeeds_at_the_second_try(self, lake: Path, tmp_path: Path) -> None:
        calls: list[int] = []

        def first_time_nothing(task: ItemTask, items: list[WorkItem]):
            calls.append(len(items))
            return [] if len(calls) == 1 else run_here(task, items)

        report = build_feature_lake(lake, tmp_path / "out", FEW, run=first_time_nothing)
        assert not report.failed
        assert set(report.table().query("symbol != '(cross-section)'")["attempts"]) == {2}

    def test_what_the_lake_does_not_hold(self, lake: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no 1h candles of symbol NOPEUSDT"):
            build_feature_lake(lake, tmp_path / "out", FEW, symbols=["NOPE/USDT"])
        with pytest.raises(DataError, match="no candles of timeframe '5m'"):
            build_feature_lake(lake, tmp_path / "out", AdvancedFeatureEngineer({"timeframe": "5m"}))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("setting", "value", "least"), [("chunk_bars", 0, 1), ("chunk_bars", -5, 1), ("retries", -1, 0)])
    def test_settings_out_of_range(self, lake: Path, tmp_path: Path, setting: str, value: int, least: int) -> None:
        with pytest.raises(ConfigError, match=f"{setting} must be at least {least}, was {value}"):
            build_feature_lake(lake, tmp_path / "out", FEW, **{setting: value})


def test_a_status_names_what_it_is_of(lake: Path, tmp_path: Path) -> None:
    seen: list[ItemStatus] = []

    def watch(task: Callable[[WorkItem], ItemStatus], items: list[WorkItem]):
        assert [item.num_bars for item in items] == sorted((item.num_bars for item in items), reverse=True)
        for status in run_here(task, items):
            seen.append(status)
            yield status

    build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=300, run=watch)
    own = [status for status in seen if status.symbol == "BTCUSDT"]
    assert sum(status.rows for status in own) == 800
    assert all(status.seconds > 0 and 0 <= status.nan_share < 1 for status in own)
