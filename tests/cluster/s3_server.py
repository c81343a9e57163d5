"""An S3 server that fails on command: `python -m tests.cluster.s3_server ADDRESS PORT BUCKET FLAG`.

While the file FLAG exists every request is answered with 503, as an overloaded store does.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def serve(address: str, port: int, bucket: str, flag: Path) -> None:
    """Serve one empty bucket until the process is ended."""
    store = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if flag.exists():
            start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        return store(environ, start_response)

    server = make_server(address, port, answer, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{address}:{port}", **keys).create_bucket(Bucket=bucket)
    flag.with_name("ready-s3").touch()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
