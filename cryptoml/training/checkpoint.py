"""Checkpoints without pickle: one safetensors file holds tensors and, as JSON in its header, everything else.

A file is written under a temporary name and published by one atomic rename, so that a reader finds the old file or
the new one, never half of it.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cryptoml.errors import DataError

__all__ = [
    "CHECKPOINT_NAME",
    "join_state",
    "latest_checkpoint",
    "load_weights",
    "pack",
    "read_tensors",
    "require_writable",
    "split_state",
    "unpack",
    "weights_of",
    "write_file",
    "write_tensors",
]

CHECKPOINT_NAME = "last.safetensors"
LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, which is JSON."""


def pack(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> bytes:
    """Return the content of a file with tensors and a JSON document."""
    owned = {name: values.detach().cpu().clone().contiguous() for name, values in tensors.items()}
    return save(owned, metadata={"document": json.dumps(document)})


def unpack(content: bytes, place: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Undo `pack`: tensors on the CPU and the document.

    Raises:
        DataError: The content is damaged; the message names `place`.
    """
    try:
        header = content[LENGTH_BYTES : LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")]
        return load(content), json.loads(json.loads(header)["__metadata__"]["document"])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"checkpoint {place} is damaged or not a checkpoint: {error}") from error


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Path:
    """Publish tensors and a JSON document as one file, atomically.

    Raises:
        DataError: The folder cannot be written (full disk, read-only); an older file at `path` stays intact.
    """
    return write_file(path, pack(tensors, document))


def write_file(path: str | Path, content: bytes) -> Path:
    """Publish what `pack` gave as one file; see `write_tensors`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DataError(f"checkpoint {path} cannot be written, earlier ones are intact: {error}") from error
    return path


def require_writable(folder: str | Path) -> Path:
    """Create a folder for checkpoints and try to write there; returns its path.

    Raises:
        DataError: That fails.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
    except OSError as error:
        raise DataError(f"checkpoint folder {folder} cannot be written: {error}") from error
    return Path(folder)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: tensors on the CPU and the document.

    Raises:
        DataError: There is no such file, or it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"checkpoint {path} must be an existing file")
    return unpack(path.read_bytes(), path)


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Path of the newest resumable checkpoint that `fit` wrote into a folder, or None."""
    path = Path(folder) / CHECKPOINT_NAME
    return path if path.is_file() else None


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the best weights so far from a checkpoint that `fit` wrote.

    Raises:
        DataError: The file is absent or damaged, or belongs to another model.
    """
    tensors, _ = read_tensors(path)
    part = "best/model." if any(name.startswith("best/") for name in tensors) else "weights/model."
    weights = {name.removeprefix(part): values for name, values in tensors.items() if name.startswith(part)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"checkpoint {path} belongs to another model: {error}") from error


def split_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors named `index/key` and a JSON document of groups and numbers."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}/{key}"] = value
    return tensors, {"groups": state["param_groups"], "numbers": numbers}


def join_state(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `split_state`: the dict that `Optimizer.load_state_dict` takes."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **document["numbers"]}.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": document["groups"]}


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy a module's parameters and persistent buffers to the CPU."""
    return {name: values.detach().cpu().clone() for name, values in module.state_dict().items()}
