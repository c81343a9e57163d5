"""What a feature lake was built from: one status row per file, kept as JSON beside the files."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cryptoml.data.storage import Storage
from cryptoml.errors import DataError

__all__ = ["ItemStatus", "read_manifest", "status_table", "write_manifest"]

COLUMNS = ("symbol", "start", "stop", "outcome", "rows", "seconds", "nan_share", "attempts", "error")
MARKET = "(cross-section)"


class ItemStatus(BaseModel):
    """What became of one work item."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="File of the item, relative to the root of the feature lake")
    symbol: str = Field(description="Symbol, empty for the cross-section")
    start: datetime = Field(description="First open that the item covers, UTC")
    stop: datetime = Field(description="Opens from here on belong to the next item, UTC")
    outcome: Literal["built", "kept", "failed"] = Field(description="kept: nothing had changed, so nothing was computed")
    rows: int = Field(0, description="Rows of the file")
    seconds: float = Field(0.0, description="Wall time of the item where it was built")
    nan_share: float | None = Field(None, description="Share of missing values; None for a file without values")
    error: str = Field("", description="Type and message of what failed")
    attempts: int = Field(1, description="Times that the item was tried in this run; 0 where its files told enough")
    catalogue: str = Field("", description="Hash of the features that were computed")
    content: str = Field("", description="SHA-256 of the rows that were read")
    signature: str = Field("", description="Hash of paths, sizes and times of the files read; empty where too fresh to trust")
    num_bytes: int = Field(0, description="Size of the file")


def read_manifest(storage: Storage, path: str) -> dict[str, ItemStatus]:
    """Return file path to status; empty without a manifest.

    Raises:
        DataError: The manifest is damaged; without it the job finds out by itself what is up to date.
    """
    if not storage.exists(path):
        return {}
    try:
        items = json.loads(storage.read(path))["items"]
        return {status.path: status for status in map(ItemStatus.model_validate, items)}
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{storage.address}/{path} is no manifest of a feature lake; remove it: {error}") from error


def write_manifest(storage: Storage, path: str, entries: Mapping[str, ItemStatus]) -> None:
    """Publish the manifest in one step."""
    items = [entries[key].model_dump(mode="json") for key in sorted(entries)]
    content = {"updated": datetime.now(UTC).isoformat(), "items": items}
    storage.publish(path, json.dumps(content, indent=1, allow_nan=False).encode())


def status_table(statuses: Iterable[ItemStatus]) -> pd.DataFrame:
    """Return one row per item: symbol, range, outcome, rows, seconds, NaN share, attempts, error."""
    rows = [[getattr(status, name) for name in COLUMNS] for status in sorted(statuses, key=lambda one: (one.symbol, one.start))]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["symbol"] = table["symbol"].replace("", MARKET)
    return table.round({"seconds": 3, "nan_share": 4})
