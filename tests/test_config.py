"""The experiment: presets are valid, changes are checked and named, and every setting is in the fingerprint."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from cryptoml.config import PRESETS, ExperimentConfig, load_config, preset
from cryptoml.errors import ConfigError


def refused(**changes: object) -> str:
    """Return the message of the error, which must be of one line."""
    with pytest.raises(ConfigError) as caught:
        preset("debug").updated(**changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestPresets:
    @pytest.mark.parametrize("name", PRESETS)
    def test_is_valid_and_survives_json(self, name: str) -> None:
        config = preset(name)
        assert ExperimentConfig.model_validate(json.loads(config.model_dump_json())) == config
        assert config.updated() == config

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_member_divides_among_its_heads(self, name: str) -> None:
        assert all(member.hidden_size % member.num_heads == 0 for member in preset(name).members)

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"preset must be one of .*'debug'.*, was 'huge'"):
            preset("huge")


class TestChanges:
    def test_nested_changes_leave_the_rest(self) -> None:
        base = preset("debug")
        changed = base.updated(training={"max_epochs": 3}, walk_forward={"num_folds": 2})
        assert changed.training.max_epochs == 3
        assert changed.training.patience == base.training.patience
        assert changed.walk_forward.num_folds == 2
        assert base.walk_forward.num_folds == 1

    def test_feature_groups_that_are_not_computed_are_named(self) -> None:
        member = {"name": "a", "feature_groups": ["price", "onchain"]}
        message = refused(members=[member], features={"categories": ["price"]})
        assert "feature_groups of member a must be among ['price'], was 'onchain'" in message

    def test_members_are_replaced_as_a_whole(self) -> None:
        changed = preset("debug").updated(members=[{"name": "only", "architecture": "linear"}])
        assert [member.name for member in changed.members] == ["only"]

    @pytest.mark.parametrize(
        ("changes", "field", "value"),
        [
            ({"sede": 1}, "sede", "1"),
            ({"training": {"epochs": 3}}, "training.epochs", "3"),
            ({"training": {"max_epochs": 0}}, "training.max_epochs", "0"),
            ({"lookback": "long"}, "lookback", "'long'"),
            ({"features": {"categories": ["astrology"]}}, "features.categories", "astrology"),
            ({"features": {"timeframe": "1M"}}, "features.timeframe", "1M"),
            ({"targets": {"primary_horizon": 5}}, "targets", "5"),
            ({"members": [{"name": "a", "architecture": "oracle"}]}, "members.0.architecture", "oracle"),
            ({"members": [{"name": "Not a name"}]}, "members.0.name", "Not a name"),
            ({"walk_forward": {"test_fraction": 1.5}}, "walk_forward.test_fraction", "1.5"),
            ({"training": 7}, "training", "7"),
            ({"sweep": {"space": {"hidden_size": [10], "num_heads": [4]}}}, "sweep.space", "10"),
        ],
    )
    def test_an_impossible_one_names_field_and_value(self, changes: dict[str, object], field: str, value: str) -> None:
        message = refused(**changes)
        assert f"setting {field}" in message
        assert value in message

    @pytest.mark.parametrize("names", [[], ["tft", "tft"]])
    def test_members_must_be_there_and_differ(self, names: list[str]) -> None:
        assert "different names" in refused(members=[{"name": name} for name in names])

    def test_heads_that_do_not_divide_a_member_are_refused_before_anything_runs(self) -> None:
        assert "num_heads" in refused(members=[{"name": "odd", "hidden_size": 10, "num_heads": 4}])

    def test_a_member_may_not_take_the_name_of_the_control_run(self) -> None:
        assert "shuffled_labels" in refused(members=[{"name": "shuffled_labels"}])

    def test_is_frozen(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            preset("debug").seed = 3  # type: ignore[misc]


class TestFingerprint:
    def test_is_the_same_for_the_same_settings(self) -> None:
        assert preset("debug").fingerprint() == preset("debug").updated().fingerprint()

    @pytest.mark.parametrize(
        "changes",
        [
            {"seed": 1},
            {"training": {"learning_rate": 0.5}},
            {"members": [{"name": "only"}]},
            {"trading": {"min_confidence": 0.9}},
            {"workers": {"num_workers": 2}},
        ],
    )
    def test_changes_with_any_setting(self, changes: dict[str, object]) -> None:
        assert preset("debug").updated(**changes).fingerprint() != preset("debug").fingerprint()

    def test_does_not_depend_on_where_members_are_fitted(self) -> None:
        changed = preset("debug").updated(workers={"cpus": 4, "gpus": 0.5, "max_concurrent": 1, "keep_checkpoints": True})
        assert changed.fingerprint() == preset("debug").fingerprint()


class TestFile:
    def load(self, folder: Path, text: str) -> ExperimentConfig:
        path = folder / "experiment.yaml"
        path.write_text(text)
        return load_config(path, preset("debug"))

    def test_states_only_what_changes(self, tmp_path: Path) -> None:
        config = self.load(tmp_path, "seed: 3\ntraining: {max_epochs: 2}\n")
        assert config == preset("debug").updated(seed=3, training={"max_epochs": 2})

    def test_without_content_changes_nothing(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, "# later\n") == preset("debug")

    def test_starts_from_the_baseline_by_default(self, tmp_path: Path) -> None:
        path = tmp_path / "experiment.yaml"
        path.write_text("seed: 5\n")
        assert load_config(path) == preset("baseline").updated(seed=5)

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("- seed", "mapping"),
            ("seed: [1", "cannot be read"),
            ("sede: 1", "setting sede"),
            ("1: 2", "setting 1"),
            ("training: {1: 2}", "training"),
            ("\x00", "read"),
        ],
    )
    def test_with_a_fault_is_refused_in_one_line(self, tmp_path: Path, text: str, named: str) -> None:
        with pytest.raises(ConfigError, match=named) as caught:
            self.load(tmp_path, text)
        assert "\n" not in str(caught.value)

    def test_that_is_no_text_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "experiment.yaml"
        path.write_bytes(b"\xff\xfe\x00bad\x80")
        with pytest.raises(ConfigError, match=r"experiment\.yaml"):
            load_config(path)

    def test_that_is_absent_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
            load_config(tmp_path / "absent.yaml")
