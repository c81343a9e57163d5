"""Break hosts, network, storage and drivers while jobs run: they end with the same features, trials and metrics.

Each fault meets one submission of the whole pipeline on three hosts without a shared disk; `make chaos` runs them and prints
what each one cost.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from cryptoml.data.synthetic import MarketConfig, synthetic_market
from tests.cluster.hosts import REPOSITORY, Host, missing
from tests.cluster.ray_hosts import Cluster, Job, cluster_of_hosts, wait_until
from tests.tiny import SETTINGS

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing() or "")]

CHANGES = {
    "training": {"max_epochs": 4, "chunk_bars": 128, "batch_size": 8},
    "market": {"num_assets": 4, "num_bars": 1500},
    "adaptation": {"rehearsals": 0},
    "workers": {"keep_checkpoints": True},  # and features, to compare them
}
SEED_NOISE = {"accuracy": 0.037, "auc": 0.053}
"""Standard deviations over five seeds of this experiment."""
Tell = Callable[..., None]


@dataclass(frozen=True)
class Result:
    """What a run left: seconds, report, forecasts, trials, and the files of features by name."""

    seconds: float
    report: dict[str, Any]
    predictions: pd.DataFrame
    trials: pd.DataFrame
    features: dict[str, bytes]

    @property
    def figures(self) -> dict[str, float]:
        return {name: self.report["ensemble"]["direction"][name]["value"] for name in SEED_NOISE}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of_hosts() as found:
        yield found


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    """Bring back what a test has broken."""
    yield
    for worker in cluster.workers:
        if not worker.pid:
            cluster.reboot(worker)
        worker.heal()
        worker.free_disk()
    cluster.wait_for_nodes(3)
    assert cluster.damaged() == [], "something half-written was visible"


def start(cluster: Cluster, name: str, out: str = "") -> Job:
    """Submit the whole pipeline."""
    settings = SETTINGS | {name: {**SETTINGS.get(name, {}), **change} for name, change in CHANGES.items()}
    settings["shuffled_label_run"] = False
    cluster.head.path("/tmp/tiny.yaml").write_text(yaml.safe_dump(settings))
    place = out or name
    addresses = ["--out", cluster.s3(f"runs/{place}"), "--storage", cluster.s3(f"work/{place}")]
    flags = ["--data", "synthetic", "--preset", "debug", "--config", "/tmp/tiny.yaml", *addresses]
    return cluster.submit(name, "run_pipeline", *flags)


def finish(cluster: Cluster, job: Job, folder: Path, out: str = "") -> Result:
    """Wait for a run, and fetch what it left."""
    seconds, place = job.wait(), out or job.name
    run = cluster.fetch(f"runs/{place}", folder / "run")
    assert json.loads((run / "result.json").read_text())["complete"]
    assert not [path for path in run.glob(".work/**/*") if path.is_file()], "intermediate files remain"
    return Result(
        seconds,
        json.loads((run / "report.json").read_text()),
        pd.read_parquet(run / "predictions.parquet"),
        pd.read_parquet(run / "sweep" / "trials.parquet"),
        parquet_files(cluster.fetch(f"work/{place}", folder / "work")),
    )


def parquet_files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of candles and features below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run without a fault."""
    return finish(cluster, start(cluster, "undisturbed"), tmp_path_factory.mktemp("undisturbed"))


def differences(found: Result, wanted: Result) -> list[str]:
    """Say in what a run differs from the undisturbed one: features bit by bit, trials, bars, metrics beyond seed noise."""
    keys = ["symbol", "timestamp"]
    same = {
        "features": found.features == wanted.features,
        "trials": {*wanted.trials["number"]} <= {*found.trials["number"]},
        "forecast bars": found.predictions[keys].equals(wanted.predictions[keys]),
    }
    same |= {name: abs(found.figures[name] - value) <= SEED_NOISE[name] for name, value in wanted.figures.items()}
    return [name for name, equal in same.items() if not equal]


def metrics(found: Result, wanted: Result) -> str:
    """Return the metrics of a run for the table."""
    return "equal" if found.figures == wanted.figures else f"{found.figures} against {wanted.figures}"


def busy(cluster: Cluster, title: str) -> Host | None:
    """Return a worker host that does work of that title."""
    return next((worker for worker in cluster.workers if worker.processes(title)), None)


def wait_for_work(cluster: Cluster, title: str) -> Host:
    """Wait until a worker host does work of that title, and return it."""
    wait_until(lambda: busy(cluster, title), 240, f"work on {title}")
    host = busy(cluster, title)
    return host or cluster.workers[0]


@pytest.fixture(scope="module")
def lake(cluster: Cluster) -> str:
    """A lake on S3, brought in by a job from files on the driver's host."""
    folder = cluster.head.path("/tmp/candles")
    folder.mkdir()
    panel = synthetic_market(MarketConfig(num_assets=4, num_bars=20_000, with_tables=False)).panel
    for symbol in panel.symbols:
        panel.frame(symbol).to_csv(folder / f"{symbol}-1h.csv", index=False)
    cluster.submit("ingest", "ingest_data", "--lake", cluster.s3("lake"), "--files", "/tmp/candles", "--timeframe", "1h").wait()
    return cluster.s3("lake")


def test_same_features_bit_by_bit_after_a_worker_host_is_lost(cluster: Cluster, lake: str, tmp_path: Path, told: Tell) -> None:
    seconds, folders = [], []
    for name in ("plain", "broken"):
        flags = ["--lake", lake, "--out", cluster.s3(name), "--timeframe", "1h", "--chunk-bars", "2500"]
        job = cluster.submit(f"features-{name}", "build_features", *flags)
        if name == "broken":
            wait_for_work(cluster, "ray::FlatMap").lose_power()
        seconds.append(job.wait())
        folders.append(tmp_path / name)
        cluster.fetch(name, folders[-1])
    wanted, found = map(parquet_files, folders)
    assert len(wanted) >= 32
    assert found == wanted
    told("worker host lost, features bit by bit", seconds[1], seconds[0], "equal")


def test_whole_pipeline_on_three_hosts(cluster: Cluster, undisturbed: Result, told: Tell) -> None:
    assert cluster.status("undisturbed") == "SUCCEEDED"
    assert len(undisturbed.predictions) > 0
    assert len(undisturbed.features) >= 8
    told("none", undisturbed.seconds, undisturbed.seconds, str(undisturbed.figures))


@pytest.mark.parametrize(
    ("stage", "title"), [("features", "ray::FlatMap"), ("sweep", "ray::ImplicitFunc"), ("training", "ray::member")]
)
def test_worker_host_lost(cluster: Cluster, undisturbed: Result, tmp_path: Path, told: Tell, stage: str, title: str) -> None:
    job = start(cluster, f"lost-during-{stage}")
    wait_for_work(cluster, title).lose_power()
    found = finish(cluster, job, tmp_path)
    told(f"worker host lost during {stage}", found.seconds, undisturbed.seconds, metrics(found, undisturbed))
    assert differences(found, undisturbed) == []


def test_worker_host_lost_during_evaluation(cluster: Cluster, undisturbed: Result, tmp_path: Path, told: Tell) -> None:
    job = start(cluster, "lost-during-evaluation")
    wait_until(lambda: job.driver_log.count(" INFO member ") >= 2, 240, "the fits")
    cluster.workers[0].lose_power()
    found = finish(cluster, job, tmp_path)
    told("worker host lost during evaluation", found.seconds, undisturbed.seconds, metrics(found, undisturbed))
    assert differences(found, undisturbed) == []


def test_worker_host_cut_off_for_a_minute(cluster: Cluster, undisturbed: Result, tmp_path: Path, told: Tell) -> None:
    job = start(cluster, "cut-off")
    host = wait_for_work(cluster, "ray::FlatMap")
    host.cut()
    wait_until(lambda: cluster.alive_nodes() == 2, 60, "the head giving the host up")
    job.last(60)
    host.heal()
    found = finish(cluster, job, tmp_path)
    cluster.wait_for_nodes(3)
    told("worker host cut off for 60 s", found.seconds, undisturbed.seconds, metrics(found, undisturbed))
    assert differences(found, undisturbed) == []


def test_driver_killed_and_submitted_again(cluster: Cluster, undisturbed: Result, tmp_path: Path, told: Tell) -> None:
    first = start(cluster, "killed-driver")
    wait_for_work(cluster, "ray::member")
    for process in cluster.head.processes("python -m jobs.run_pipeline"):
        os.kill(process, signal.SIGKILL)
    first.process.wait(timeout=120)
    assert cluster.status("killed-driver") == "FAILED"
    again = start(cluster, "second-driver", out="killed-driver")
    again.started = first.started
    found = finish(cluster, again, tmp_path, out="killed-driver")
    told("driver killed, job submitted again", found.seconds, undisturbed.seconds, metrics(found, undisturbed))
    assert differences(found, undisturbed) == []


def test_storage_answers_503_for_20_seconds(cluster: Cluster, undisturbed: Result, tmp_path: Path, told: Tell) -> None:
    job = start(cluster, "overloaded-storage")
    wait_for_work(cluster, "ray::FlatMap")
    cluster.fail_s3(True)
    job.last(20)
    cluster.fail_s3(False)
    found = finish(cluster, job, tmp_path)
    told("S3 answers 503 for 20 s", found.seconds, undisturbed.seconds, metrics(found, undisturbed))
    assert differences(found, undisturbed) == []


def test_worker_disk_full(cluster: Cluster, undisturbed: Result, tmp_path: Path, told: Tell) -> None:
    job = start(cluster, "full-disk")
    wait_for_work(cluster, "ray::FlatMap").fill_disk()
    found = finish(cluster, job, tmp_path)
    told("a worker's disk is full", found.seconds, undisturbed.seconds, metrics(found, undisturbed))
    assert differences(found, undisturbed) == []


def test_worker_disk_full_before_the_job_is_told_at_once(cluster: Cluster) -> None:
    """Ray cannot unpack the job's code there, and would fail every task that it gives to the host."""
    cluster.workers[0].fill_disk()
    job = start(cluster, "disk-full-before")
    assert job.process.wait(timeout=180) != 0
    assert f"error: node {cluster.workers[0].address} cannot set up this job's code: " in job.log
    assert "No space left on device; free its disk or take it out, and submit again" in job.log


CLIENT = """
import sys, time, urllib.request
addresses, until = sys.argv[2:], time.time() + float(sys.argv[1])
good = bad = place = 0
while time.time() < until:
    try:
        with urllib.request.urlopen(addresses[place % len(addresses)] + "/readyz", timeout=5) as answer:
            good += answer.status == 200
    except OSError as error:
        bad += 1
        print(f"{time.time():.1f} {error}", flush=True)
    place += 1
    time.sleep(0.1)
print(good, bad)
"""
OUTAGE = 15.0


def test_head_restarted_while_the_model_answers(cluster: Cluster, undisturbed: Result, tmp_path: Path, told: Tell) -> None:
    cluster.fetch("runs/undisturbed/bundle", tmp_path)
    for host in (cluster.head, *cluster.workers):
        shutil.copytree(tmp_path, host.path("/tmp/bundle"), dirs_exist_ok=True)
    deploy(cluster)
    addresses = [f"http://{worker.address}:8000" for worker in cluster.workers]
    client = cluster.store.spawn(["python", "-c", CLIENT, "75", *addresses], {}, "/tmp/client.log")
    time.sleep(5)
    cluster.head.crash()
    time.sleep(OUTAGE)
    begun = time.monotonic()
    cluster.head.start()
    cluster.start_head()
    cluster.wait_for_nodes(3)
    back = time.monotonic() - begun
    client.wait(timeout=120)
    log = cluster.store.path("/tmp/client.log").read_text()
    good, bad = map(int, log.splitlines()[-1].split())
    told(f"head down for {OUTAGE:.0f} s and restarted", OUTAGE + back, 0.0, f"{good} requests answered, {bad} not")
    assert good > 100
    assert bad == 0, log[-2000:]


def deploy(cluster: Cluster) -> None:
    """Serve the bundle with an ingress on each worker host, and wait until both proxies answer."""
    light = {"ray_actor_options": {"num_cpus": 0.2}}
    twice = {"num_replicas": 2, "max_replicas_per_node": 1}
    application = {
        "name": "cryptoml",
        "import_path": "serve.app:build",
        "args": {"bundle": "/tmp/bundle", "state": "/tmp/serving"},
        "runtime_env": {"env_vars": {"PYTHONPATH": str(REPOSITORY)}},
        "deployments": [
            {"name": "Ingress", **twice, **light},
            *({"name": name, **light} for name in ("Features", "Member0", "Member1", "Adapter")),
        ],
    }
    config = {"http_options": {"host": "0.0.0.0", "port": 8000}, "proxy_location": "EveryNode", "applications": [application]}
    cluster.head.path("/tmp/serve.yaml").write_text(yaml.safe_dump(config))
    variables = cluster.environment | {"RAY_DASHBOARD_ADDRESS": cluster.dashboard}
    done = cluster.head.run(["serve", "deploy", "/tmp/serve.yaml", "-a", cluster.dashboard], variables)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: all(answers(cluster, worker) for worker in cluster.workers), 240, "both proxies answering")


def answers(cluster: Cluster, worker: Host) -> bool:
    probe = f"import urllib.request as r;r.urlopen('http://{worker.address}:8000/readyz',timeout=3)"
    return cluster.store.run(["python", "-c", probe], {}).returncode == 0
