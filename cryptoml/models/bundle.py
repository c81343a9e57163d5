"""A model on disk: a folder of safetensors and JSON whose manifest carries a checksum of every file.

bundle.json             format version and the sha256 of every other file
config.json             everything that is not an array
scaler.safetensors      arrays of the feature scaler
adapter.safetensors     arrays of the adapter to new regimes, where there is one
members/0.safetensors   weights of the first member, and so on
"""

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from cryptoml.errors import BundleError
from cryptoml.models.adapter import ADAPTER_PREFIX, ForecastAdapter, Knobs
from cryptoml.models.ensemble import Calibration, Ensemble
from cryptoml.models.forecaster import Forecaster, ForecasterConfig, build_forecaster

__all__ = ["FORMAT_VERSION", "Bundle", "load_bundle", "save_bundle"]

FORMAT_VERSION = 1

_MANIFEST = "bundle.json"
_CONFIG = "config.json"
_SCALER = "scaler.safetensors"
_ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class Bundle:
    """All that a forecast needs, and where it came from.

    Attributes:
        ensemble: members, weights and calibration.
        symbols: in the order of the asset axis.
        timeframe: of the bars, such as `1h`.
        context_bars: bars of history that each forecast reads.
        feature_names: in the order of the feature axis.
        feature_lookbacks: bars that each feature reads, same order.
        feature_config: settings of the feature engineer.
        scaler: arrays of the feature scaler by name.
        target_config: settings of the targets.
        trading_config: settings of the signals.
        metrics: figures of its evaluation, any JSON; numbers that are not finite are stored as null.
        data_fingerprint: sha256 of the data it was trained on.
        library_versions: version by library name.
        created_at: ISO 8601, UTC.
        adapter: arrays by which forecasts are adapted to new regimes, by name; empty without.
        adaptation_config: settings of that.
        untrained: those of `symbols` without a label in the training span, which are not to be forecast.
        known_until: ISO 8601 open of the last bar that training or calibration read, labels included; empty if not recorded.
    """

    ensemble: Ensemble
    symbols: tuple[str, ...]
    timeframe: str
    context_bars: int
    feature_names: tuple[str, ...]
    feature_lookbacks: tuple[int, ...]
    feature_config: Mapping[str, Any]
    scaler: Mapping[str, np.ndarray]
    target_config: Mapping[str, Any]
    trading_config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    data_fingerprint: str
    library_versions: Mapping[str, str]
    created_at: str
    known_until: str = ""
    untrained: tuple[str, ...] = ()
    adapter: Mapping[str, np.ndarray] = dataclass_field(default_factory=dict)
    adaptation_config: Mapping[str, Any] = dataclass_field(default_factory=dict)


class _StoredConfig(BaseModel):
    """Schema of config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    members: tuple[ForecasterConfig, ...] = Field(min_length=1)
    weights: tuple[float, ...]
    temperature: float = Field(gt=0)
    quantile_shift: list[list[float]] | None
    error_correlation: list[list[float]] | None = None
    knobs: Knobs | None = None
    symbols: tuple[str, ...]
    timeframe: str
    context_bars: int = Field(ge=1)
    feature_names: tuple[str, ...]
    feature_lookbacks: tuple[int, ...]
    feature_config: dict[str, Any]
    target_config: dict[str, Any]
    trading_config: dict[str, Any]
    metrics: dict[str, Any]
    data_fingerprint: str
    library_versions: dict[str, str]
    created_at: str
    known_until: str = ""
    untrained: tuple[str, ...] = ()
    adaptation_config: dict[str, Any] = {}


_PLAIN_FIELDS = tuple(name for name in _StoredConfig.model_fields if name in Bundle.__dataclass_fields__)


def save_bundle(path: str | Path, bundle: Bundle) -> None:
    """Write `bundle` to the folder `path`, replacing an older bundle there.

    The folder is written beside its destination and published by renaming, so no reader sees half of it.

    Raises:
        BundleError: `path` is a file or a folder that is no bundle, or the parts of the bundle contradict each other.
    """
    destination = Path(path)
    _check_sizes(bundle.ensemble.config, len(bundle.symbols), len(bundle.feature_names), len(bundle.feature_lookbacks))
    if destination.exists() and not (destination / _MANIFEST).is_file():
        raise BundleError(f"{destination} exists and is no bundle: it has no {_MANIFEST}")
    with _published(destination) as folder:
        _write(folder / _CONFIG, _to_json(_stored(bundle)))
        for name, arrays in ((_SCALER, bundle.scaler), (_ADAPTER, bundle.adapter)):
            if arrays or name == _SCALER:
                _write(folder / name, safetensors.numpy.save({key: np.asarray(a, order="C") for key, a in arrays.items()}))
        for index, member in enumerate(bundle.ensemble.members):
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in member.state_dict().items()}
            _write(folder / _member_file(index), safetensors.torch.save(weights))
        listed = _files(len(bundle.ensemble.members), has_adapter=bool(bundle.adapter))
        files = {name: _sha256((folder / name).read_bytes()) for name in listed}
        _write(folder / _MANIFEST, _to_json({"format": FORMAT_VERSION, "files": files}))


def load_bundle(path: str | Path) -> Bundle:
    """Read the bundle in folder `path`; its models are in evaluation mode on the CPU.

    Raises:
        BundleError: a file is missing or damaged, or its content does not fit; the message names file and field.
    """
    contents = _verified(Path(path))
    config = _parse_config(contents[_CONFIG])
    expected = _files(len(config.members), has_adapter=_ADAPTER in contents)
    if sorted(contents) != sorted(expected):
        raise BundleError(f"{_MANIFEST}: files must be {sorted(expected)}, was {sorted(contents)}")
    _check_sizes(config.members[0], len(config.symbols), len(config.feature_names), len(config.feature_lookbacks))
    members = [
        _load_member(_member_file(index), contents[_member_file(index)], member) for index, member in enumerate(config.members)
    ]
    shift, errors = _matrix(config.quantile_shift), _matrix(config.error_correlation)
    try:
        ensemble = Ensemble(members, config.weights, Calibration(config.temperature, shift), errors)
    except ValueError as error:
        raise BundleError(f"{_CONFIG}: {error}") from None
    plain = {name: getattr(config, name) for name in _PLAIN_FIELDS}
    adapter = _load_arrays(_ADAPTER, contents[_ADAPTER]) if _ADAPTER in contents else {}
    if config.knobs is not None:
        ensemble = replace(ensemble, adapter=_turned_adapter(ensemble.config, adapter, config.knobs))
    return Bundle(ensemble=ensemble, scaler=_load_arrays(_SCALER, contents[_SCALER]), adapter=adapter, **plain)


def _stored(bundle: Bundle) -> dict[str, Any]:
    ensemble = bundle.ensemble
    shift, errors = ensemble.calibration.quantile_shift, ensemble.error_correlation
    return {
        "members": [member.config.model_dump(mode="json") for member in ensemble.members],
        "weights": list(ensemble.weights),
        "temperature": ensemble.calibration.temperature,
        "quantile_shift": None if shift is None else shift.tolist(),
        "error_correlation": None if errors is None else errors.tolist(),
        "knobs": None if ensemble.adapter is None else list(ensemble.adapter.adapted),
        **{name: getattr(bundle, name) for name in _PLAIN_FIELDS},
    }


def _matrix(rows: list[list[float]] | None) -> np.ndarray | None:
    return None if rows is None else np.asarray(rows, dtype=np.float64)


def _verified(folder: Path) -> dict[str, bytes]:
    """Read the files that the manifest lists, each against its checksum."""
    manifest = _parse_json(_MANIFEST, _read(folder, _MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise BundleError(f"{_MANIFEST}: format must be {FORMAT_VERSION}, was {found!r}")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not {_CONFIG, _SCALER} <= set(listed):
        raise BundleError(f"{_MANIFEST}: files must list {_CONFIG} and {_SCALER}, was {listed!r}")
    contents = {name: _read(folder, name) for name in listed}
    for name, content in contents.items():
        if _sha256(content) != listed[name]:
            raise BundleError(f"{name}: sha256 must be {listed[name]} as in {_MANIFEST}, was {_sha256(content)}")
    return contents


def _parse_config(content: bytes) -> _StoredConfig:
    try:
        return _StoredConfig.model_validate(_parse_json(_CONFIG, content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{_CONFIG}: {place}: {first['msg']}, was {first.get('input')!r}") from None


def _load_member(name: str, content: bytes, config: ForecasterConfig) -> Forecaster:
    """Build a member and fill in its weights, leaving torch's random state as it was."""
    try:
        weights: dict[str, Tensor] = safetensors.torch.load(content)
    except SafetensorError as error:
        raise BundleError(f"{name}: not a safetensors file: {error}") from None
    with torch.random.fork_rng(devices=[]):
        member = build_forecaster(config)
    expected = member.state_dict()
    for field in sorted(expected.keys() | weights.keys()):
        shapes = [list(part[field].shape) if field in part else None for part in (expected, weights)]
        if shapes[0] != shapes[1]:
            raise BundleError(f"{name}: {field} must have shape {shapes[0]}, was {shapes[1]}")
    member.load_state_dict(weights)
    return member.eval()


def _load_arrays(name: str, content: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(content)
    except SafetensorError as error:
        raise BundleError(f"{name}: not a safetensors file: {error}") from None


def _turned_adapter(config: ForecasterConfig, arrays: Mapping[str, np.ndarray], knobs: Knobs) -> ForecastAdapter:
    adapter = ForecastAdapter(config.horizons, config.quantiles)
    own = {name.removeprefix(ADAPTER_PREFIX): value for name, value in arrays.items() if name.startswith(ADAPTER_PREFIX)}
    try:
        if own:
            adapter.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in own.items()})
    except RuntimeError as error:
        raise BundleError(f"{_ADAPTER}: {' '.join(str(error).split())}") from None
    try:
        adapter.turn(knobs)
    except ValueError as error:
        raise BundleError(f"{_CONFIG}: knobs: {error}") from None
    return adapter


def _check_sizes(config: ForecasterConfig, symbols: int, names: int, lookbacks: int) -> None:
    for field, found, expected in (
        ("symbols", symbols, config.num_assets),
        ("feature_names", names, config.num_features),
        ("feature_lookbacks", lookbacks, config.num_features),
    ):
        if found != expected:
            raise BundleError(f"{_CONFIG}: {field} must have {expected} entries as the members have, had {found}")


@contextmanager
def _published(destination: Path) -> Iterator[Path]:
    """Give a folder to write into, and rename it to `destination` if the block succeeds."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    draft, old = (destination.parent / f".{destination.name}.{kind}-{mark}" for kind in ("draft", "old"))
    try:
        (draft / "members").mkdir(parents=True)
        yield draft
        _swap(draft, destination, old)
    finally:
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _swap(draft: Path, destination: Path, old: Path) -> None:
    """Rename `draft` to `destination`; what was there comes back if that fails."""
    if destination.exists():
        os.rename(destination, old)
    try:
        os.rename(draft, destination)
    except BaseException:
        if old.exists():
            os.rename(old, destination)
        raise


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise BundleError(f"{name}: must be a file in {folder}, was missing")
    return path.read_bytes()


def _parse_json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise BundleError(f"{name}: not JSON: {error}") from None


def _to_json(content: Any) -> bytes:
    return json.dumps(_plain(content), indent=1, sort_keys=True, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """Turn tuples, mappings and NumPy values into JSON's own types, and what is not finite into null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _files(num_members: int, *, has_adapter: bool) -> list[str]:
    adapter = [_ADAPTER] if has_adapter else []
    return [_CONFIG, _SCALER, *adapter, *(_member_file(index) for index in range(num_members))]


def _member_file(index: int) -> str:
    return f"members/{index}.safetensors"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
