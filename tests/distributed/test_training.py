"""Members on Ray Train: the plain fit's results, side by side, whatever happens to processes, disks and drivers."""

import logging
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from cryptoml.data.storage import open_storage
from cryptoml.distributed import training
from cryptoml.distributed.training import WorkerConfig, fit_members, run_names
from cryptoml.errors import ConfigError, CryptomlError, DataError
from cryptoml.training.member import FittedMember, FoldData, MemberTask, fit_member
from tests.conftest import REPOSITORY
from tests.distributed.faults import batches_in, epochs_in, kill, once, processes, wait_for
from tests.distributed.market import assert_same, small_fold, small_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_cluster", "one_thread", "ctrl_c")]


def with_infinite(data: FoldData) -> FoldData:
    features = data.features.copy()
    features[:, 100] = np.inf
    return replace(data, features=features)


def side_by_side(folder: Path) -> bool:
    """Tell whether all runs had been started before the first was finished; the driver leaves a file at each start."""
    started, finished = (
        [path.stat().st_mtime_ns for path in folder.glob(f"*/{name}")] for name in ("run.txt", "fitted.safetensors")
    )
    return max(started) < min(finished)


class TestResult:
    def test_is_that_of_the_plain_fits_in_order(self, tmp_path: Path, fold: FoldData) -> None:
        tasks = [small_task(fold), small_task(fold, "linear", seed=1, architecture="linear"), small_task(fold, "prices", seed=2)]
        found = fit_members(fold, tasks, str(tmp_path))
        assert [member.name for member in found] == ["tcn", "linear", "prices"]
        for member, task in zip(found, tasks, strict=True):
            assert_same(member, fit_member(fold, task))

    def test_respects_a_members_feature_groups(self, tmp_path: Path, fold: FoldData) -> None:
        task = small_task(fold, feature_groups=("price",))
        assert task.forecaster.columns == (0,)
        assert_same(fit_members(fold, [task], str(tmp_path))[0], fit_member(fold, task))

    def test_is_read_back_by_the_same_submission(self, tmp_path: Path, fold: FoldData) -> None:
        first = fit_members(fold, [small_task(fold)], str(tmp_path))[0]
        started = time.perf_counter()
        again = fit_members(fold, [small_task(fold)], str(tmp_path))[0]
        assert time.perf_counter() - started < 1.0
        assert_same(again, first)
        assert again.history == first.history

    def test_tells_the_caller_each_epoch_once_while_it_trains(self, tmp_path: Path, long_fold: FoldData) -> None:
        tasks = [small_task(long_fold, name, seed=seed, max_epochs=6) for seed, name in enumerate("abc")]
        heard: dict[str, list[tuple[int, float]]] = {task.name: [] for task in tasks}
        trained_on: list[bool] = []

        def hear(name: str, epoch: int, row: Mapping[str, float]) -> None:
            heard[name].append((epoch, row["val_loss"]))
            trained_on.append(not list(tmp_path.glob("*/fitted.safetensors")))

        found = fit_members(long_fold, tasks, str(tmp_path), on_epoch=hear)
        expected = {member.name: list(enumerate(member.history["val_loss"], start=1)) for member in found}
        assert heard == expected
        assert trained_on[0]
        for name in heard:
            heard[name].clear()
        fit_members(long_fold, tasks, str(tmp_path), on_epoch=hear)
        assert heard == expected

    def test_leaves_no_checkpoint_unless_asked(self, tmp_path: Path, fold: FoldData) -> None:
        fit_members(fold, [small_task(fold)], str(tmp_path))
        assert sorted(path.name for path in tmp_path.glob("*/*")) == ["fitted.safetensors", "run.txt"]
        fit_members(fold, [small_task(fold, seed=1)], str(tmp_path), workers=WorkerConfig(keep_checkpoints=True))
        assert len(list(tmp_path.glob("*/last.safetensors"))) == 1

    def test_on_s3_is_the_same(self, fold: FoldData, s3_address: str) -> None:
        task, place = small_task(fold), s3_address.format("runs")
        found = fit_members(fold, [task], place)[0]
        assert_same(found, fit_member(fold, task))
        name = run_names(fold, [task])[0]
        assert open_storage(place).list_files(recursive=True) == [f"{name}/fitted.safetensors", f"{name}/run.txt"]
        assert fit_members(fold, [task], place)[0].history == found.history


class TestSeveralWorkers:
    def test_give_the_result_of_one_with_the_larger_batch(self, tmp_path: Path, fold: FoldData) -> None:
        task = small_task(fold, dropout=0.0)
        found = fit_members(fold, [task], str(tmp_path), workers=WorkerConfig(num_workers=2))[0]
        larger = replace(task, training=task.training.updated(batch_size=2 * task.training.batch_size))
        expected = fit_member(fold, larger)
        for name in expected.weights:
            np.testing.assert_allclose(found.weights[name], expected.weights[name], atol=1e-5, err_msg=name)
        assert found.validation_loss == pytest.approx(expected.validation_loss, abs=1e-5)

    def test_go_on_from_the_last_checkpoint_when_one_is_killed(
        self, tmp_path: Path, long_fold: FoldData, long_task: MemberTask
    ) -> None:
        workers = WorkerConfig(num_workers=2)
        last = tmp_path / run_names(long_fold, [long_task], 2)[0] / "last.safetensors"
        kept: list[float] = []

        def strike() -> None:
            kept.extend(epochs_in(last))
            processes("RayTrainWorker")[0].kill()

        killer = once(lambda: len(epochs_in(last)) >= 2, strike)
        found = fit_members(long_fold, [long_task], str(tmp_path), workers=workers)[0]
        killer.join()
        assert 2 <= len(kept) < 20
        assert found.history["seconds"][: len(kept)] == kept
        undisturbed = fit_members(long_fold, [long_task], str(tmp_path / "again"), workers=workers)[0]
        assert found.validation_loss == pytest.approx(undisturbed.validation_loss, abs=1e-3)

    def test_do_not_try_again_what_the_data_is_to_blame_for(self, tmp_path: Path, ray_cluster: Path, fold: FoldData) -> None:
        with pytest.raises(DataError, match=r"member tcn could not be fitted: .*finite") as caught:
            fit_members(with_infinite(fold), [small_task(fold)], str(tmp_path), workers=WorkerConfig(num_workers=2))
        assert "\n" not in str(caught.value)
        logs = [path.read_text() for path in ray_cluster.rglob("ray-train-app-controller*.log")]
        assert sum("RAISE" in text and "finite" in text for text in logs) == 1
        assert not any("RETRY" in text and "finite" in text for text in logs)

    def test_leave_the_cluster_when_another_member_fails(self, tmp_path: Path, long_fold: FoldData) -> None:
        endless = small_task(long_fold, "endless", max_epochs=10_000)
        stopper = once(lambda: list(tmp_path.glob("endless*/last*")), lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit_members(long_fold, [endless], str(tmp_path), workers=WorkerConfig(num_workers=2))
        stopper.join()
        wait_for(lambda: not processes("RayTrainWorker") and ray.available_resources().get("CPU") == 2.0)


class TestNames:
    def test_differ_wherever_something_differs_that_is_fitted(self, fold: FoldData) -> None:
        task = small_task(fold)
        shifted = replace(fold, features=fold.features + 1)
        variants = [
            run_names(fold, [task])[0],
            run_names(fold, [task], num_workers=2)[0],
            run_names(fold, [small_task(fold, seed=1)])[0],
            run_names(fold, [small_task(fold, max_epochs=3)])[0],
            run_names(fold, [small_task(fold, dropout=0.5)])[0],
            run_names(fold, [replace(task, shuffle_labels=True)])[0],
            run_names(shifted, [task])[0],
        ]
        assert len(set(variants)) == len(variants)
        assert run_names(small_fold(), [small_task(fold)]) == variants[:1]

    def test_do_not_depend_on_bars_that_no_fit_reads(self, fold: FoldData) -> None:
        features = fold.features.copy()
        features[:, fold.fold.validation.stop :] = 0.0
        assert run_names(replace(fold, features=features), [small_task(fold)]) == run_names(fold, [small_task(fold)])


class TestSideBySide:
    def test_one_of_three_members_moves_so_that_two_cores_end_together(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold: FoldData
    ) -> None:
        started: list[tuple[str, int | None]] = []
        start = training._start

        def noted(run: training._Run) -> ray.ObjectRef:
            started.append((run.task.name, run.until))
            return start(run)

        monkeypatch.setattr(training, "_start", noted)
        tasks = [small_task(fold, name, seed=seed, max_epochs=4) for seed, name in enumerate("abc")]
        found = fit_members(fold, tasks, str(tmp_path))
        assert sorted(started, key=str) == [("a", None), ("b", 2), ("b", None), ("c", None)]
        for member, task in zip(found, tasks, strict=True):
            assert_same(member, fit_member(fold, task))

    def test_a_short_one_ends_while_a_long_one_trains(self, tmp_path: Path, long_fold: FoldData) -> None:
        tasks = [small_task(long_fold, "endless", max_epochs=10_000), small_task(long_fold, "short")]
        last, short = (tmp_path / name for name in run_names(long_fold, tasks))
        ended: list[int] = []

        def trains_on() -> bool:
            if not ended and (short / "fitted.safetensors").exists():
                ended.append(len(epochs_in(last / "last.safetensors")))
            return bool(ended) and len(epochs_in(last / "last.safetensors")) > ended[0]

        stopper = once(trains_on, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit_members(long_fold, tasks, str(tmp_path))
        stopper.join()

    def test_one_after_the_other_where_asked(self, tmp_path: Path, fold: FoldData) -> None:
        tasks = [small_task(fold, name) for name in "ab"]
        fit_members(fold, tasks, str(tmp_path), workers=WorkerConfig(max_concurrent=1))
        assert not side_by_side(tmp_path)

    @pytest.mark.parametrize(("gpus", "together"), [(0.5, True), (1.0, False)])
    def test_fractions_share_the_one_gpu(self, tmp_path: Path, fold: FoldData, gpus: float, together: bool) -> None:
        tasks = [small_task(fold, name) for name in "ab"]
        fit_members(fold, tasks, str(tmp_path), workers=WorkerConfig(gpus=gpus))
        assert side_by_side(tmp_path) == together

    def test_the_fold_reaches_workers_without_a_copy(self, tmp_path: Path) -> None:
        small, large = small_fold(num_bars=2000), small_fold(num_bars=20_000, num_features=750)
        megabytes = large.features.nbytes / 1e6
        assert megabytes == 120.0
        base = private_megabytes(small, str(tmp_path / "small"), 2)
        before = ray.available_resources()["object_store_memory"]
        stored: list[float] = []
        watch = once(lambda: processes("member"), lambda: stored.append(object_store_drop(before)))
        found = private_megabytes(large, str(tmp_path / "large"), 2)
        watch.join()
        assert found - base < 0.6 * megabytes
        assert stored[0] < 1.2 * megabytes


def private_megabytes(data: FoldData, folder: str, num_members: int) -> float:
    """Return the largest private memory that a member's process reached."""
    tasks = [small_task(data, f"m{number}", architecture="linear", feature_groups=("time",)) for number in range(num_members)]
    done, peaks = threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.05):
            for process in processes("member"):
                try:
                    peaks.append(process.memory_full_info().uss / 1e6)
                except Exception:  # ended meanwhile
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    fit_members(data, tasks, folder)
    done.set()
    thread.join()
    return max(peaks)


def object_store_drop(before: float) -> float:
    time.sleep(1.5)
    return (before - ray.available_resources()["object_store_memory"]) / 1e6


class TestFaults:
    @pytest.mark.parametrize("place", ["local", "s3"])
    def test_a_killed_worker_goes_on_from_its_last_checkpoint(
        self,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        caplog: pytest.LogCaptureFixture,
        long_fold: FoldData,
        long_task: MemberTask,
        undisturbed: FittedMember,
        place: str,
    ) -> None:
        folder = str(tmp_path) if place == "local" else request.getfixturevalue("s3_address").format("runs")
        storage, name = open_storage(folder), run_names(long_fold, [long_task])[0]
        copy, relative = tmp_path / "copy.safetensors", f"{name}/last.safetensors"

        def two_epochs_done() -> bool:
            if storage.exists(relative):
                copy.write_bytes(storage.read(relative))
            return len(epochs_in(copy)) >= 2

        killer = once(two_epochs_done, lambda: kill("member long"))
        with caplog.at_level(logging.WARNING):
            found = fit_members(long_fold, [long_task], folder)[0]
        killer.join()
        assert "member long goes on from its last checkpoint" in caplog.text
        assert found.validation_loss == pytest.approx(undisturbed.validation_loss, abs=1e-3)
        assert_same(found, undisturbed)
        kept = epochs_in(copy)
        assert 2 <= len(kept) < 20
        assert found.history["seconds"][: len(kept)] == kept

    def test_a_worker_killed_inside_an_epoch_goes_on_there(self, tmp_path: Path, long_fold: FoldData) -> None:
        task = small_task(long_fold, "long", max_epochs=4)
        task = replace(task, training=task.training.updated(checkpoint_steps=1))
        last = tmp_path / run_names(long_fold, [task])[0] / "last.safetensors"
        killer = once(lambda: batches_in(last) > 0, lambda: kill("member long"))
        found = fit_members(long_fold, [task], str(tmp_path))[0]
        killer.join()
        assert_same(found, fit_member(long_fold, task))

    def test_a_worker_that_is_always_killed_ends_the_fit(self, tmp_path: Path, fold: FoldData) -> None:
        task, stop = small_task(fold, "doomed", max_epochs=500), threading.Event()

        def hunt() -> None:
            while not stop.wait(0.1):
                kill("member doomed")

        hunter = threading.Thread(target=hunt)
        hunter.start()
        with pytest.raises(CryptomlError, match=r"member doomed could not be fitted: .*died unexpectedly"):
            fit_members(fold, [task], str(tmp_path), workers=WorkerConfig(max_failures=1))
        stop.set()
        hunter.join()

    def test_what_the_data_is_to_blame_for_is_not_tried_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, fold: FoldData
    ) -> None:
        with pytest.raises(DataError, match=r"member tcn could not be fitted: .*finite") as caught:
            fit_members(with_infinite(fold), [small_task(fold)], str(tmp_path))
        assert "\n" not in str(caught.value)
        assert "goes on" not in caplog.text

    def test_an_error_ends_the_other_members(self, tmp_path: Path, long_fold: FoldData) -> None:
        endless = small_task(long_fold, "endless", max_epochs=10_000)
        bad = small_task(long_fold, "bad")
        bad = replace(bad, forecaster=bad.forecaster.model_copy(update={"horizons": (1, 2, 3)}))
        workers = WorkerConfig(max_failures=0)
        with pytest.raises(CryptomlError, match="member bad"):
            fit_members(long_fold, [endless, bad], str(tmp_path), workers=workers)
        wait_for(lambda: not processes("member endless"))
        wait_for(lambda: ray.available_resources().get("CPU") == 2.0)

    def test_a_killed_driver_is_resumed(
        self, tmp_path: Path, long_fold: FoldData, long_task: MemberTask, undisturbed: FittedMember
    ) -> None:
        script = f"""
            import ray
            from cryptoml.distributed.training import fit_members
            from tests.distributed.market import assert_same, small_fold, small_task
            ray.init(address={ray.get_runtime_context().gcs_address!r}, log_to_driver=False)
            data = small_fold(num_bars=4000)
            fit_members(data, [small_task(data, "long", max_epochs=20)], {str(tmp_path)!r})
        """
        driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=REPOSITORY)
        last = tmp_path / run_names(long_fold, [long_task])[0] / "last.safetensors"
        wait_for(lambda: len(epochs_in(last)) >= 2)
        driver.kill()
        driver.wait()
        kept = epochs_in(last)
        found = fit_members(long_fold, [long_task], str(tmp_path))[0]
        assert_same(found, undisturbed)
        assert found.history["seconds"][: len(kept)] == kept


class TestRefused:
    @pytest.mark.parametrize(
        ("workers", "words"),
        [
            (WorkerConfig(num_workers=5), "num_workers must be at most 2"),
            (WorkerConfig(num_workers=2, gpus=1), "num_workers must be at most 1"),
            (WorkerConfig(cpus=16), "cpus must be at most 2"),
            (WorkerConfig(gpus=3), "gpus must be at most 1"),
        ],
    )
    def test_more_than_the_cluster_can_ever_hold(self, tmp_path: Path, fold: FoldData, workers: WorkerConfig, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            fit_members(fold, [small_task(fold)], str(tmp_path), workers=workers)
        assert not list(tmp_path.glob("*"))

    def test_two_members_of_one_name(self, tmp_path: Path, fold: FoldData) -> None:
        with pytest.raises(ConfigError, match="tasks must have different names"):
            fit_members(fold, [small_task(fold), small_task(fold, seed=1)], str(tmp_path))
