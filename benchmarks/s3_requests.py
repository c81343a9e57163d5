"""Count what a piece of work asks of S3: a real server on loopback that remembers the methods of its requests."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

__all__ = ["counting_s3"]


@contextmanager
def counting_s3(bucket: str) -> Iterator[tuple[str, Counter[str]]]:
    """Give an address pattern below an empty bucket, and the requests seen so far by method, for a `with` block."""
    store, seen = DomainDispatcherApplication(create_backend_app), Counter[str]()

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen[environ["REQUEST_METHOD"]] += 1
        return store(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, answer, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **keys)
    client.create_bucket(Bucket=bucket)
    client.close()
    seen.clear()
    yield f"s3://k:s@{bucket}/{{}}?endpoint_override={endpoint}&region=us-east-1", seen
    server.shutdown()
    thread.join()
    server.server_close()
