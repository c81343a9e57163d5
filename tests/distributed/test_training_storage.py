"""Members on Ray Train whose storage fails: named, and nothing published before is lost."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cryptoml.distributed.training import fit_members, run_names
from cryptoml.errors import ConfigError, DataError
from cryptoml.training.member import FittedMember, FoldData, MemberTask
from tests.distributed.faults import epochs_in, once
from tests.distributed.market import assert_same, small_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_cluster", "one_thread", "ctrl_c")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class TestStorage:
    def test_that_is_full_is_named_and_the_checkpoint_before_stays(
        self, small_disk: Path, long_fold: FoldData, long_task: MemberTask, undisturbed: FittedMember
    ) -> None:
        last = small_disk / run_names(long_fold, [long_task])[0] / "last.safetensors"
        filler = once(lambda: len(epochs_in(last)) >= 2, lambda: fill(small_disk))
        with pytest.raises(DataError, match=r"member long could not be fitted: cannot write .*last\.safetensors: No space left"):
            fit_members(long_fold, [long_task], str(small_disk))
        filler.join()
        kept = epochs_in(last)
        assert len(kept) >= 2
        (small_disk / "filler").unlink()
        found = fit_members(long_fold, [long_task], str(small_disk))[0]
        assert_same(found, undisturbed)
        assert found.history["seconds"][: len(kept)] == kept

    def test_that_becomes_read_only_is_named_and_the_checkpoint_before_stays(
        self, small_disk: Path, long_fold: FoldData, long_task: MemberTask
    ) -> None:
        last = small_disk / run_names(long_fold, [long_task])[0] / "last.safetensors"
        remount = ["mount", "-o", "remount,ro", str(small_disk)]
        locker = once(lambda: len(epochs_in(last)) >= 1, lambda: subprocess.run(remount, check=True))
        with pytest.raises(DataError, match=r"cannot write .*last\.safetensors: Read-only file system"):
            fit_members(long_fold, [long_task], str(small_disk))
        locker.join()
        assert epochs_in(last)
        with pytest.raises(ConfigError, match=r"storage must be a folder that can be written, was .*Read-only"):
            fit_members(long_fold, [long_task], str(small_disk))

    def test_that_cannot_be_written_is_refused_before_anything_starts(self, tmp_path: Path, fold: FoldData) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=r"storage must be a folder that can be written, was .*file"):
            fit_members(fold, [small_task(fold)], str(tmp_path / "file"))

    def test_without_its_bucket_is_refused_before_anything_starts(self, fold: FoldData, s3_address: str) -> None:
        with pytest.raises(ConfigError, match=r"storage must be .*s3://nowhere.*/runs"):
            fit_members(fold, [small_task(fold)], s3_address.format("runs").replace("@market", "@nowhere"))


def fill(disk: Path) -> None:
    """Leave less room than a checkpoint needs."""
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1024)):
            continue
