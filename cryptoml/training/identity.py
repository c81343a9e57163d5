"""What a fit depends on, as one key: a checkpoint may be resumed where the key is the same, and nowhere else."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import cryptoml
from cryptoml.training.member import FoldData, MemberTask

__all__ = ["code_version", "data_fingerprint", "fit_key"]

CODE = ("models", "training", "data/windows.py", "features/targets.py")
"""Parts of the package whose code decides what a fit gives."""


@cache
def code_version() -> str:
    """Return the package's version with a hash of the code that fits, and torch's version."""
    root, digest = Path(cryptoml.__file__).parent, hashlib.sha256()
    for part in CODE:
        place = root / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(root).as_posix().encode() + b"\n" + path.read_bytes())
    return f"{version('cryptoml')}+{digest.hexdigest()[:16]} torch {torch.__version__}"


def data_fingerprint(data: FoldData) -> str:
    """Return the SHA-256 (hex) of all that a fit reads: arrays up to the end of the validation span, spans and names."""
    digest, stop = hashlib.sha256(), data.fold.validation.stop
    names = [data.symbols, data.feature_names, data.fold.train, data.fold.validation, data.targets.label_bars]
    digest.update(f"{names} {data.config.model_dump_json()}".encode())
    for name, values in _arrays(data):
        digest.update(f"{name} {values.dtype} {values.shape[2:]}".encode())
        for asset in values:
            digest.update(np.ascontiguousarray(asset[:stop]).data)
    return digest.hexdigest()


def fit_key(task: MemberTask, data: str, num_workers: int = 1) -> str:
    """Return the SHA-256 (hex) of settings, data and code of one fit.

    Args:
        task: The fit; its name does not count.
        data: Fingerprint of the fold.
        num_workers: Data-parallel workers, which multiply the batch.
    """
    settings = {
        "forecaster": task.forecaster.model_dump(mode="json"),
        "training": task.training.model_dump(mode="json"),
        "shuffle_labels": task.shuffle_labels,
        "num_workers": num_workers,
        "data": data,
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _arrays(data: FoldData) -> Iterator[tuple[str, np.ndarray]]:
    yield "features", data.features
    for item in fields(data.targets):
        values = getattr(data.targets, item.name)
        if isinstance(values, np.ndarray):
            yield item.name, values
