"""The ingest job as a user runs it: arguments, exit codes, one-line errors, Ctrl-C."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.lake import Lake
from cryptoml.data.schema import CANDLES, FUNDING, ONCHAIN, ORDERBOOK, TRADES, VENUE_CANDLES, TableSpec
from cryptoml.errors import DataError
from jobs.command_line import run
from jobs.ingest_data import IngestConfig, main
from tests.data.exchange_server import HOUR, running_exchange
from tests.jobs.processes import interrupted, start, wait_for

REPOSITORY = Path(__file__).parents[2]
BTC = {"timeframe": "1h", "symbol": "BTCUSDT"}


def candles(periods: int = 48) -> pd.DataFrame:
    price = 100.0 + np.arange(periods)
    stamps = pd.date_range("2023-01-01", periods=periods, freq="1h", tz="UTC")
    return pd.DataFrame({"timestamp": stamps, "open": price, "high": price + 1, "low": price - 1, "close": price, "volume": 5.0})


def ingest(*arguments: object) -> int:
    return run(main, IngestConfig, [str(argument) for argument in arguments])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def at(lake: Lake) -> tuple[str, str]:
    return "--lake", lake.storage.address


class TestFiles:
    def test_formats_land_in_one_table_and_again_adds_nothing(self, tmp_path: Path, lake: Lake, at, capsys) -> None:
        candles().to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        candles().to_parquet(tmp_path / "ETHUSDT.parquet")
        assert ingest(*at, "--files", tmp_path / "BTCUSDT-1h.csv", tmp_path / "ETHUSDT.parquet") == 0
        assert "96 rows added" in capsys.readouterr().out
        assert lake.symbols("1h") == ["BTCUSDT", "ETHUSDT"]
        assert ingest(*at, "--files", tmp_path / "BTCUSDT-1h.csv") == 0
        assert "0 rows added" in capsys.readouterr().out
        assert [summary["rows_added"] for summary in lake.read_health()] == [96, 0]

    def test_an_unreadable_file_is_named_and_the_others_go_on(self, tmp_path: Path, lake: Lake, at, capsys) -> None:
        candles().to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        (tmp_path / "ETHUSDT-1h.parquet").write_bytes(b"PAR1 but not really")
        absent = tmp_path / "nothing here"
        assert ingest(*at, "--files", tmp_path / "ETHUSDT-1h.parquet", absent, tmp_path / "BTCUSDT-1h.csv") == 1
        out = capsys.readouterr().out
        assert "ETHUSDT-1h.parquet" in out
        assert "nothing here" in out
        assert len(lake.read(CANDLES, BTC)) == 48
        assert ingest(*at, "--files", absent) == 2

    def test_bad_rows_go_to_quarantine_once(self, tmp_path: Path, lake: Lake, at, capsys) -> None:
        frame = candles().astype({"close": object})
        frame.loc[5, "close"] = "oops"
        frame.loc[9, "low"] = 500.0
        frame.to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        for _ in range(2):
            assert ingest(*at, "--files", tmp_path / "BTCUSDT-1h.csv") == 0
        rows = lake.read_quarantine()
        assert rows["reason"].to_list() == ["not_a_number", "high_below_low"]
        assert rows["value"][0] == "oops"
        assert len(lake.read(CANDLES, BTC)) == 46
        assert "not_a_number 1" in capsys.readouterr().out
        candles().to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        assert ingest(*at, "--files", tmp_path / "BTCUSDT-1h.csv") == 0
        assert lake.read_quarantine().empty
        assert len(lake.read(CANDLES, BTC)) == 48

    def test_rows_that_contradict_the_lake_are_refused_unless_told(self, tmp_path: Path, lake: Lake, at, capsys) -> None:
        path = tmp_path / "BTCUSDT-1h.csv"
        candles().to_csv(path, index=False)
        ingest(*at, "--files", path)
        candles().assign(volume=7.0).to_csv(path, index=False)
        assert ingest(*at, "--files", path) == 0
        assert "48 refused" in capsys.readouterr().out
        assert ingest(*at, "--files", path, "--overwrite") == 0
        assert (lake.read(CANDLES, BTC)["volume"] == 7.0).all()

    def test_other_venue(self, tmp_path: Path, lake: Lake, at) -> None:
        candles().to_csv(tmp_path / "candles.csv", index=False)
        flags = ("--kind", "venue_candles", "--venue", "kraken", "--symbol", "BTC/USDT", "--timeframe", "1h")
        assert ingest(*at, "--files", tmp_path / "candles.csv", *flags) == 0
        assert len(lake.read(VENUE_CANDLES, {"venue": "kraken", **BTC})) == 48

    def test_funding_and_onchain(self, tmp_path: Path, lake: Lake, at, capsys) -> None:
        stamps = pd.date_range("2023-01-01", periods=3, freq="8h", tz="UTC")
        pd.DataFrame({"timestamp": stamps, "funding_rate": [1e-4, "x", 2e-4]}).to_csv(tmp_path / "BTCUSDT.csv", index=False)
        pd.DataFrame({"time": ["2023-01-01", "2023-01-02"], "TxCnt": [5, 6], "FeeTotNtv": [1.5, None]}).to_csv(
            tmp_path / "chain.csv", index=False
        )
        for _ in range(2):
            assert ingest(*at, "--kind", "funding", "--files", tmp_path / "BTCUSDT.csv") == 0
            assert ingest(*at, "--kind", "onchain", "--asset", "BTC", "--files", tmp_path / "chain.csv") == 0
        assert lake.read(FUNDING, {"symbol": "BTCUSDT"})["funding_rate"].to_list() == [1e-4, 2e-4]
        assert len(lake.read(ONCHAIN, {"asset": "BTC"})) == 4
        assert lake.read_quarantine()["reason"].to_list() == ["not_a_number"]
        assert capsys.readouterr().out.count("0 rows added") == 2

    @pytest.mark.parametrize(
        ("kind", "path", "spec"),
        [
            ("funding", "funding_8h", FUNDING),
            ("onchain", "onchain_1d/btc.csv", ONCHAIN),
            ("orderbook", "orderbook/btcusdt_usdm_depth20.parquet", ORDERBOOK),
            ("trades", "orderbook/btcusdt_usdm_trades.parquet", TRADES),
            ("venue_candles", "kraken_1h", VENUE_CANDLES),
        ],
    )
    def test_real_tables(self, shared_data: Path, lake: Lake, at, capsys, kind: str, path: str, spec: TableSpec) -> None:
        venue = ("--venue", "kraken") if kind == "venue_candles" else ()
        for _ in range(2):
            assert ingest(*at, "--kind", kind, *venue, "--files", shared_data / path) == 0
        out = capsys.readouterr().out
        assert "\n0 rows added, 0 replaced\n" in out
        assert all(len(lake.read(spec, partition)) > 100 for partition in lake.partitions(spec))

    def test_real_candles(self, shared_data: Path, lake: Lake, at) -> None:
        assert ingest(*at, "--files", shared_data / "candles_1h" / "BTCUSDT.parquet") == 0
        assert len(lake.read(CANDLES, BTC)) == 36_736


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "give either --exchange"),
            (("--exchange", "binance", "--files", "x"), "give either --exchange"),
            (("--exchange", "binance"), "--exchange needs --symbols"),
            (("--exchange", "binanse", "--symbols", "BTC/USDT", "--timeframe", "1h"), "nearest: binance"),
            (("--exchange", "binance", "--symbols", "BTC/USDT", "--timeframe", "1h", "--since", "soon"), "since must be a time"),
            (
                ("--exchange", "binance", "--symbols", "B/T", "--timeframe", "1h", "--exchange-options", "/absent.json"),
                "exchange-options /absent.json cannot be read",
            ),
            (("--files", "x", "--venue", "kraken"), "--kind venue_candles and --venue"),
            (("--files", "x", "--kind", "venue_candles"), "such as kraken, go together"),
            (("--files", "x", "--asset", "BTC"), "--asset goes with --kind onchain"),
            (("--exchange", "binance", "--kind", "funding"), "was funding"),
        ],
    )
    def test_one_line_and_code_2(self, at, capsys, arguments: tuple[str, ...], message: str) -> None:
        assert ingest(*at, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert message in error

    def test_help_and_unknown_flag(self, capsys) -> None:
        for arguments, code in ((["--help"], 0), (["--lake", "x", "--colour", "red"], 2)):
            with pytest.raises(SystemExit) as caught:
                run(main, IngestConfig, arguments)
            assert caught.value.code == code
        assert "--exchange-options" in capsys.readouterr().out


class TestExchange:
    def test_downloads_with_options_and_survives_ctrl_c(
        self, tmp_path: Path, lake: Lake, at, environment: dict[str, str]
    ) -> None:
        options = tmp_path / "options.json"
        with running_exchange() as server:
            server.page = 3
            options.write_text(json.dumps({**server.options, "rateLimit": 50}))
            flags = ("--symbols", "BTC/USDT", "ETH/USDT", "--timeframe", "1h", "--since", "2023-01-01")
            command = [*at, "--exchange", "binance", *flags, "--exchange-options", str(options)]
            process = start("ingest_data", environment, *command)
            wait_for(lambda: len(server.requests) >= 5, process)
            _, text = interrupted(process)
            assert process.returncode == 130
            assert "Traceback" not in text
            assert text.strip().endswith("interrupted; run the same command again to go on")
            kept = len(lake.read(CANDLES, BTC))
            assert 0 < kept < 106
            server.requests.clear()
            server.page = 500
            assert ingest(*command) == 0
            assert server.requests[0] == server.listed + kept * HOUR
        assert [len(lake.read(CANDLES, {**BTC, "symbol": symbol})) for symbol in lake.symbols("1h")] == [106, 106]


@dataclass
class _Nothing:
    number: int = 1


class TestCommandLine:
    def test_exit_codes(self, capsys) -> None:
        assert run(lambda config: None, _Nothing, []) == 0
        assert run(lambda config: config.number, _Nothing, ["--number", "7"]) == 7

        def broken(config: _Nothing) -> int:
            raise DataError("file.csv: row 3\n is odd")

        def interrupted(config: _Nothing) -> int:
            raise KeyboardInterrupt

        assert run(broken, _Nothing, []) == 2
        assert run(interrupted, _Nothing, []) == 130
        assert capsys.readouterr().err.splitlines()[0] == "error: file.csv: row 3 is odd"
