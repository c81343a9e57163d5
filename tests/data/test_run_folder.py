"""The folder of a run: finished stages are reused, half-done ones are not, and outputs appear whole."""

from pathlib import Path

import pytest

from cryptoml.data.run_folder import RunFolder, publish_file
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
        write(RunFolder(tmp_path, KEY).scratch("fold_1"))
        assert (RunFolder(tmp_path, KEY).scratch("fold_1") / "result.txt").exists()

    def test_finish_leaves_the_outputs_alone(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "out", KEY)
        run.stage("features", write)
        write(run.out)
        run.finish()
        assert [path.name for path in run.out.iterdir()] == ["result.txt"]


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
