"""The jobs on one experiment: each does its stage in the shared folder, and nothing is done twice."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from cryptoml import pipeline
from cryptoml.errors import ConfigError
from cryptoml.models.bundle import load_bundle
from cryptoml.pipeline import Stages
from cryptoml.training.worker_config import WorkerConfig
from jobs import evaluate_ensemble, run_pipeline, train_ensemble
from jobs.command_line import run
from jobs.experiment import ExperimentArguments
from tests.tiny import SETTINGS

JOBS = {
    "train": (train_ensemble.main, train_ensemble.TrainArguments),
    "evaluate": (evaluate_ensemble.evaluate_ensemble, run_pipeline.PipelineArguments),
    "run": (run_pipeline.main, run_pipeline.PipelineArguments),
}


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    settings = tmp_path / "tiny.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS | {"sweep": {"num_trials": 0}, "shuffled_label_run": False}))
    return ["--data", "synthetic", "--preset", "debug", "--config", str(settings), "--engine", "local"]


def job(name: str, *flags: str) -> int:
    main, arguments = JOBS[name]
    return run(main, arguments, flags)


@pytest.mark.parametrize("name", JOBS)
def test_help_names_what_the_jobs_share(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        job(name, "--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in ("--data", "--out", "--folds", "--seeds", "--storage", "--again"))


def test_training_leaves_its_fits_to_the_evaluation(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    flags += ["--out", str(out), "--seeds", "2"]
    assert job("train", *flags) == 0
    assert "tcn" in capsys.readouterr().out
    assert load_bundle(out / "bundle").metrics["validation_loss"].keys() == {"tft", "tcn"}
    left = result(tmp_path)
    assert (left["job"], left["status"], set(left["members"])) == ("train_ensemble", "done", {"tft", "tcn"})

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "Stages", lambda: Stages(features=never, fit=never))
        assert job("evaluate", *flags) == 0
    report = json.loads((out / "report.json").read_text())
    assert {"ensemble_seed_1", "member_tft"} <= set(report["baselines"])
    table = pd.read_parquet(out / "predictions.parquet")

    assert job("run", *flags) == 0
    assert "is complete" in capsys.readouterr().out
    assert job("run", *flags, "--again") == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out / "predictions.parquet"), table)


def test_a_failure_replaces_the_result_and_does_not_undo_the_run(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags += ["--out", str(tmp_path / "out")]
    assert job("run", *flags) == 0
    done = result(tmp_path)
    assert (done["status"], done["exit_code"], done["complete"]) == ("done", 0, True)

    for _ in range(2):
        assert job("train", *flags, "--train-end", "1999-01-01") == 2
        failed = result(tmp_path)
        assert (failed["job"], failed["status"], failed["exit_code"]) == ("train_ensemble", "failed", 2)
        assert failed["error"] in capsys.readouterr().err
        assert "complete" not in failed

    assert job("run", *flags) == 0
    assert "is complete" in capsys.readouterr().out
    assert result(tmp_path) == done


def test_a_run_that_has_begun_replaces_the_result(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags += ["--out", str(tmp_path / "out")]
    assert job("run", *flags) == 0

    def killed(*_: object) -> None:
        assert result(tmp_path)["status"] == "running"
        raise SystemExit(15)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "Stages", lambda: Stages(features=killed))
        with pytest.raises(SystemExit):
            job("run", *flags, "--seed", "3")
    assert (result(tmp_path)["status"], result(tmp_path)["exit_code"]) == ("interrupted", 130)
    assert "earlier" not in result(tmp_path), "its outputs may have been overwritten"


def test_a_run_that_holds_the_folder_keeps_its_result(flags: list[str], tmp_path: Path) -> None:
    from cryptoml.data.run_folder import RunFolder

    with RunFolder(tmp_path / "out", "another") as held:
        held.record(job="run_pipeline", status="running")
        before = result(tmp_path)
        assert job("run", *flags, "--out", str(tmp_path / "out")) == 2
        assert result(tmp_path) == before


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "result.json").read_text())


def never(*_: object) -> None:
    raise AssertionError("an earlier job has done this")


def test_a_run_on_s3_leaves_all_its_outputs_there(flags: list[str], s3_address: str) -> None:
    from cryptoml.data.storage import open_storage

    out = s3_address.format("run")
    assert job("run", *flags, "--out", out) == 0
    found = open_storage(out).list_files(recursive=True)
    assert {"predictions.parquet", "report.html", "report.json", "result.json", "bundle/bundle.json"} <= set(found)
    curves = {name.split("/")[2] for name in found if name.startswith("tensorboard/fold_")}
    assert {"tft", "tcn"} <= curves


def test_symbols_of_the_built_in_market_cannot_be_chosen(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("run", *flags, "--out", str(tmp_path / "out"), "--symbols", "BTC/USDT") == 2
    assert "symbols" in capsys.readouterr().err


def test_flags_change_the_experiment() -> None:
    config = ExperimentArguments(data="synthetic", out="x", folds=3, seeds=2, seed=5, timeframe="4h").experiment()
    assert (config.walk_forward.num_folds, config.num_seeds, config.seed, config.timeframe) == (3, 2, 5, "4h")


def test_flags_ask_for_workers_and_impossible_ones_are_named(tmp_path: Path) -> None:
    arguments = ExperimentArguments("synthetic", str(tmp_path), num_workers=2, gpus=1.0, cpus=4.0, max_concurrent=3)
    assert arguments.experiment().workers == WorkerConfig(num_workers=2, gpus=1.0, cpus=4.0, max_concurrent=3)
    assert ExperimentArguments("synthetic", str(tmp_path)).experiment().workers == WorkerConfig()
    with pytest.raises(ConfigError, match=r"setting workers: .*gpus must be at least 1 where num_workers is 2"):
        ExperimentArguments("synthetic", str(tmp_path), num_workers=2, gpus=0.5).experiment()
