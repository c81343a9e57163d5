"""A real cluster of two CPUs and one logical GPU for the tests of each module, and a small fold."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from cryptoml.training.member import FittedMember, FoldData, MemberTask, fit_member
from tests.distributed.market import small_fold, small_task


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Path]:
    """Its session folder; the path is short, as sockets need."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("RAY_ADDRESS", raising=False)
        patched.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=1,
            object_store_memory=1 << 30,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield Path(folder)
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The workers of the cluster compute with one thread each; sums come out the same only with as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Undo what a shell does to commands in its background, this process maybe: they ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def fold() -> FoldData:
    return small_fold()


@pytest.fixture(scope="module")
def long_fold() -> FoldData:
    """A fold whose epochs take some tenths of a second: time to break things."""
    return small_fold(num_bars=4000)


@pytest.fixture(scope="module")
def long_task(long_fold: FoldData) -> MemberTask:
    return small_task(long_fold, "long", max_epochs=20)


@pytest.fixture(scope="module")
def undisturbed(long_fold: FoldData, long_task: MemberTask) -> FittedMember:
    return fit_member(long_fold, long_task)
