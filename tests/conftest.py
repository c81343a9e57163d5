"""Fixtures that every test folder shares."""

import os
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
