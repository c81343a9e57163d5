"""The cluster of `make cluster`: its token, its dashboard's place, and jobs that are submitted to it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cluster import submit
from cluster.local import LocalCluster, free_port
from tests.conftest import REPOSITORY
from tests.jobs.test_run_pipeline import candles

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PATIENCE = 30.0
"""Seconds within which a mistake must be told."""
FIRST_JOB = ["-m", "cluster.submit", "ingest_data", "--lake", "lake", "--files", "absent", "--timeframe", "1h"]
JOIN = "from cryptoml.distributed.cluster import cluster\nwith cluster(): pass"


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    base = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    found = LocalCluster(base / f"cryptoml-{os.getuid()}" / "cluster", free_port(), free_port())
    found.start()
    yield found
    found.stop()
    shutil.rmtree(base, ignore_errors=True)


def environment(running: LocalCluster, **changes: str) -> dict[str, str]:
    """Return the variables of a user's shell with changes; an empty text takes one away."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    whole = own | {"HOME": str(running.folder), "OMP_NUM_THREADS": "1"} | running.environment | changes
    return {name: value for name, value in whole.items() if value}


def python(arguments: list[str], variables: Mapping[str, str], seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run Python in the checkout; a mistake must be told in time, with room for the imports of a busy machine."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=dict(variables),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def listening(port: int) -> set[str]:
    """Return the addresses, as the kernel writes them, that a port is bound to."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}


class TestAuthentication:
    def test_dashboard_binds_to_loopback(self, running: LocalCluster) -> None:
        assert listening(running.dashboard_port) == {"0100007F"}

    def test_token_is_its_owners_alone(self, running: LocalCluster) -> None:
        assert (running.folder / "token").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize(("token", "status"), [(None, 401), ("0" * 64, 403)])
    def test_job_submission_is_refused(self, running: LocalCluster, token: str | None, status: int) -> None:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        body = json.dumps({"entrypoint": "touch /tmp/never"}).encode()
        request = urllib.request.Request(f"{running.dashboard}/api/jobs/", data=body, headers=headers, method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=PATIENCE)
        assert refused.value.code == status
        refused.value.close()

    @pytest.mark.parametrize("changes", [{"RAY_AUTH_TOKEN_PATH": ""}, {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "0" * 64}])
    def test_a_submitter_is_told_what_to_do(self, running: LocalCluster, changes: dict[str, str]) -> None:
        found = python(["-m", "cluster.submit", "ingest_data"], environment(running, **changes))
        assert found.returncode == 2
        (line,) = found.stderr.splitlines()
        assert "~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH" in line

    @pytest.mark.parametrize("changes", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}])
    def test_the_clusters_own_submitter_needs_no_variables(self, running: LocalCluster, changes: dict[str, str]) -> None:
        none = dict.fromkeys(running.environment, "")
        variables = environment(running, **(none | {"TMPDIR": str(running.folder.parents[1])} | changes))
        found = python(FIRST_JOB, variables, 180)
        assert "folder with candle files does not exist" in found.stdout
        assert found.returncode == 2

    def test_a_token_that_cannot_be_read(self, running: LocalCluster) -> None:
        found = python(FIRST_JOB, environment(running, RAY_AUTH_TOKEN_PATH="/absent"))
        assert found.returncode == 2
        assert found.stderr == "error: no token can be read from /absent (FileNotFoundError): correct RAY_AUTH_TOKEN_PATH\n"

    @pytest.mark.parametrize("changes", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "0" * 64}])
    def test_a_client_is_refused_and_told_what_to_do(self, running: LocalCluster, changes: dict[str, str]) -> None:
        found = python(["-c", JOIN], environment(running, **changes), 2 * PATIENCE)
        assert found.returncode == 1
        last = found.stderr.strip().splitlines()[-1]
        assert "ConfigError: RAY_ADDRESS" in last
        assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token" in last


class TestMistakes:
    def test_a_job_that_does_not_exist(self, running: LocalCluster) -> None:
        found = python(["-m", "cluster.submit", "no_such_job"], environment(running))
        assert found.returncode == 2
        assert "run_pipeline" in found.stderr
        assert {"ingest_data", "build_features", "tune_models", "train_ensemble", "evaluate_ensemble", "update_models"} < {
            *submit.jobs()
        }

    @pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid:8265", "nonsense"])
    def test_a_dashboard_that_does_not_answer(self, running: LocalCluster, address: str) -> None:
        found = python(["-m", "cluster.submit", "ingest_data"], environment(running, RAY_API_SERVER_ADDRESS=address))
        assert found.returncode == 2
        assert f"RAY_API_SERVER_ADDRESS '{address}' does not answer" in found.stderr
        assert len(found.stderr.splitlines()) == 1

    def test_addresses_that_take_connections_and_keep_silent(self, running: LocalCluster) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            place = f"127.0.0.1:{silent.getsockname()[1]}"
            submitted = python(FIRST_JOB, environment(running, RAY_API_SERVER_ADDRESS=place))
            assert submitted.returncode == 2
            assert f"RAY_API_SERVER_ADDRESS '{place}' does not answer" in submitted.stderr
            for kind in ("", "ray://"):
                joined = python(["-c", JOIN], environment(running, RAY_ADDRESS=f"{kind}{place}"))
                assert "nothing there answers as Ray does (deadline_exceeded)" in joined.stderr

    def test_an_address_of_another_service(self, running: LocalCluster) -> None:
        for address, told in (
            (f"127.0.0.1:{running.dashboard_port}", "nothing there answers as Ray does"),
            (f"ray://127.0.0.1:{running.port}", "another service of Ray answers there"),
        ):
            found = python(["-c", JOIN], environment(running, RAY_ADDRESS=address))
            assert f"ConfigError: RAY_ADDRESS '{address}' cannot be joined: {told}" in found.stderr

    def test_a_cluster_that_hangs(self, running: LocalCluster) -> None:
        (gcs,) = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/comm")
            if path.read_text() == "gcs_server\n" and str(running.folder) in (path.parent / "cmdline").read_text()
        ]
        os.kill(gcs, signal.SIGSTOP)
        try:
            found = python(["-c", JOIN], environment(running))
        finally:
            os.kill(gcs, signal.SIGCONT)
        assert "nothing there answers as Ray does" in found.stderr

    def test_no_cluster_at_all(self, running: LocalCluster, tmp_path: Path) -> None:
        found = python(
            ["-m", "cluster.submit", "ingest_data"], environment(running, RAY_API_SERVER_ADDRESS="", TMPDIR=str(tmp_path))
        )
        assert found.returncode == 2
        assert "make cluster" in found.stderr

    @pytest.mark.parametrize(
        "version", ["ray.__version__ = '2.59.0'", "utils.compute_version_info = lambda: (ray.__version__, '3.12.1')"]
    )
    def test_versions_that_differ(self, running: LocalCluster, version: str) -> None:
        found = python(["-c", f"import ray\nfrom ray._private import utils\n{version}\n{JOIN}"], environment(running))
        assert found.returncode == 1
        last = found.stderr.strip().splitlines()[-1]
        assert "ConfigError: RAY_ADDRESS" in last
        assert "install the cluster's versions of Ray and Python here, or submit the job" in last

    def test_another_ray_on_the_submitters_side(self, running: LocalCluster) -> None:
        code = "import ray, sys\nray.__version__ = '2.59.0'\nfrom cluster.submit import main\nsys.exit(main(['ingest_data']))"
        found = python(["-c", code], environment(running))
        assert found.returncode == 2
        assert "this environment 2.59.0: install ray==" in found.stderr

    def test_gpus_that_no_node_has(self, running: LocalCluster, tmp_path: Path) -> None:
        flags = ["--data", "synthetic", "--preset", "debug", "--out", str(tmp_path), "--gpus", "1"]
        found = python(["-m", "jobs.run_pipeline", *flags], environment(running))
        assert found.returncode == 2
        assert "error: gpus must be at most 0" in found.stderr
        assert "set cluster_can_grow where an autoscaler adds nodes" in found.stderr


class TestJobs:
    def test_submitted_twice_is_done_once(self, running: LocalCluster, tmp_path: Path) -> None:
        (tmp_path / "files").mkdir()
        candles().to_csv(tmp_path / "files" / "BTCUSDT-1h.csv", index=False)
        flags = ["--lake", f"{tmp_path}/lake", "--files", f"{tmp_path}/files", "--timeframe", "1h"]
        command = ["-m", "cluster.submit", "ingest_data", *flags]
        first = python(command, environment(running), 180)
        assert first.returncode == 0, first.stderr
        assert "BTCUSDT" in first.stdout, "the job's log is shown"
        lake = {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*.parquet")}
        assert python(command, environment(running), 180).returncode == 0
        assert lake == {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*.parquet")}

    def test_code_and_nothing_else_is_sent(self, running: LocalCluster) -> None:
        check = "import cryptoml, os, sys; sys.exit(not cryptoml.__file__.startswith(os.getcwd()))"
        command = ["job", "submit", "--working-dir", ".", "--", "python", "-c", check]
        found = python(["-m", "ray.scripts.scripts", *command], environment(running), 180)
        assert found.returncode == 0, found.stderr
        sent = [path for path in running.folder.glob("ray/session_2*/runtime_resources/working_dir_files/*") if path.is_dir()]
        names = {path.name for folder in sent for path in folder.iterdir()}
        assert {"cryptoml", "jobs", "serve"} <= names
        assert not {"tests", "benchmarks", "runs", ".git", ".venv"} & names
        assert sum(path.stat().st_size for folder in sent for path in folder.rglob("*") if path.is_file()) < 10e6

    def test_a_jobs_exit_code_is_the_submitters(self, running: LocalCluster, tmp_path: Path) -> None:
        flags = ["--data", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
        found = python(["-m", "cluster.submit", "run_pipeline", *flags], environment(running), 180)
        assert found.returncode == 2
        assert "error: " in found.stdout
        assert "absent" in found.stdout


def test_the_same_command_is_followed_where_it_runs_already() -> None:
    class Client:
        def __init__(self) -> None:
            self.submitted: list[str] = []

        def list_jobs(self) -> list[submit.JobDetails]:
            running = {"status": "RUNNING", "type": "SUBMISSION", "submission_id": "first"}
            return [submit.JobDetails(entrypoint="python -m jobs.ingest_data --lake a", **running)]

        def submit_job(self, entrypoint: str, **settings: object) -> str:
            self.submitted.append(entrypoint)
            return "second"

    client = Client()
    assert submit.submit(client, "ingest_data", ["--lake", "a"]) == "first"
    assert submit.submit(client, "ingest_data", ["--lake", "b"]) == "second"
    assert client.submitted == ["python -m jobs.ingest_data --lake b"]


def test_stopped_it_leaves_no_process(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    found = LocalCluster(folder, free_port(), free_port())
    found.start(workers=0)
    again = LocalCluster.at(folder)
    assert again is not None
    assert again.alive_nodes() == 1
    again.stop()
    found.stop()
    assert LocalCluster.at(folder) is None
    lines = [path.read_text().replace("\0", " ") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if str(folder) in line]
    shutil.rmtree(folder, ignore_errors=True)
