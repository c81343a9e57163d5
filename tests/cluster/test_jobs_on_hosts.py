"""The stages as jobs of their own on three hosts without a shared disk: each finds on S3 what the ones before it left."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from cryptoml.data.synthetic import MarketConfig, synthetic_market
from tests.cluster.hosts import missing
from tests.cluster.ray_hosts import Cluster, cluster_of_hosts
from tests.tiny import SETTINGS

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900), pytest.mark.skipif(bool(missing()), reason=missing() or "")]

JOBS = ("ingest_data", "build_features", "tune_models", "train_ensemble", "evaluate_ensemble", "update_models")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, dict[str, float], Path]]:
    """The cluster after all jobs, the seconds of each, and a copy of what lies on S3."""
    with cluster_of_hosts() as cluster:
        write_inputs(cluster.head.path("/tmp"))
        seconds = {job: cluster.submit(job, job, *flags(cluster, job)).wait() for job in JOBS}
        yield cluster, seconds, cluster.fetch("", tmp_path_factory.mktemp("bucket"))


def write_inputs(folder: Path) -> None:
    """Write candles and settings where the drivers run."""
    (folder / "candles").mkdir()
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=1500, with_tables=False)).panel
    for symbol in panel.symbols:
        panel.frame(symbol).to_csv(folder / "candles" / f"{symbol}-1h.csv", index=False)
    settings = SETTINGS | {"adaptation": {"rehearsals": 0}, "shuffled_label_run": False}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))


def flags(cluster: Cluster, job: str) -> list[str]:
    """Return the command line of a job."""
    lake, run = cluster.s3("lake"), cluster.s3("run")
    experiment = ["--data", lake, "--preset", "debug", "--config", "/tmp/tiny.yaml", "--storage", cluster.s3("work")]
    return {
        "ingest_data": ["--lake", lake, "--files", "/tmp/candles", "--timeframe", "1h"],
        "build_features": ["--lake", lake, "--out", cluster.s3("features"), "--timeframe", "1h", "--categories", "price", "time"],
        "update_models": [
            "--registry",
            cluster.s3("registry"),
            "--adopt",
            cluster.s3("run/bundle"),
            "--out",
            cluster.s3("update"),
            *experiment,
        ],
    }.get(job, [*experiment, "--out", run])


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_every_job_ends_well(done: tuple[Cluster, dict[str, float], Path], told: Any) -> None:
    cluster, seconds, _ = done
    assert {job: cluster.status(job) for job in JOBS} == dict.fromkeys(JOBS, "SUCCEEDED")
    total = sum(seconds.values())
    told("none, the stages as six jobs", total, total, ", ".join(f"{job} {taken:.0f} s" for job, taken in seconds.items()))


def test_each_stage_leaves_its_part_on_s3(done: tuple[Cluster, dict[str, float], Path]) -> None:
    cluster, _, bucket = done
    assert result(bucket / "features")["complete"]
    assert len(pd.read_parquet(bucket / "run/sweep/trials.parquet")) == SETTINGS["sweep"]["num_trials"]
    assert result(bucket / "run")["job"] == "evaluate_ensemble"
    assert len(pd.read_parquet(bucket / "run/predictions.parquet")) > 0
    assert "ensemble" in json.loads((bucket / "run/report.json").read_text())
    update = result(bucket / "update")
    assert update["method"] == "adopt"
    assert [path.parent.name for path in (bucket / "registry").rglob("bundle.json")] == [update["champion"]]
    assert cluster.damaged() == []


def test_no_stage_does_the_work_of_another_again(done: tuple[Cluster, dict[str, float], Path]) -> None:
    cluster, _, bucket = done
    logs = {job: cluster.driver_log(job) for job in JOBS}
    assert "INFO member tft: " in logs["train_ensemble"]
    assert "INFO member " not in logs["evaluate_ensemble"]
    assert not [path for path in bucket.glob("work/**/*") if path.is_file()], "intermediate files remain"


def test_submitted_twice_the_jobs_do_nothing_more(done: tuple[Cluster, dict[str, float], Path], tmp_path: Path) -> None:
    cluster, _, bucket = done
    for job in JOBS:
        cluster.submit(f"{job}-again", job, *flags(cluster, job)).wait()
    again = cluster.fetch("", tmp_path)
    once, twice = kept(bucket), kept(again)
    assert once.keys() == twice.keys()
    assert [name for name, content in once.items() if twice[name] != content] == [], "something was done again"
    statuses = pd.concat(map(pd.read_csv, again.glob("features/**/_status.csv")))
    assert set(statuses["outcome"]) == {"kept"}


def kept(folder: Path) -> dict[str, bytes]:
    """Return the content of all files but those that tell of a job's own course."""
    own = ("result.json", "_manifest.json", "_status.csv")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "/health/" not in name and not name.endswith(own)}
