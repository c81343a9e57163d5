"""Submit a job with this checkout's code to a cluster, follow its log, and end with its exit code.

python -m cluster.submit run_pipeline --data s3://bucket/lake --out s3://bucket/runs/first

The cluster is the one that RAY_API_SERVER_ADDRESS names, else the local one of `make cluster`. Where the same command runs
there already, it is followed instead of being started again.
"""

import asyncio
import getpass
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.local import FOLDER, LocalCluster

__all__ = ["SubmissionError", "connect", "jobs", "main", "submit"]

REPOSITORY = Path(__file__).resolve().parents[1]
EXIT_ERROR = 2
ADDRESS, MODE, TOKEN, PATH = "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
RESOURCES = {"driver": 1.0}
CHATTY_PARTS = ("ray._private.runtime_env", "ray.dashboard.modules")
UNFINISHED = (JobStatus.PENDING, JobStatus.RUNNING)
GREETING = "/api/version"
GREETING_SECONDS = 8.0
ANSWER_SECONDS = 60.0
LOST = (OSError, RuntimeError, AuthenticationError, aiohttp.ClientError)
"""How Ray's client says that the cluster has not answered, or not as it should."""


class SubmissionError(Exception):
    """The job cannot be submitted; the message says what to do."""


class _Client(JobSubmissionClient):
    """One that gives a silent cluster up: Ray's own waits for ever."""

    def _do_request(self, method: str, endpoint: str, **request: Any) -> Any:
        seconds = GREETING_SECONDS if endpoint == GREETING else ANSWER_SECONDS
        return super()._do_request(method, endpoint, timeout=seconds, **request)


def jobs() -> list[str]:
    """Return the names of the jobs of this checkout."""
    return sorted(path.stem for path in (REPOSITORY / "jobs").glob("*_*.py") if "__main__" in path.read_text())


def connect() -> JobSubmissionClient:
    """Return a client of the cluster that the environment names, or of the local one.

    Raises:
        SubmissionError: There is none, it does not answer, refuses the token, or runs another version of Ray.
    """
    local = LocalCluster.at(FOLDER)
    address = os.environ.get(ADDRESS) or (local.dashboard if local else "")
    if not address:
        raise SubmissionError(f"no cluster: set {ADDRESS}, such as http://127.0.0.1:8265, or start one here by `make cluster`")
    os.environ[ADDRESS] = address if "://" in address else f"http://{address}"  # Ray reads it, whatever its client is told
    is_local = local is not None and os.environ[ADDRESS].rstrip("/") == local.dashboard
    token = _token(local.folder / "token" if local and is_local else None)
    try:
        client = _Client(address, headers={"Authorization": f"Bearer {token}"} if token else {})
        version = client._do_request("GET", GREETING).json()["ray_version"]
    except AuthenticationError as error:
        raise SubmissionError(
            f"{address} refuses the token: put the cluster's own into ~/.ray/auth_token, or name its file in {PATH}"
        ) from error
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise SubmissionError(
            f"{ADDRESS} {address!r} does not answer as a Ray dashboard does ({type(error).__name__}): start that cluster, "
            "forward its port (`ray dashboard FILE`, `kubectl port-forward`), or unset the variable and use `make cluster`"
        ) from error
    if version != ray.__version__:
        raise SubmissionError(f"the cluster runs Ray {version}, this environment {ray.__version__}: install ray=={version} here")
    return client


def _token(local: Path | None) -> str | None:
    """Return the token of the local cluster, else the one that Ray's variables and files name; None without authentication.

    Ray's own client reads these variables when it is imported, before the local cluster is known.
    """
    if local is None and os.environ.get(MODE, "token") != "token":
        return None
    if local is None and os.environ.get(TOKEN):
        return os.environ[TOKEN]
    named = os.environ.get(PATH)
    path = local or Path(named or "~/.ray/auth_token").expanduser()
    if not (local or named or path.exists()):
        return None
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise SubmissionError(f"no token can be read from {path} ({type(error).__name__}): correct {PATH}") from error


def submit(client: JobSubmissionClient, job: str, arguments: Sequence[str]) -> str:
    """Return the id under which a job runs: of a new submission, or of the same command where it runs already."""
    entrypoint = shlex.join(["python", "-m", f"jobs.{job}", *arguments])
    same = [one for one in client.list_jobs() if one.entrypoint == entrypoint and one.status in UNFINISHED]
    if same and same[0].submission_id:
        return same[0].submission_id
    return client.submit_job(
        entrypoint=entrypoint,
        runtime_env={"working_dir": str(REPOSITORY)},
        entrypoint_resources=RESOURCES,
        metadata={"job": job, "user": getpass.getuser()},
    )


def follow(client: JobSubmissionClient, submission: str) -> int:
    """Write a job's log as it grows; return the job's exit code."""

    async def tail() -> None:
        async for lines in client.tail_job_logs(submission):
            sys.stdout.write(lines)
            sys.stdout.flush()

    asyncio.run(tail())
    while (details := client.get_job_info(submission)).status in UNFINISHED:
        time.sleep(1)
    return _exit_code(details)


def _exit_code(details: JobDetails) -> int:
    if details.status == JobStatus.SUCCEEDED:
        return 0
    what = (details.message or "").partition(", last available logs")[0]  # which have been shown
    sys.stderr.write(f"{details.submission_id}: {details.status}: {what}\n")
    return details.driver_exit_code or 1


def main(command: Sequence[str]) -> int:
    """Submit and follow; return the job's exit code, or 2 where it could not be submitted."""
    for name in CHATTY_PARTS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not command or command[0] not in jobs():
        return _end(f"error: the job must be one of {', '.join(jobs())}, was {command[0] if command else 'missing'}")
    try:
        client = connect()
        submission = submit(client, command[0], command[1:])
    except SubmissionError as error:
        return _end(f"error: {error}")
    except LOST as error:
        return _end(f"error: the cluster does not take the job: {' '.join(str(error).split())}")
    sys.stderr.write(f"{submission} runs; Ctrl-C leaves it running, `ray job stop {submission}` ends it\n")
    try:
        return follow(client, submission)
    except KeyboardInterrupt:
        return 130
    except LOST as error:
        said = " ".join(str(error).split()) or type(error).__name__
        return _end(f"error: {submission} is out of sight ({said}); give the same command again to go on with it")


def _end(line: str) -> int:
    sys.stderr.write(f"{line}\n")
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
