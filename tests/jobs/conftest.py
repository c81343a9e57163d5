"""Fixtures of the jobs' tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Variables of a subprocess: one thread, and a private Ray whose folder has a short path, as sockets need."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    yield variables | {"RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
    shutil.rmtree(folder, ignore_errors=True)
