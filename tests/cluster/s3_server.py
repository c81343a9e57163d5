"""An S3 server that fails on command and looks at what it is given.

`python -m tests.cluster.s3_server ADDRESS PORT BUCKET FOLDER` serves one bucket. While the file FOLDER/fail exists every
request is answered with 503, as an overloaded store does. The keys of objects that became visible without being whole stand
in FOLDER/damaged.
"""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pyarrow.parquet as pq
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

__all__ = ["is_whole"]


def is_whole(key: str, content: bytes) -> bool:
    """Tell whether an object is a whole file of the kind that its name says."""
    try:
        if key.endswith(".parquet"):
            pq.ParquetFile(io.BytesIO(content))
        elif key.endswith(".json"):
            json.loads(content)
        elif key.endswith(".safetensors"):
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + size])
            ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
            return len(content) == 8 + size + max(ends, default=0)
        elif key.endswith(".html"):
            return content.rstrip().endswith(b"</html>")
    except (OSError, ValueError, KeyError):
        return False
    return True


def serve(address: str, port: int, bucket: str, folder: Path) -> None:
    """Serve one empty bucket until the process is ended."""
    store = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if (folder / "fail").exists():
            start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        found = store(environ, start_response)
        key = unquote(environ["PATH_INFO"]).removeprefix(f"/{bucket}/")
        content = _content(bucket, key) if environ["REQUEST_METHOD"] in ("PUT", "POST") else None
        if content is not None and not is_whole(key, content):
            with (folder / "damaged").open("a") as file:
                file.write(f"{key}\n")
        return found

    server = make_server(address, port, answer, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{address}:{port}", **keys).create_bucket(Bucket=bucket)
    (folder / "ready-s3").touch()
    while True:
        time.sleep(60)


def _content(bucket: str, key: str) -> bytes | None:
    """Return what a reader would find now; None where there is no such object."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    found = backend.get_object(bucket, key) if bucket in backend.buckets else None
    return None if found is None else bytes(found.value)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
