"""A storage that is not there, refuses the keys, or does not answer: each job says so at once, and what to do."""

import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs import build_features, ingest_data, run_pipeline, update_models
from jobs.command_line import run
from tests.jobs.test_run_pipeline import candles

PATIENCE = 15.0
"""Seconds within which a job says it; 30 are promised."""
LOCAL = ("--engine", "local", "--preset", "debug")
UNANSWERED = "s3://k:s@market/{}?endpoint_override=http://127.0.0.1:9&region=us-east-1"


def commands(address: str, tmp_path: Path) -> list[tuple[Any, Any, list[str]]]:
    """Return every way in which a job takes an address: main, arguments class, command line."""
    files, out = str(tmp_path / "BTCUSDT-1h.csv"), str(tmp_path / "out")
    pipeline = (run_pipeline.main, run_pipeline.PipelineArguments)
    features = (build_features.main, build_features.FeaturesArguments)
    registry = ["--registry", address.format("registry"), "--data", "synthetic", "--out", out, *LOCAL]
    return [
        (*pipeline, ["--data", address.format("lake"), "--out", out, *LOCAL]),
        (*pipeline, ["--data", "synthetic", "--out", address.format("run"), *LOCAL]),
        (*features, ["--lake", address.format("lake"), "--out", out, "--engine", "local"]),
        (update_models.main, update_models.UpdateArguments, registry),
        (ingest_data.main, ingest_data.IngestConfig, ["--lake", address.format("lake"), "--files", files, "--timeframe", "1h"]),
    ]


def lines(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], only: int | None = None) -> list[str]:
    """Run the commands; each must end with code 2 and one line in time."""
    candles(200).to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
    found = []
    for main, arguments, command in commands(address, tmp_path)[slice(only, None if only is None else only + 1)]:
        started = time.monotonic()
        assert run(main, arguments, command) == 2
        assert time.monotonic() - started < PATIENCE
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "k:s@" not in errors[0], "keys do not belong into logs"
        found.append(errors[0])
    return found


def test_a_bucket_that_does_not_exist(s3_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = s3_address.partition("@")[2].partition("/")[0]
    for line in lines(s3_address.replace(bucket, "absent-bucket"), tmp_path, capsys):
        assert "absent-bucket" in line
        assert "create the bucket, or correct the address" in line


@pytest.fixture
def strict(s3_address: str) -> Iterator[str]:
    """The server's address pattern, once it knows nobody's keys."""
    endpoint = s3_address.partition("endpoint_override=")[2]
    demand(endpoint, "0")
    yield s3_address
    demand(endpoint, "inf")


def demand(endpoint: str, after: str) -> None:
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=after.encode(), headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=10):
        pass


def test_keys_that_the_store_does_not_know(strict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines(strict, tmp_path, capsys):
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line


class Refusing(BaseHTTPRequestHandler):
    """Answers as S3 does to whoever shows no keys."""

    def do_GET(self) -> None:
        self.do_HEAD()

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def without_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An address without keys, on a machine that has none, of a store that asks for them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"s3://market/{{}}?endpoint_override=http://127.0.0.1:{server.server_port}&region=us-east-1"
    server.shutdown()
    server.server_close()


def test_no_keys_at_all(without_keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(without_keys, tmp_path, capsys, only=0)
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_endpoint_that_refuses_connections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines(UNANSWERED, tmp_path, capsys):
        assert "endpoint_override" in line


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_endpoint_that_takes_connections_and_keeps_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = UNANSWERED.replace(":9&", f":{silent.getsockname()[1]}&")
        for line in lines(address, tmp_path, capsys):
            assert "endpoint_override" in line
