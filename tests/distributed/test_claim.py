"""A claim keeps other drivers of a cluster off a run, and falls with its driver."""

import subprocess
import sys
from pathlib import Path

import pytest

from cryptoml.data.run_folder import FolderInUseError
from cryptoml.distributed.claim import claim

pytestmark = pytest.mark.slow

OTHER = """
import ray, sys
from cryptoml.distributed.claim import claim
ray.init(address=sys.argv[1], log_to_driver=False)
held = claim("s3://bucket/run")
held.__enter__()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_claim_at_a_time(ray_cluster: Path) -> None:
    for _ in range(2):
        with claim("s3://bucket/run"):
            with claim("s3://bucket/another"):
                pass
            with pytest.raises(FolderInUseError, match="in use by another job of this cluster"), claim("s3://bucket/run", 0.0):
                pass


def test_a_claim_falls_with_its_driver(ray_cluster: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    other = subprocess.Popen([sys.executable, "-c", OTHER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    with other.stdin, other.stdout:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError), claim("s3://bucket/run", 0.0):
            pass
        other.kill()
        other.wait()
        with claim("s3://bucket/run", 60.0):
            pass
