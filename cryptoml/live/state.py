"""A bot's memory on disk: versions of a folder, each written whole and published by one rename, checked when read.

state/000007/state.json        format, model, sha256 of every other file, mark of the outcome log; written last
state/000007/session.json      decisions held, adaptations, what the tables are
state/000007/candles.parquet   recent candles of every symbol
state/000007/tables/0.parquet  remembered readings, and so on
outcomes-1h.jsonl              the log of forecasts and outcomes, which every version shares
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from cryptoml.errors import BundleError
from cryptoml.live.adaptation import Adaptation
from cryptoml.live.session import Session

__all__ = ["FORMAT_VERSION", "load_session_state", "save_session_state", "state_versions"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
KEPT_VERSIONS = 3
DRAFT_HOURS = 1.0
"""Age from which an unpublished version is what a killed process left."""

_MANIFEST = "state.json"
_SESSION = "session.json"
_CANDLES = "candles.parquet"


def state_versions(root: Path) -> list[Path]:
    """Return the folders of the versions below `root`, oldest first."""
    return sorted(path for path in root.glob("[0-9]" * 6) if path.is_dir())


def save_session_state(root: Path, session: Session) -> Path:
    """Write a new version and drop all but the newest few; return its folder.

    Saves at the same time become a version each.

    Raises:
        BundleError: The folder cannot be written.
    """
    draft = root / f".draft-{uuid.uuid4().hex}"
    try:
        (draft / "tables").mkdir(parents=True)
        _write_version(draft, session)
        final = _publish(draft, root)
    except OSError as error:
        raise BundleError(f"state folder {root} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in [*state_versions(root)[:-KEPT_VERSIONS], *_abandoned(root)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _publish(draft: Path, root: Path) -> Path:
    """Rename a draft to the next free number; return its folder."""
    number = max((int(path.name) for path in state_versions(root)), default=0)
    while True:
        number += 1
        final = root / f"{number:06d}"
        try:
            os.rename(draft, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # those say that another save was first
                raise
        else:
            return final


def _abandoned(root: Path) -> list[Path]:
    """Return the drafts that nobody writes any more."""
    found = []
    for path in root.glob(".draft-*"):
        with suppress(OSError):  # published or removed meanwhile
            if time.time() - path.stat().st_mtime > 3600 * DRAFT_HOURS:
                found.append(path)
    return found


def load_session_state(folder: Path, session: Session) -> None:
    """Fill a new session with what a version holds; what belongs to another model is left out.

    Raises:
        BundleError: A file is missing or damaged; the message names file and field, and the version before, if any.
    """
    try:
        manifest = _checked_manifest(folder)
        _restore(folder, session)
    except BundleError as error:
        older = [path for path in state_versions(folder.parent) if path.name < folder.name]
        hint = f"; move {folder} away to load the version before, {older[-1]}" if older else ""
        raise BundleError(f"{error}{hint}") from None
    session.log.check(manifest["outcomes"])


def _restore(folder: Path, session: Session) -> None:
    stored = _parsed(folder / _SESSION)
    try:
        session.book.restored(stored["positions"])
        session.candles = _read_candles(folder / _CANDLES)
        tables: dict[str, dict[str, pd.DataFrame]] = {}
        for number, (name, key) in enumerate(stored["tables"]):
            tables.setdefault(name, {})[key] = pd.read_parquet(folder / "tables" / f"{number}.parquet")
        session.tables = tables
        adaptations = [Adaptation.from_json(json.dumps(one)) for one in stored["adaptations"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(f"{folder / _SESSION}: must hold what save_state wrote: {error!r}") from None
    session.adaptations = tuple(one for one in adaptations if one.model == session.predictor.version)
    if len(session.adaptations) < len(adaptations):
        logger.warning("%d adaptations of another model are left out", len(adaptations) - len(session.adaptations))


def _write_version(draft: Path, session: Session) -> None:
    with session.at_rest():
        tables = [(name, key, frame) for name, rows in session.tables.items() for key, frame in rows.items()]
        document = {
            "positions": session.book.to_dict(),
            "adaptations": [json.loads(one.to_json()) for one in session.adaptations],
            "tables": [[name, key] for name, key, _ in tables],
        }
        candles, outcomes = dict(session.candles), session.log.mark()
    (draft / _SESSION).write_text(json.dumps(document, indent=1))
    named = [frame.assign(symbol=symbol) for symbol, frame in candles.items()]
    (pd.concat(named, ignore_index=True) if named else pd.DataFrame({"symbol": []})).to_parquet(draft / _CANDLES)
    for number, (_, _, frame) in enumerate(tables):
        frame.to_parquet(draft / "tables" / f"{number}.parquet")
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT_VERSION,
        "model": session.predictor.version,
        "created_at": pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds"),
        "files": {path.relative_to(draft).as_posix(): _sha256(path) for path in files},
        "outcomes": outcomes,
    }
    with (draft / _MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _checked_manifest(folder: Path) -> Mapping[str, Any]:
    manifest = _parsed(folder / _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise BundleError(f"{folder / _MANIFEST}: format must be {FORMAT_VERSION}, was {found!r}")
    files, outcomes = manifest.get("files"), manifest.get("outcomes")
    if not isinstance(files, dict) or not {_SESSION, _CANDLES} <= set(files):
        raise BundleError(f"{folder / _MANIFEST}: files must list {_SESSION} and {_CANDLES}, was {files!r}")
    if not isinstance(outcomes, dict) or "sha256" not in outcomes or not isinstance(outcomes.get("bytes"), int):
        raise BundleError(f"{folder / _MANIFEST}: outcomes must hold bytes and sha256, was {outcomes!r}")
    for name, expected in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise BundleError(f"{path}: must be a file, was missing")
        if _sha256(path) != expected:
            raise BundleError(f"{path}: sha256 must be {expected} as in {_MANIFEST}, was {_sha256(path)}")
    return manifest


def _read_candles(path: Path) -> dict[str, pd.DataFrame]:
    try:
        rows = pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise BundleError(f"{path}: cannot be read: {error}") from None
    return {str(symbol): part.drop(columns="symbol").reset_index(drop=True) for symbol, part in rows.groupby("symbol")}


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{path}: not JSON: {error}") from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
