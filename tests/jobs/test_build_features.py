"""The features job as a user runs it: arguments, status table, exit codes, crash and Ctrl-C."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from cryptoml.data.lake import Lake
from cryptoml.data.schema import CANDLES
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store import read_features
from jobs.build_features import FeaturesArguments, main
from jobs.command_line import run
from tests.conftest import REPOSITORY
from tests.jobs.processes import start, wait_for

INCLUDE = ("--include", "momentum_rsi_14", "cross_section_rank_return_1h")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=900, with_tables=False)).panel
    for symbol in panel.symbols:
        frame = panel.frame(symbol).astype({"num_trades": "int64"})
        Lake(tmp_path / "lake").append(CANDLES, {"timeframe": "1h", "symbol": symbol}, frame)
    return tmp_path / "lake"


def job(*arguments: object) -> int:
    return run(main, FeaturesArguments, [str(argument) for argument in arguments])


def files_of(out: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}


class TestHere:
    def test_prints_a_row_per_file_and_computes_once(self, lake: Path, tmp_path: Path, capsys) -> None:
        arguments = ("--lake", lake, "--out", tmp_path / "out", "--engine", "local", "--symbols", "BTC/USDT", "ETHUSDT", *INCLUDE)
        assert job(*arguments) == 0
        out = capsys.readouterr().out
        assert out.count("built") == 3 + 1
        assert out.splitlines()[-1] == "3 built, 0 kept, 0 failed; 3600 rows"
        assert job(*arguments) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "0 built, 3 kept, 0 failed; 3600 rows"
        assert list(read_features(tmp_path / "out", "BTC/USDT").columns) == list(INCLUDE[1:])
        assert len(pd.read_csv(tmp_path / "out/features/timeframe=1h/_status.csv")) == 3

    def test_describes_what_it_built(self, lake: Path, tmp_path: Path, capsys) -> None:
        include = ("--include", "momentum_rsi_14", "onchain_net_flow", "cross_section_rank_return_1h")
        assert job("--lake", lake, "--out", tmp_path / "out", "--engine", "local", "--describe", *include) == 0
        out = capsys.readouterr().out
        lookback = AdvancedFeatureEngineer({"include": include[1:]}).max_lookback
        assert f"3 features; the longest lookback is {lookback} bars of 1h" in out
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
        assert rows["onchain"] == ["1", "0", "1.0000", "1.0000"]
        assert rows["momentum"][:2] == ["1", "1"]
        assert rows["onchain_net_flow"][-3:] == ["0", "1.0000", "NaN"]
        warm_up = int(rows["momentum_rsi_14"][1]) - 1
        assert rows["momentum_rsi_14"][-3:] == ["3", f"{warm_up / 900:.4f}", f"{warm_up / 900:.4f}"]

    def test_a_failed_symbol_gives_code_1_and_its_name(self, lake: Path, tmp_path: Path, capsys) -> None:
        next((lake / "candles/timeframe=1h/symbol=ETHUSDT").glob("*.parquet")).write_bytes(b"PAR1")
        assert job("--lake", lake, "--out", tmp_path / "out", "--engine", "local", *INCLUDE) == 1
        out = capsys.readouterr().out
        assert "symbol=ETHUSDT/2021.parquet is damaged" in out
        assert out.splitlines()[-1].startswith("3 built, 0 kept, ")

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--symbols", "NOPE/USDT"), "no 1h candles of symbol NOPEUSDT"),
            (("--timeframe", "5m"), "no candles of timeframe '5m'"),
            (("--timeframe", "1x"), "timeframe"),
            (("--include", "momentum_nothing"), "'momentum_nothing' matches none"),
            (("--categories", "magic"), "'magic'"),
            (("--chunk-bars", "0"), "--chunk-bars must be at least 1, was 0"),
        ],
    )
    def test_one_line_and_code_2(self, lake: Path, tmp_path: Path, capsys, flags: tuple[str, ...], message: str) -> None:
        assert job("--lake", lake, "--out", tmp_path / "out", "--engine", "local", *flags) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_help_and_no_ray_before_it_is_needed(self, capsys) -> None:
        with pytest.raises(SystemExit) as caught:
            job("--help")
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for flag in ("--lake", "--out", "--timeframe", "--symbols", "--include", "--chunk-bars", "--engine", "--retries"):
            assert flag in out
        code = "import sys, jobs.build_features; sys.exit('ray' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.slow
class TestOnRay:
    def test_a_killed_driver_leaves_only_the_rest_to_do(self, lake: Path, tmp_path: Path, environment) -> None:
        arguments = ("--lake", lake, "--out", tmp_path / "out", "--chunk-bars", 20)
        process = start("build_features", environment, *arguments)
        wait_for(lambda: len(files_of(tmp_path / "out")) >= 5, process)
        process.kill()
        process.communicate()
        time.sleep(1.0)  # its workers end with it
        before = files_of(tmp_path / "out")
        again = start("build_features", environment, *arguments)
        out, error = again.communicate(timeout=240)
        assert (again.returncode, error) == (0, "")
        after = files_of(tmp_path / "out")
        assert len(before) < len(after)
        assert {file: after[file] for file in before} == before
        assert out.splitlines()[-1].startswith(f"{len(after) - len(before)} built, {len(before)} kept, 0 failed")

    def test_ctrl_c_ends_in_one_line_and_the_next_run_goes_on(self, lake: Path, tmp_path: Path, environment) -> None:
        arguments = ("--lake", lake, "--out", tmp_path / "out", "--chunk-bars", 20)
        process = start("build_features", environment, *arguments)
        wait_for(lambda: len(files_of(tmp_path / "out")) >= 5, process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130
        assert error.splitlines() == ["interrupted; run the same command again to go on"]
        done = len(files_of(tmp_path / "out"))
        again = start("build_features", environment, *arguments, "--engine", "local")
        out, _ = again.communicate(timeout=240)
        assert f"{done} kept, 0 failed" in out.splitlines()[-1]
