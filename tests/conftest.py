"""Fixtures that every test folder shares."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real market data: `CRYPTOML_TEST_DATA`, or `../shared/data` beside the checkout; skip without it."""
    folder = Path(os.environ.get("CRYPTOML_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real market data at {folder}")
    return folder


@pytest.fixture
def s3_address() -> Iterator[str]:
    """Address pattern of an empty bucket on a real S3 server of this machine: `s3_address.format("folder")`."""
    boto3, server_module = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")
    bucket = f"market-{uuid.uuid4().hex}"  # servers of one process share their buckets
    client.create_bucket(Bucket=bucket)
    yield f"s3://k:s@{bucket}/{{}}?endpoint_override={endpoint}"
    client.close()
    server.stop()
