"""The folder of a run: finished stages are reused, half-done ones are not, and outputs appear whole."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from cryptoml.data import run_folder
from cryptoml.data.run_folder import RunFolder, publish_file
from cryptoml.data.storage import open_storage
from cryptoml.errors import ConfigError

KEY, OTHER = "a" * 64, "b" * 64


class Interrupted(BaseException):
    """Stands for Ctrl-C."""


def write(folder: Path) -> None:
    (folder / "result.txt").write_text("whole")


def never(folder: Path) -> None:
    raise AssertionError("a finished stage must not be built again")


def broken(folder: Path) -> None:
    broken_file(folder / "result.txt")


def broken_file(path: Path) -> None:
    path.write_text("half")
    raise Interrupted


class TestStages:
    def test_a_finished_stage_is_not_built_again(self, tmp_path: Path) -> None:
        RunFolder(tmp_path, KEY).stage("features", write)
        again = RunFolder(tmp_path, KEY).stage("features", never)
        assert (again / "result.txt").read_text() == "whole"

    def test_an_interrupted_stage_is_swept_and_built_anew(self, tmp_path: Path) -> None:
        with pytest.raises(Interrupted):
            RunFolder(tmp_path, KEY).stage("features", broken)
        folder = RunFolder(tmp_path, KEY).stage("features", write)
        assert (folder / "result.txt").read_text() == "whole"
        assert [path.name for path in folder.parent.iterdir()] == ["features"]

    def test_a_failed_stage_can_be_tried_again_in_the_same_run(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, KEY)
        with pytest.raises(Interrupted):
            run.stage("features", broken)
        assert (run.stage("features", write) / "result.txt").read_text() == "whole"

    def test_another_key_starts_anew_and_drops_the_old(self, tmp_path: Path) -> None:
        old = RunFolder(tmp_path, KEY).stage("features", write)
        with pytest.raises(Interrupted):
            RunFolder(tmp_path, OTHER).stage("features", broken)
        assert not old.exists()

    def test_scratch_outlives_an_interruption(self, tmp_path: Path) -> None:
        write(Path(RunFolder(tmp_path, KEY).scratch("fold_1")))
        assert (Path(RunFolder(tmp_path, KEY).scratch("fold_1")) / "result.txt").exists()

    def test_finish_leaves_the_outputs_alone(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "out", KEY)
        run.stage("features", write)
        write(run.out)
        run.finish()
        assert [path.name for path in run.out.iterdir()] == ["result.txt"]


class TestResult:
    def test_is_known_for_the_same_key_alone(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, KEY)
        run.record(job="train_ensemble", seconds=1.5)
        assert run.result() is None
        run.record(job="run_pipeline", complete=True)
        assert RunFolder(tmp_path, OTHER).result() is None
        result = RunFolder(tmp_path, KEY).result()
        assert result is not None
        assert result["job"] == "run_pipeline"

    def test_a_run_travels_without_its_lock(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path, KEY) as run:
            pickle.loads(pickle.dumps(run)).stage("features", write)
            assert (run.stage("features", never) / "result.txt").exists()
            with pytest.raises(ConfigError, match="in use by another run"):
                RunFolder(tmp_path, KEY)


class TestRemote:
    """Two machines, each with a copy of its own, share a run on S3."""

    @pytest.fixture
    def move(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        def to(machine: str) -> None:
            monkeypatch.setattr(run_folder.tempfile, "gettempdir", lambda: str(tmp_path / machine))

        return to

    def test_a_stage_is_fetched_where_it_was_not_built(self, s3_address: str, move: Callable[[str], None]) -> None:
        out = s3_address.format("run")
        move("first")
        RunFolder(out, KEY).stage("features", write)
        with pytest.raises(Interrupted):
            RunFolder(out, KEY).stage("sweep", broken)
        move("second")
        again = RunFolder(out, KEY)
        assert (again.stage("features", never) / "result.txt").read_text() == "whole"
        assert (again.stage("sweep", write) / "result.txt").read_text() == "whole"

    def test_outputs_are_uploaded_and_stages_removed(self, s3_address: str, move: Callable[[str], None]) -> None:
        out = s3_address.format("run")
        move("first")
        with RunFolder(out, KEY) as run:
            run.stage("features", write)
            (run.out / "bundle").mkdir()
            write(run.out / "bundle")
            run.upload("bundle")
            run.finish()
            run.record(complete=True)
        storage = open_storage(out)
        assert storage.list_files("", recursive=True) == ["bundle/result.txt", "result.json"]
        assert "k:s@" not in run.address
        move("second")
        assert RunFolder(out, KEY).result() is not None

    def test_an_output_in_the_making_is_backed_up_and_brought_elsewhere(
        self, s3_address: str, move: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = s3_address.format("run")
        move("first")
        run = RunFolder(out, KEY)
        (run.out / "sweep").mkdir()
        (run.out / "sweep" / "study.db").write_text("one trial")
        run.back_up("sweep")
        (run.out / "sweep" / "study.db").write_text("two trials")
        run.back_up("sweep")
        assert open_storage(out).read("sweep/study.db") == b"one trial", "twice a minute at most"
        monkeypatch.setattr(run_folder, "BACK_UP_SECONDS", 0.0)
        run.back_up("sweep")
        move("second")
        again = RunFolder(out, KEY)
        again.bring("sweep")
        study = again.out / "sweep" / "study.db"
        assert study.read_text() == "two trials"
        study.write_text("three trials")
        again.bring("sweep")
        assert study.read_text() == "three trials", "what is newer here stays"

    def test_a_storage_that_fails_does_not_end_the_run(
        self, s3_address: str, move: Callable[[str], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        move("first")
        run = RunFolder(s3_address.format("run"), KEY)
        run._remote = open_storage(s3_address.format("run").replace("@market", "@nowhere"))
        (run.out / "sweep").mkdir()
        write(run.out / "sweep")
        run.back_up("sweep")
        assert "sweep is not backed up for now" in caplog.text

    @pytest.mark.parametrize("remote", [False, True])
    def test_stages_can_be_discarded(self, s3_address: str, tmp_path: Path, move: Callable[[str], None], remote: bool) -> None:
        out = s3_address.format("run") if remote else tmp_path
        move("first")
        run = RunFolder(out, KEY)
        for name in ("features", "fold_1", "fold_2"):
            run.stage(name, write)
        open_storage(run.scratch("fold_2")).publish("checkpoint", b"weights")
        run.discard("fold_")
        move("second")
        again = RunFolder(out, KEY)
        again.stage("features", never)
        assert not open_storage(again.scratch("fold_2")).exists("checkpoint")
        with pytest.raises(AssertionError, match="must not be built again"):
            again.stage("fold_1", never)

    def test_scratch_is_an_address_in_the_same_bucket(self, s3_address: str, move: Callable[[str], None]) -> None:
        move("first")
        place = RunFolder(s3_address.format("run"), KEY).scratch("fold_1")
        open_storage(place).publish("checkpoint", b"weights")
        assert open_storage(s3_address.format("run")).exists(f".work/{KEY[:16]}/fold_1.scratch/checkpoint")


@pytest.mark.parametrize("inside", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"out folder .*file.* cannot be written"):
        RunFolder(tmp_path / inside, KEY)


class TestPublish:
    def test_replaces_whole(self, tmp_path: Path) -> None:
        target = tmp_path / "table.txt"
        target.write_text("old")
        with publish_file(target) as path:
            path.write_text("new")
            assert target.read_text() == "old"
        assert target.read_text() == "new"
        assert list(tmp_path.iterdir()) == [target]

    def test_keeps_the_old_after_an_interruption(self, tmp_path: Path) -> None:
        target = tmp_path / "table.txt"
        target.write_text("old")
        with pytest.raises(Interrupted), publish_file(target) as path:
            broken_file(path)
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]
