"""Storage that travels to other processes."""

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cryptoml.data import storage
from cryptoml.data.storage import open_storage
from cryptoml.errors import DataError

werkzeug_serving = pytest.importorskip("werkzeug.serving")


@pytest.fixture
def overloaded() -> Iterator[tuple[str, list[str]]]:
    """Address of a server that answers 503 to everything, and the requests that it has seen."""
    seen: list[str] = []

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        start_response("503 Service Unavailable", [])
        return [b""]

    server = werkzeug_serving.make_server("127.0.0.1", 0, answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_tries_as_often_after_a_journey_to_another_process(
    overloaded: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "S3_MAX_ATTEMPTS", 4)
    address, seen = overloaded
    there = open_storage(f"s3://k:s@bucket/folder?scheme=http&region=us-east-1&endpoint_override={address}")
    for one in (there, pickle.loads(pickle.dumps(there))):
        seen.clear()
        with pytest.raises(DataError, match="bucket/folder/name"):
            one.read("name")
        assert len(seen) == 4


def test_a_local_one_arrives_as_it_was(tmp_path: Any) -> None:
    there = open_storage(tmp_path)
    found = pickle.loads(pickle.dumps(there))
    found.publish("name", b"content")
    assert (found.address, there.read("name")) == (there.address, b"content")


def test_an_upload_that_fails_is_told(overloaded: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "S3_MAX_ATTEMPTS", 1)
    there = open_storage(f"s3://k:s@bucket/folder?scheme=http&region=us-east-1&endpoint_override={overloaded[0]}")
    for content in (b"", b"few bytes"):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DataError, match="cannot write s3://bucket/folder/name"):
            there.upload(tmp_path / "file", "name")


def test_an_upload_arrives_whole(s3_address: str, tmp_path: Path) -> None:
    there = open_storage(s3_address.format("folder"))
    for content in (b"", b"few bytes", bytes(range(256)) * 50_000):
        (tmp_path / "file").write_bytes(content)
        there.upload(tmp_path / "file", "name")
        assert there.read("name") == content
