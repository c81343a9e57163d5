"""A bundle comes back bit by bit, and says what is wrong when it is damaged."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cryptoml.errors import BundleError
from cryptoml.models.adapter import ForecastAdapter, Knobs
from cryptoml.models.bundle import Bundle, load_bundle, save_bundle
from cryptoml.models.ensemble import Calibration, Ensemble
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster


def make_bundle(seed: int = 0) -> Bundle:
    torch.manual_seed(seed)
    members = [
        build_forecaster(
            ForecasterConfig(architecture=name, num_features=3, columns=columns, num_assets=2, hidden_size=4, num_heads=2)
        )
        for name, columns in (("tft", None), ("tcn", (0, 2)), ("linear", (1,)))
    ]
    correlation = np.array([[1.0, 0.9, 0.8], [0.9, 1.0, 0.7], [0.8, 0.7, 1.0]])
    shift = np.random.default_rng(seed).normal(size=(3, 3))
    return Bundle(
        ensemble=Ensemble(members, (0.1, 0.2, 0.7), Calibration(1.1, shift), correlation),
        symbols=("BTCUSDT", "ETHUSDT"),
        timeframe="1h",
        context_bars=8,
        feature_names=("return_1", "rsi_14", "hour"),
        feature_lookbacks=(2, 100, 1),
        feature_config={"categories": ["price"]},
        scaler={"center": np.array([0.1, 0.2, 0.3], np.float32), "span_us": np.array([1, 2], np.int64)},
        target_config={"horizons": [1, 4, 24]},
        trading_config={"min_confidence": 0.5},
        metrics={"accuracy": np.float64(0.5), "sharpe": float("nan"), "by_symbol": {"BTCUSDT": (1, 2)}},
        data_fingerprint="ab" * 32,
        library_versions={"torch": "2.13.0"},
        created_at="2026-01-01T00:00:00+00:00",
        adapter={"log_rates": np.array([-1.0, 2.0, 3.0], np.float32), "base_model.knobs.drift": np.array(0.5, np.float32)},
        adaptation_config={"support_bars": 40},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", make_bundle())
    return tmp_path / "bundle"


def reseal(folder: Path, name: str) -> None:
    """Enter the present checksum of a file into the manifest, as someone who edits by hand would."""
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(manifest))


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    reseal(folder, "config.json")


def test_everything_comes_back_bit_by_bit(saved: Path) -> None:
    original, loaded = make_bundle(), load_bundle(saved)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2, 20, 3)).astype(np.float32)
    sigma = generator.uniform(0.01, 0.02, (2, 20))
    before, after = (bundle.ensemble.predict(features, sigma, 8) for bundle in (original, loaded))
    for name in ("probabilities", "volatility", "regime", "position_size", "quantiles"):
        assert getattr(before, name).tobytes() == getattr(after, name).tobytes()
    for name in ("center", "span_us"):
        assert loaded.scaler[name].dtype == original.scaler[name].dtype
        assert np.array_equal(loaded.scaler[name], original.scaler[name])
    for name, values in original.adapter.items():
        assert loaded.adapter[name].shape == values.shape
        assert loaded.adapter[name].tobytes() == values.tobytes()
    assert loaded.adaptation_config == {"support_bars": 40}
    shifts = [bundle.ensemble.calibration.quantile_shift for bundle in (original, loaded)]
    assert np.array_equal(*shifts)
    assert np.array_equal(*(bundle.ensemble.error_correlation for bundle in (original, loaded)))
    assert [member.config.columns for member in loaded.ensemble.members] == [None, (0, 2), (1,)]
    for name in ("symbols", "feature_names", "feature_lookbacks", "feature_config", "context_bars", "created_at"):
        assert getattr(loaded, name) == getattr(original, name)
    assert loaded.metrics == {"accuracy": 0.5, "sharpe": None, "by_symbol": {"BTCUSDT": [1, 2]}}


def test_an_adapted_ensemble_comes_back_adapted(tmp_path: Path) -> None:
    adapter = ForecastAdapter((1, 4, 24), (0.1, 0.5, 0.9))
    with torch.no_grad():
        adapter.effects["volatility_on_volatility"].fill_(0.8)
    adapter.turn(Knobs(0.05, 0.4, -0.3))
    arrays = {f"base_model.{name}": value.numpy() for name, value in adapter.state_dict().items()}
    bundle = replace(make_bundle(), adapter=arrays)
    adapted = replace(bundle, ensemble=replace(bundle.ensemble, adapter=adapter))
    save_bundle(tmp_path / "bundle", adapted)
    loaded = load_bundle(tmp_path / "bundle")
    features, sigma = np.random.default_rng(0).normal(size=(2, 20, 3)).astype(np.float32), np.full((2, 20), 0.02)
    plain, before, after = (one.ensemble.predict(features, sigma, 8) for one in (bundle, adapted, loaded))
    np.testing.assert_allclose(after.volatility, before.volatility, rtol=1e-5)
    np.testing.assert_allclose(before.volatility[:, 7:], plain.volatility[:, 7:] * np.exp(0.8 * 0.4), rtol=1e-5)
    np.testing.assert_allclose(after.quantiles, before.quantiles, rtol=1e-4, atol=1e-6)
    edit_config(tmp_path / "bundle", knobs=[9.0, 0.0, 0.0])
    with pytest.raises(BundleError, match="knobs: drift must be within"):
        load_bundle(tmp_path / "bundle")


def test_a_bundle_may_lack_an_adapter(tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", replace(make_bundle(), adapter={}))
    assert not (tmp_path / "bundle" / "adapter.safetensors").exists()
    assert load_bundle(tmp_path / "bundle").adapter == {}


def test_same_bundle_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "again", load_bundle(saved))
    for path in saved.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(saved)).read_bytes()


def test_loading_leaves_the_random_state(saved: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_bundle(saved)
    assert torch.equal(torch.rand(3), expected)


def test_saving_again_replaces_and_leaves_nothing_behind(saved: Path) -> None:
    save_bundle(saved, replace(make_bundle(1), timeframe="4h"))
    assert load_bundle(saved).timeframe == "4h"
    assert [path.name for path in saved.parent.iterdir()] == ["bundle"]


def test_a_failed_save_keeps_the_old_bundle(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cryptoml.models.bundle._sha256", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(saved, make_bundle(1))
    monkeypatch.undo()
    assert load_bundle(saved).symbols == ("BTCUSDT", "ETHUSDT")
    assert [path.name for path in saved.parent.iterdir()] == ["bundle"]


def test_other_folders_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(BundleError, match="exists and is no bundle"):
        save_bundle(tmp_path, make_bundle())


@pytest.mark.parametrize(
    "name", ["config.json", "scaler.safetensors", "adapter.safetensors", "members/0.safetensors", "members/2.safetensors"]
)
def test_a_flipped_bit_is_found_in_every_file(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    for position in np.linspace(0, len(content) - 1, 7).astype(int):
        damaged = content.copy()
        damaged[position] ^= 1
        (saved / name).write_bytes(damaged)
        with pytest.raises(BundleError, match=f"^{name}: sha256 must be"):
            load_bundle(saved)


def test_a_flipped_bit_is_found_anywhere_in_the_manifest(saved: Path) -> None:
    content = (saved / "bundle.json").read_bytes()
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        (saved / "bundle.json").write_bytes(damaged)
        with pytest.raises(BundleError):
            load_bundle(saved)


@pytest.mark.parametrize(
    "name", ["bundle.json", "config.json", "scaler.safetensors", "adapter.safetensors", "members/1.safetensors"]
)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(BundleError, match=f"^{name}: must be a file in .*, was missing"):
        load_bundle(saved)


def test_an_unknown_version_is_named(saved: Path) -> None:
    manifest = json.loads((saved / "bundle.json").read_text())
    (saved / "bundle.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(BundleError, match=r"bundle\.json: format must be 1, was 99"):
        load_bundle(saved)


def test_a_file_outside_the_folder_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / "bundle.json").read_text())
    manifest["files"]["../secret"] = "0" * 64
    (saved.parent / "secret").touch()
    (saved / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"^\.\./secret"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": [0.5, 0.5]}, "config.json: weights must be 3 numbers"),
        ({"temperature": -1}, "config.json: temperature: .*greater than 0, was -1"),
        ({"context_bars": "many"}, "config.json: context_bars: .*integer.*was 'many'"),
        ({"wings": 2}, "config.json: wings: Extra inputs"),
        ({"feature_names": ["return_1"]}, "config.json: feature_names must have 3 entries as the members have, had 1"),
        ({"quantile_shift": [[0.0]]}, r"config.json: quantile_shift must have shape \[3, 3\]"),
        ({"error_correlation": [[1.0]]}, r"config.json: error_correlation must have shape \[3, 3\]"),
        ({"members": []}, "config.json: members"),
    ],
)
def test_a_wrong_field_is_named(saved: Path, changes: dict[str, object], words: str) -> None:
    edit_config(saved, **changes)
    with pytest.raises(BundleError, match=words):
        load_bundle(saved)


def test_a_tensor_of_the_wrong_shape_is_named(saved: Path) -> None:
    path = saved / "members" / "1.safetensors"
    weights = safetensors.torch.load_file(path)
    safetensors.torch.save_file(weights | {"asset": torch.zeros(2, 5)}, path)
    reseal(saved, "members/1.safetensors")
    with pytest.raises(BundleError, match=r"members/1.safetensors: asset must have shape \[2, 4\], was \[2, 5\]"):
        load_bundle(saved)


def test_contradicting_parts_are_refused_on_saving(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="symbols must have 2 entries"):
        save_bundle(tmp_path / "bundle", replace(make_bundle(), symbols=("BTCUSDT",)))
    assert not (tmp_path / "bundle").exists()
