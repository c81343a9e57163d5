"""Submit a job with this checkout's code to a cluster, follow its log, and end with its exit code.

python -m cluster.submit run_pipeline --data s3://bucket/lake --out s3://bucket/runs/first

The cluster is the one that RAY_API_SERVER_ADDRESS names, else the local one of `make cluster`. Where the same command runs
there already, it is followed instead of being started again.
"""

import asyncio
import getpass
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.local import FOLDER, LocalCluster

__all__ = ["SubmissionError", "connect", "jobs", "main", "submit"]

REPOSITORY = Path(__file__).resolve().parents[1]
EXIT_ERROR = 2
ADDRESS, MODE, PATH = "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"
RESOURCES = {"driver": 1.0}
UNFINISHED = (JobStatus.PENDING, JobStatus.RUNNING)


class SubmissionError(Exception):
    """The job cannot be submitted; the message says what to do."""


def jobs() -> list[str]:
    """Return the names of the jobs of this checkout."""
    return sorted(path.stem for path in (REPOSITORY / "jobs").glob("*_*.py") if "__main__" in path.read_text())


def connect() -> JobSubmissionClient:
    """Return a client of the cluster that the environment names, or of the local one.

    Raises:
        SubmissionError: There is none, it does not answer, refuses the token, or runs another version of Ray.
    """
    local = LocalCluster.at(FOLDER)
    if ADDRESS not in os.environ:
        if local is None:
            raise SubmissionError(
                f"no cluster: set {ADDRESS}, such as http://127.0.0.1:8265, or start one here by `make cluster`"
            )
        os.environ.update({name: value for name, value in local.environment.items() if name != "RAY_ADDRESS"})
    os.environ.setdefault(MODE, "token")
    address = os.environ[ADDRESS]
    try:
        client = JobSubmissionClient(address)
        version = client._do_request("GET", "/api/version").json()["ray_version"]
    except AuthenticationError as error:
        raise SubmissionError(
            f"{address} refuses the token: put the cluster's own into ~/.ray/auth_token, or name its file in {PATH}"
        ) from error
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise SubmissionError(
            f"{ADDRESS} {address!r} does not answer as a Ray dashboard does ({type(error).__name__}): start that cluster, "
            "forward its port (`ray dashboard FILE`, `kubectl port-forward`), or unset the variable and use `make cluster`"
        ) from error
    if version != ray.__version__:
        raise SubmissionError(f"the cluster runs Ray {version}, this environment {ray.__version__}: install ray=={version} here")
    return client


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
    sys.stderr.write(f"{details.submission_id}: {details.status}: {details.message}\n")
    return details.driver_exit_code or 1


def main(command: Sequence[str]) -> int:
    """Submit and follow; return the job's exit code, or 2 where it could not be submitted."""
    if not command or command[0] not in jobs():
        sys.stderr.write(f"error: the job must be one of {', '.join(jobs())}, was {command[0] if command else 'missing'}\n")
        return EXIT_ERROR
    try:
        client = connect()
    except SubmissionError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_ERROR
    submission = submit(client, command[0], command[1:])
    sys.stderr.write(f"{submission} runs; Ctrl-C leaves it running, `ray job stop {submission}` ends it\n")
    try:
        return follow(client, submission)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
