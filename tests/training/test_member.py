"""Fitting a member: it reads its fold and nothing later, repeats for a seed, resumes, and survives a file."""

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryptoml.data.splits import Fold, Span
from cryptoml.errors import ConfigError, DataError
from cryptoml.features.targets import Targets
from cryptoml.models.forecaster import ForecasterConfig
from cryptoml.training.checkpoint import write_tensors
from cryptoml.training.config import EpochEnd, TrainingConfig
from cryptoml.training.member import (
    FittedMember,
    FoldData,
    MemberConfig,
    MemberTask,
    _loader,
    fit_member,
    load_fitted,
    save_fitted,
    shuffled,
)
from cryptoml.training.randomness import derived_seed
from tests.training.conftest import LOOKBACK

LABELS = ("log_return", "direction", "volatility", "regime", "position_size")


def with_labels(data: FoldData, bars: slice) -> FoldData:
    """Replace the labels of some origins by others."""
    random = np.random.default_rng(9)
    changed = {}
    for name in LABELS:
        values = getattr(data.targets, name).copy()
        part = values[:, bars]
        part[...] = random.integers(0, 3, part.shape) if values.dtype == np.int8 else random.random(part.shape)
        changed[name] = values
    return replace(data, targets=replace(data.targets, **changed))


def with_features(data: FoldData, bars: slice) -> FoldData:
    """Replace the features of some bars by noise."""
    features = data.features.copy()
    features[:, bars] = np.random.default_rng(9).standard_normal(features[:, bars].shape)
    return replace(data, features=features)


def same(left: FittedMember, right: FittedMember) -> bool:
    """Return whether two members have the same weights, bit by bit."""
    return all(np.array_equal(left.weights[name], right.weights[name]) for name in left.weights | right.weights)


def origins(data: FoldData, task: MemberTask, span: Span, *, shuffle: bool, epoch: int = 0) -> Counter[int]:
    """Count how often each bar of the first asset carries loss in an epoch."""
    counts: Counter[int] = Counter()
    for batch in _loader(data, data.targets, task, span, shuffle=shuffle).iterate(epoch):
        for row, chunk in zip(batch.origin_mask[:, 0].numpy(), batch.spans, strict=True):
            counts.update((np.flatnonzero(row) + chunk.start).tolist())
    return counts


class TestFeatureGroups:
    def test_a_member_learns_from_its_own_groups_alone(self, fold_data: FoldData, task: MemberTask) -> None:
        member = MemberConfig(name="tcn", architecture="tcn", hidden_size=8, num_heads=2, feature_groups=("price", "time"))
        narrow = member.task(fold_data, task.training, LOOKBACK)
        assert narrow.forecaster.columns == (0, 2)
        assert narrow.forecaster.num_features == task.forecaster.num_features
        features = fold_data.features.copy()
        features[..., 1] = np.random.default_rng(0).standard_normal(features.shape[:2])
        assert same(fit_member(fold_data, narrow), fit_member(replace(fold_data, features=features), narrow))

    def test_a_group_that_the_data_has_not_is_named(self, fold_data: FoldData, task: MemberTask) -> None:
        member = MemberConfig(name="tcn", feature_groups=("onchain",))
        with pytest.raises(ConfigError, match=r"feature groups must be among .*price.*, was 'onchain'"):
            member.task(fold_data, task.training, LOOKBACK)


class TestOrigins:
    @pytest.mark.parametrize("epoch", [0, 1, 2])
    def test_each_training_origin_with_history_carries_loss_once(self, fold_data: FoldData, task: MemberTask, epoch: int) -> None:
        train = fold_data.fold.train
        expected = range(train.start + LOOKBACK - 1, train.stop)
        assert origins(fold_data, task, train, shuffle=True, epoch=epoch) == Counter(expected)

    def test_each_validation_origin_carries_loss_once(self, fold_data: FoldData, task: MemberTask) -> None:
        span = fold_data.fold.validation
        assert origins(fold_data, task, span, shuffle=False) == Counter(range(span.start, span.stop))

    def test_a_later_training_start_reads_context_before_it(self, fold_data: FoldData, task: MemberTask) -> None:
        assert origins(fold_data, task, Span(50, 150), shuffle=True) == Counter(range(50, 150))

    def test_too_short_a_span_is_named(self, fold_data: FoldData, task: MemberTask) -> None:
        fold = Fold(Span(0, LOOKBACK - 1), fold_data.fold.validation, fold_data.fold.test)
        with pytest.raises(ConfigError, match="lookback"):
            fit_member(replace(fold_data, fold=fold), task)


@pytest.fixture(scope="module")
def fitted(fold_data: FoldData, task: MemberTask) -> FittedMember:
    return fit_member(fold_data, task)


class TestNoPeeking:
    def test_repeats_for_a_seed(self, fold_data: FoldData, task: MemberTask, fitted: FittedMember) -> None:
        torch.rand(3)
        assert same(fit_member(fold_data, task), fitted)
        other = replace(task, training=task.training.updated(seed=4))
        assert not same(fit_member(fold_data, other), fitted)

    @pytest.mark.parametrize("change", [with_labels, with_features])
    def test_nothing_after_the_validation_span_is_read(
        self, fold_data: FoldData, task: MemberTask, fitted: FittedMember, change: Any
    ) -> None:
        again = fit_member(change(fold_data, slice(fold_data.fold.validation.stop, None)), task)
        assert same(again, fitted)
        assert again.validation_loss == fitted.validation_loss

    def test_no_label_of_the_purged_bars_is_read(self, fold_data: FoldData, task: MemberTask, fitted: FittedMember) -> None:
        purged = slice(fold_data.fold.train.stop, fold_data.fold.validation.start)
        again = fit_member(with_labels(fold_data, purged), task)
        assert same(again, fitted)
        assert again.validation_loss == fitted.validation_loss

    @pytest.mark.parametrize("change", [with_labels, with_features])
    def test_one_epoch_learns_from_the_training_span_alone(self, fold_data: FoldData, task: MemberTask, change: Any) -> None:
        once = replace(task, training=task.training.updated(max_epochs=1))
        changed = change(fold_data, slice(fold_data.fold.train.stop, None))
        assert same(fit_member(changed, once), fit_member(fold_data, once))

    def test_training_labels_matter(self, fold_data: FoldData, task: MemberTask, fitted: FittedMember) -> None:
        assert not same(fit_member(with_labels(fold_data, fold_data.fold.train.bars), task), fitted)


class TestShuffledLabels:
    def test_sigma_threshold_and_test_labels_stay(self, fold_data: FoldData) -> None:
        targets, fold = fold_data.targets, fold_data.fold
        mixed = shuffled(targets, fold, seed=1)
        assert mixed.sigma is targets.sigma
        assert mixed.threshold is targets.threshold
        assert mixed.label_bars == targets.label_bars
        for name in LABELS:
            np.testing.assert_array_equal(
                getattr(mixed, name)[:, fold.validation.stop :], getattr(targets, name)[:, fold.validation.stop :]
            )
            assert not np.array_equal(getattr(mixed, name), getattr(targets, name), equal_nan=True)

    def test_permutes_inside_each_span_all_labels_and_assets_alike(self, fold_data: FoldData) -> None:
        bars = np.arange(fold_data.targets.sigma.shape[1])
        numbered = {name: np.broadcast_to(bars, (2, len(bars))) for name in LABELS}
        targets = Targets(**{one.name: numbered.get(one.name, getattr(fold_data.targets, one.name)) for one in fields(Targets)})
        mixed = shuffled(targets, fold_data.fold, seed=1)
        order = mixed.direction[0]
        assert all(np.array_equal(getattr(mixed, name), np.broadcast_to(order, (2, len(bars)))) for name in LABELS)
        for span in (fold_data.fold.train, fold_data.fold.validation):
            assert sorted(order[span.bars]) == bars[span.bars].tolist()

    def test_the_seed_decides(self, fold_data: FoldData) -> None:
        first, again, other = (shuffled(fold_data.targets, fold_data.fold, seed).direction for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_a_task_can_ask_for_it(self, fold_data: FoldData, task: MemberTask) -> None:
        control = replace(task, shuffle_labels=True)
        expected = fit_member(replace(fold_data, targets=shuffled(fold_data.targets, fold_data.fold, task.training.seed)), task)
        assert same(fit_member(fold_data, control), expected)


class TestFile:
    def test_keeps_everything_bit_by_bit(self, tmp_path: Path, fold_data: FoldData, task: MemberTask) -> None:
        fitted = fit_member(fold_data, task)
        path = tmp_path / "member.safetensors"
        save_fitted(path, fitted)
        loaded = load_fitted(path)
        assert same(loaded, fitted)
        assert (loaded.name, loaded.forecaster, loaded.validation_loss) == (
            fitted.name,
            fitted.forecaster,
            fitted.validation_loss,
        )
        assert loaded.history == fitted.history
        window = torch.randn(1, 2, 12, 3)
        for left, right in zip(loaded.build()(window), fitted.build()(window), strict=True):
            assert torch.equal(left, right)

    def test_takes_read_only_weights_as_an_object_store_gives_them(self, tmp_path: Path, task: MemberTask) -> None:
        weights = {"a": np.arange(3.0)}
        weights["a"].setflags(write=False)
        save_fitted(tmp_path / "member.safetensors", FittedMember("a", task.forecaster, weights, {"mae": [float("nan")]}))
        loaded = load_fitted(tmp_path / "member.safetensors")
        np.testing.assert_array_equal(loaded.weights["a"], weights["a"])
        assert np.isnan(loaded.history["mae"][0])

    @pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
    def test_that_is_absent_or_damaged_is_named(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "member.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=r"member\.safetensors"):
            load_fitted(path)

    def test_of_another_kind_is_named(self, tmp_path: Path) -> None:
        path = write_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"epoch": 3})
        with pytest.raises(DataError, match=r"other\.safetensors"):
            load_fitted(path)


class TestResume:
    def test_an_interrupted_fit_goes_on_to_the_same_weights(self, tmp_path: Path, fold_data: FoldData, task: MemberTask) -> None:
        longer = replace(task, training=task.training.updated(max_epochs=3))
        seen: list[int] = []

        def interrupt(event: EpochEnd) -> None:
            if event.epoch == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_member(fold_data, longer, checkpoint_dir=tmp_path, on_epoch_end=interrupt)
        resumed = fit_member(fold_data, longer, checkpoint_dir=tmp_path, on_epoch_end=lambda event: seen.append(event.epoch))
        assert seen == [3]
        assert same(resumed, fit_member(fold_data, longer))

    def test_a_finished_fit_is_not_repeated(self, tmp_path: Path, fold_data: FoldData, task: MemberTask) -> None:
        first = fit_member(fold_data, task, checkpoint_dir=tmp_path)
        again = fit_member(fold_data, task, checkpoint_dir=tmp_path, on_epoch_end=lambda _: pytest.fail("was trained again"))
        assert same(again, first)
        assert again.history == first.history


class TestTask:
    def test_data_decides_the_shapes_and_the_member_its_rate_and_seed(self, fold_data: FoldData) -> None:
        member = MemberConfig(name="own", hidden_size=8, num_heads=2, learning_rate=0.5, seed=2)
        task = member.task(fold_data, TrainingConfig(learning_rate=0.1), LOOKBACK, seed=10)
        assert (task.name, task.training.learning_rate, task.training.seed) == ("own", 0.5, derived_seed(10, 2))
        assert isinstance(task.forecaster, ForecasterConfig)
        assert (task.forecaster.num_features, task.forecaster.num_assets, task.forecaster.lookback) == (3, 2, LOOKBACK)
        assert (task.forecaster.horizons, task.forecaster.volatility_horizon) == ((1, 4), 4)

    def test_seeds_of_experiment_and_member_do_not_add_up(self, fold_data: FoldData) -> None:
        seeds = {
            MemberConfig(name="any", seed=own).task(fold_data, TrainingConfig(), LOOKBACK, seed=seed).training.seed
            for own in range(6)
            for seed in range(6)
        }
        assert len(seeds) == 36

    def test_the_rate_of_the_loop_holds_otherwise(self, fold_data: FoldData) -> None:
        task = MemberConfig(name="plain").task(fold_data, TrainingConfig(learning_rate=0.1), LOOKBACK)
        assert task.training.learning_rate == 0.1

    def test_settings_of_another_checkpoint_are_refused(self, tmp_path: Path, fold_data: FoldData, task: MemberTask) -> None:
        fit_member(fold_data, task, checkpoint_dir=tmp_path)
        with pytest.raises(ConfigError, match="learning_rate"):
            fit_member(fold_data, replace(task, training=task.training.updated(learning_rate=0.5)), checkpoint_dir=tmp_path)
