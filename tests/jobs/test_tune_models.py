"""The tuning job from its command line: what it leaves, and that a killed one goes on without a finished trial run twice."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from cryptoml.data.storage import open_storage
from cryptoml.training.study_storage import INTERRUPTED
from jobs import train_ensemble
from jobs.command_line import run
from jobs.tune_models import TuneArguments, main
from tests.jobs.processes import start, wait_for
from tests.tiny import SETTINGS

SWEEP = {"num_trials": 3, "max_epochs": 1, "num_folds": 2, "pruner": "none", "space": {"search": ["learning_rate", "dropout"]}}


def flags(folder: Path, out: str | None = None, **sweep: object) -> list[str]:
    settings = folder / "tiny.yaml"
    changes = {"shuffled_label_run": False, "members": SETTINGS["members"][1:], "sweep": SWEEP | sweep}
    settings.write_text(yaml.safe_dump(SETTINGS | changes))
    return ["--data", "synthetic", "--preset", "debug", "--config", str(settings), "--out", out or str(folder / "out")]


def job(*arguments: str, engine: str = "local") -> int:
    return run(main, TuneArguments, [*arguments, "--engine", engine])


def stored(folder: Path) -> list[FrozenTrial]:
    place = folder / "out" / "sweep" / "study.db"
    with closing(sqlite3.connect(place)) as database:  # to open a storage is to make its tables, which the job may be doing
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
        if "alembic_version" not in tables or not database.execute("select count(*) from alembic_version").fetchone()[0]:
            return []
    storage = f"sqlite:///{place}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def finished(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state.is_finished() and trial.user_attrs.get("reason") != INTERRUPTED]


class TestOutputs:
    def test_study_table_and_page_and_the_next_job_uses_the_best(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert job(*flags(tmp_path)) == 0
        shown = capsys.readouterr().out
        assert "3 complete" in shown
        assert "learning_rate" in shown
        place = tmp_path / "out" / "sweep"
        assert {"study.db", "trials.parquet", "sweep.html", "tensorboard", "arrays"} == {path.name for path in place.iterdir()}
        table = pd.read_parquet(place / "trials.parquet")
        result = json.loads((tmp_path / "out" / "result.json").read_text())
        best = table.loc[table["loss"].idxmin()]
        assert result["job"] == "tune_models"
        assert result["best"]["learning_rate"] == pytest.approx(best["parameter_learning_rate"])

        before = stored(tmp_path)
        assert run(train_ensemble.main, train_ensemble.TrainArguments, [*flags(tmp_path), "--engine", "local"]) == 0
        assert stored(tmp_path) == before
        assert (tmp_path / "out" / "bundle").is_dir()

    def test_again_discards_the_earlier_search(self, tmp_path: Path) -> None:
        assert job(*flags(tmp_path)) == 0
        before = {trial.datetime_start for trial in stored(tmp_path)}
        assert job(*flags(tmp_path)) == 0
        assert {trial.datetime_start for trial in stored(tmp_path)} == before
        assert job(*flags(tmp_path), "--again") == 0
        after = {trial.datetime_start for trial in stored(tmp_path)}
        assert len(after) == 3
        assert min(after) > max(before)

    def test_several_objectives_of_trading(self, tmp_path: Path) -> None:
        assert job(*flags(tmp_path, num_trials=2, objectives=["sharpe", "drawdown"])) == 0
        assert all(len(trial.values) == 2 and trial.values[1] >= 0 for trial in stored(tmp_path))
        assert "Pareto front" in (tmp_path / "out" / "sweep" / "sweep.html").read_text()


class TestBadInput:
    @pytest.mark.parametrize(
        ("sweep", "arguments", "message"),
        [
            ({"num_trials": 0}, [], "sweep.num_trials must be at least 1, was 0"),
            ({"space": {"search": ["colour"]}}, [], "search must be among"),
            ({"space": {"search": []}}, [], "sweep.space.search"),
            ({"objectives": ["profit"]}, [], "sweep.objectives"),
            ({"space": {"search": ["lookback"]}}, [], "lookback of the search must be at most 16"),
            ({}, ["--resume"], "resume needs an earlier search"),
            ({}, ["--resume", "--again"], "resume must not be given with again"),
            ({}, ["--study", "sqlite:////dev/null/study.db"], "storage sqlite:////dev/null/study.db cannot be written"),
            ({}, ["--mlflow"], "mlflow needs engine 'ray'"),
        ],
    )
    def test_is_one_line_before_anything_starts(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], sweep: dict, arguments: list[str], message: str
    ) -> None:
        assert job(*flags(tmp_path, **sweep), *arguments) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert message in lines[0]


def complete(folder: Path) -> list[FrozenTrial]:
    if not (folder / "out" / "sweep" / "study.db").exists():
        return []
    try:
        return [trial for trial in stored(folder) if trial.state == TrialState.COMPLETE]
    except (ValueError, KeyError, optuna.exceptions.StorageInternalError):
        return []  # the study is being made


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestGoingOn:
    @pytest.mark.parametrize(
        ("engine", "how"), [("local", signal.SIGKILL), ("local", signal.SIGINT), ("ray", signal.SIGKILL), ("ray", signal.SIGINT)]
    )
    def test_runs_no_finished_trial_again(
        self, tmp_path: Path, environment: dict[str, str], engine: str, how: signal.Signals
    ) -> None:
        arguments = flags(tmp_path, num_trials=8)
        first = start("tune_models", environment, *arguments, "--engine", engine)
        wait_for(lambda: len(complete(tmp_path)) >= 2, first)
        os.killpg(first.pid, how)
        _, err = first.communicate(timeout=60)
        assert first.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), err
        before = {trial.number: trial.datetime_complete for trial in finished(stored(tmp_path))}

        assert job(*arguments, "--resume") == 0
        after = finished(stored(tmp_path))
        assert len(after) == 8
        assert before.items() <= {trial.number: trial.datetime_complete for trial in after}.items()
        assert len({tuple(trial.params.items()) for trial in after}) == 8
        if how == signal.SIGINT:
            assert err.splitlines()[-1] == "interrupted; run the same command again to go on"
            assert "Traceback" not in err
            assert (tmp_path / "out" / "sweep" / "sweep.html").exists()

    def test_a_crashed_one_on_s3_goes_on_elsewhere(
        self, tmp_path: Path, environment: dict[str, str], s3_address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, here = s3_address.format("run"), tmp_path / "here"
        here.mkdir()
        (tmp_path / "out" / "sweep").mkdir(parents=True)
        copy, remote = tmp_path / "out" / "sweep" / "study.db", open_storage(out)

        def backed_up() -> bool:
            if remote.exists("sweep/study.db"):
                remote.download("sweep/study.db", copy)
            return len(complete(tmp_path)) >= 1

        first = start(
            "tune_models", environment | {"TMPDIR": str(here)}, *flags(tmp_path, out, num_trials=8), "--engine", "local"
        )
        wait_for(backed_up, first)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        before = {trial.number: trial.datetime_complete for trial in complete(tmp_path)}

        monkeypatch.setattr("cryptoml.data.run_folder.tempfile.gettempdir", lambda: str(tmp_path / "elsewhere"))
        assert job(*flags(tmp_path, out, num_trials=8), "--resume") == 0
        remote.download("sweep/study.db", copy)
        after = finished(stored(tmp_path))
        assert len(after) == 8
        assert before.items() <= {trial.number: trial.datetime_complete for trial in after}.items()
