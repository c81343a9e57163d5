"""The main job from its command line: help, one-line errors, a whole run on Ray, and Ctrl-C."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cryptoml.models.bundle import load_bundle
from jobs.command_line import run
from jobs.run_pipeline import PipelineArguments, main
from tests.conftest import REPOSITORY
from tests.jobs.processes import interrupted, start, wait_for
from tests.tiny import SETTINGS

OUTPUTS = ["bundle", "predictions.parquet", "report.html", "report.json", "result.json", "sweep", "tensorboard"]


def candles(bars: int = 600, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.01 * draw.standard_normal(bars)))
    opened = np.append(close[0], close[:-1])
    high, low = 1.001 * np.maximum(opened, close), 0.999 * np.minimum(opened, close)
    stamps = pd.date_range("2024-01-01", periods=bars, freq="1h", tz="UTC")
    return pd.DataFrame({"timestamp": stamps, "open": opened, "high": high, "low": low, "close": close, "volume": 5.0})


def job(*arguments: object) -> int:
    return run(main, PipelineArguments, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two symbols as CSV."""
    folder = tmp_path / "candles"
    folder.mkdir()
    for seed, symbol in enumerate(("BTCUSDT", "ETHUSDT")):
        candles(seed=seed).to_csv(folder / f"{symbol}-1h.csv", index=False)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The tiny experiment as a YAML file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


class TestHelp:
    def test_names_the_flags_and_ends_well(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            job("--help")
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for flag in ("--data", "--out", "--train-end", "--preset", "--config", "--symbols", "--timeframe", "--seed", "--engine"):
            assert flag in out

    def test_starts_neither_torch_training_nor_ray(self) -> None:
        code = "import sys, jobs.run_pipeline; sys.exit('ray' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


class TestBadInput:
    """Each ends with exit code 2 and one line, before Ray starts or on the local engine."""

    def line(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        assert job(*arguments, "--engine", "local", "--preset", "debug") == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    def test_a_missing_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "absent" in self.line(capsys, "--data", tmp_path / "absent", "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_an_empty_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty").mkdir()
        assert "empty" in self.line(capsys, "--data", tmp_path / "empty", "--out", tmp_path / "out")

    def test_one_candle(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        candles(1).to_csv(tmp_path / "BTCUSDT.csv", index=False)
        assert "BTCUSDT.csv" in self.line(capsys, "--data", tmp_path, "--out", tmp_path / "out")

    def test_too_few_candles(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        candles(30).to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        assert "bars are needed" in self.line(capsys, "--data", tmp_path, "--out", tmp_path / "out")

    def test_a_missing_column(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        candles().drop(columns="close").to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        line = self.line(capsys, "--data", tmp_path, "--out", tmp_path / "out")
        assert "BTCUSDT-1h.csv" in line
        assert "'close'" in line

    @pytest.mark.parametrize("train_end", ["2031-12-31", "someday", "2024-01-01 00:00"])
    def test_a_bad_training_end(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], train_end: str) -> None:
        line = self.line(capsys, "--data", folder, "--out", tmp_path / "out", "--train-end", train_end)
        assert f"train_end must be a date such as 2023-12-31, was {train_end!r}" in line or f"was {train_end}" in line

    def test_an_unknown_setting(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "bad.yaml").write_text("training: {epochs: 3}\n")
        line = self.line(capsys, "--data", folder, "--out", tmp_path / "out", "--config", tmp_path / "bad.yaml")
        assert "training.epochs" in line

    def test_an_absent_settings_file(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "none.yaml" in self.line(capsys, "--data", folder, "--out", tmp_path / "out", "--config", tmp_path / "none.yaml")

    def test_an_absent_symbol(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "DOGEUSDT" in self.line(capsys, "--data", folder, "--out", tmp_path / "out", "--symbols", "DOGE/USDT")

    def test_a_timeframe_that_is_none(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "timeframe" in self.line(capsys, "--data", folder, "--out", tmp_path / "out", "--timeframe", "hourly")

    def test_an_output_folder_that_is_a_file(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "out").write_text("")
        assert "cannot be written" in self.line(capsys, "--data", folder, "--out", tmp_path / "out")

    @pytest.mark.parametrize("arguments", [["--preset", "huge"], ["--engine", "spark"], ["--colour", "blue"]])
    def test_flags_that_do_not_exist(self, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            job("--data", folder, "--out", "unused", *arguments)
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert arguments[1] in err
        assert "Traceback" not in err


class TestLocalRun:
    def test_shows_health_table_and_report(
        self, folder: Path, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "SOLUSDT-1h.parquet").write_bytes(b"not parquet")
        out = tmp_path / "out"
        arguments = ("--data", folder, "--out", out, "--config", settings, "--preset", "debug", "--engine", "local")
        assert job(*arguments, "--train-end", "2024-01-18") == 0
        shown = capsys.readouterr().out
        for part in ("BTCUSDT", "not read: ", "SOLUSDT-1h.parquet", "ensemble", "buy_and_hold", f"report: {out}/report.html"):
            assert part in shown
        assert sorted(path.name for path in out.iterdir()) == OUTPUTS
        assert pd.read_parquet(out / "predictions.parquet")["timestamp"].min() == pd.Timestamp("2024-01-19", tz="UTC")


class TestCtrlC:
    def test_on_the_local_engine_leaves_nothing_half_done(
        self, settings: Path, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        out = tmp_path / "out"
        arguments = ("--data", "synthetic", "--out", out, "--config", settings, "--preset", "debug", "--engine", "local")
        process = start("run_pipeline", environment, *arguments)
        wait_for((out / ".work").exists, process)
        _, err = interrupted(process)
        assert process.returncode == 130, err
        assert "run the same command again" in err
        assert "Traceback" not in err
        assert {path.name for path in out.iterdir()} <= {".work", "result.json", "sweep"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
class TestRay:
    def test_interrupted_and_run_again_completes_quietly(
        self, settings: Path, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        out = tmp_path / "out"
        arguments = ("--data", "synthetic", "--out", out, "--config", settings, "--preset", "debug", "--engine", "ray")
        for stage in ("sweep.part", "sweep"):
            first = start("run_pipeline", environment, *arguments)
            wait_for(next_stage(out, first, stage).exists, first, 300)
            time.sleep(3)
            _, err = interrupted(first)
            assert first.returncode == 130, err
            assert "Traceback" not in err
            assert {path.name for path in out.iterdir()} <= {".work", "result.json", "sweep"}

        second = start("run_pipeline", environment, *arguments)
        shown, err = second.communicate(timeout=600)
        assert second.returncode == 0, err
        assert sorted(path.name for path in out.iterdir()) == OUTPUTS
        assert json.loads((out / "report.json").read_text())["ensemble"]
        load_bundle(out / "bundle")
        assert all(" INFO fold " in line or " INFO member " in line for line in err.splitlines()), err
        assert "raylet" not in shown

        assert job(*arguments[:2], "--out", tmp_path / "local", *arguments[4:-1], "local") == 0
        frames = [pd.read_parquet(path / "predictions.parquet") for path in (out, tmp_path / "local")]
        numbers = frames[0].columns[frames[0].dtypes == np.float32]
        np.testing.assert_allclose(frames[0][numbers], frames[1][numbers], atol=1e-5)


def next_stage(out: Path, process: subprocess.Popen[str], stage: str) -> Path:
    """Wait for the run's work folder; return the path that a finished stage will have."""
    wait_for((out / ".work").exists, process, 300)
    while not (runs := [path for path in (out / ".work").iterdir() if path.is_dir()]):
        time.sleep(0.1)
    return runs[0] / stage
