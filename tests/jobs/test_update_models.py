"""The job that keeps a model current: first training, update with new candles, adoption and rollback."""

import json
from pathlib import Path

import pytest
import yaml

from cryptoml.models.registry import Registry
from jobs.command_line import run
from jobs.update_models import UpdateArguments, main
from tests.jobs.test_run_pipeline import candles
from tests.tiny import SETTINGS

RULES = ("--update.judge-bars", "100", "--update.least-new-bars", "24", "--update.reference-bars", "200")
SMALL = ("--update.renewal.memory-size", "4", "--update.renewal.chunk-bars", "64", "--update.renewal.epochs", "1")


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS | {"sweep": {"num_trials": 0}}))
    places = ["--data", tmp_path / "candles", "--out", tmp_path / "out", "--registry", tmp_path / "registry"]
    settings = ["--config", tmp_path / "tiny.yaml", "--preset", "debug", "--engine", "local"]
    return [str(flag) for flag in [*places, *settings, *RULES, *SMALL]]


def write_candles(folder: Path, bars: int) -> None:
    folder.mkdir(exist_ok=True)
    for seed, symbol in enumerate(("BTCUSDT", "ETHUSDT")):
        candles(1200, seed=seed).head(bars).to_csv(folder / f"{symbol}-1h.csv", index=False)


def job(*flags: str) -> int:
    return run(main, UpdateArguments, flags)


def test_trains_updates_and_rolls_back(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(tmp_path / "registry")
    write_candles(tmp_path / "candles", 800)
    assert job(*flags) == 0
    assert "serves now: first model" in capsys.readouterr().out
    first = registry.champion()
    assert registry.load().known_until > "2024-02-01"

    write_candles(tmp_path / "candles", 1200)
    assert job(*flags) == 0
    shown = capsys.readouterr().out
    assert "challenger" in shown
    assert "drift: " in shown
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["method"] == "continual"
    assert result["version"] in registry.versions()
    assert result["champion"] == (result["version"] if result["promoted"] else first)

    registry.promote(result["version"])
    assert job(*flags, "--rollback") == 0
    assert registry.champion() == first
    assert json.loads((tmp_path / "out" / "result.json").read_text())["champion"] == first
    capsys.readouterr()
    assert job(*flags) == 0
    assert f"no update: continual would make {result['version']} again" in capsys.readouterr().out
    assert registry.champion() == first
    assert job(*flags, "--adopt", str(tmp_path / "absent")) == 2
    assert "error: " in capsys.readouterr().err


def test_rolling_back_an_empty_registry_says_so(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert job(*flags, "--rollback") == 2
    assert "no champion before the present one" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "models"])
def test_a_file_where_the_registry_should_be_is_told_before_any_training(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    monkeypatch.setattr("jobs.update_models._train", lambda *_: pytest.fail("trained in vain"))
    (tmp_path / "registry").write_text("")
    flags[flags.index("--registry") + 1] = str(tmp_path / "registry" / below)
    assert job(*flags) == 2
    assert f"{tmp_path / 'registry'} is a file" in capsys.readouterr().err


def test_a_bundle_is_adopted(flags: list[str], tmp_path: Path) -> None:
    write_candles(tmp_path / "candles", 800)
    assert job(*flags) == 0
    other = [str(tmp_path / "other") if flag.endswith("/registry") else flag for flag in flags]
    assert job(*other, "--adopt", str(tmp_path / "out" / "bundle")) == 0
    (version,) = Registry(tmp_path / "other").versions()
    history = Registry(tmp_path / "other").history()
    assert job(*other, "--adopt", str(tmp_path / "out" / "bundle")) == 0
    assert Registry(tmp_path / "other").history() == history, "submitted twice it is done once"
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["method"], result["version"]) == ("adopt", version)
