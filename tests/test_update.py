"""Continual operation: a challenger serves only if it beats the champion on bars that neither has seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.panel import Panel
from cryptoml.data.splits import Span
from cryptoml.errors import BundleError, ConfigError, DataError
from cryptoml.evaluation.drift import Drift
from cryptoml.evaluation.uncertainty import Interval
from cryptoml.models.bundle import Bundle, load_bundle
from cryptoml.models.registry import Registry
from cryptoml.pipeline import Pipeline, open_market
from cryptoml.training.renewal import RenewalConfig
from cryptoml.update import Update, UpdateConfig, _origin, update
from cryptoml.update_plan import choose_method, plan_spans
from cryptoml.walk_forward import compute_features
from tests.tiny import tiny_experiment

SMALL = RenewalConfig(memory_size=8, chunk_bars=64, epochs=1)
RULES = UpdateConfig(judge_bars=120, least_new_bars=24, reference_bars=300, renewal=SMALL)
EXPERIMENT = tiny_experiment(sweep={"num_trials": 0}, shuffled_label_run=False)
MARKET = open_market("synthetic", EXPERIMENT)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model that knows the first 1,000 of 1,500 bars."""
    out = tmp_path_factory.mktemp("champion")
    pipeline = Pipeline.open(EXPERIMENT, MARKET, out, train_end=MARKET.panel.timestamps[1000])
    with pipeline.run:
        pipeline.train()
    return load_bundle(out / "bundle")


@pytest.fixture
def registry(tmp_path: Path, champion: Bundle) -> Registry:
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.add(champion))
    return registry


def never(_: pd.Timestamp) -> Bundle:
    raise AssertionError("no refit was due")


def run_update(registry: Registry, panel: Panel = MARKET.panel, rules: UpdateConfig = RULES) -> Update:
    return update(registry, panel, compute=compute_features, refit=never, config=rules)


def test_the_champion_knows_until_when_it_has_read(champion: Bundle) -> None:
    known = pd.Timestamp(champion.known_until)
    assert MARKET.panel.timestamps[980] < known < MARKET.panel.timestamps[1000]


class TestSpans:
    stamps = MARKET.panel.timestamps

    def test_no_label_to_learn_reaches_the_judging_bars(self) -> None:
        spans = plan_spans(self.stamps, self.stamps[999], 4, RULES)
        assert (spans.learn.start, spans.judge.stop) == (1000, 1496)
        assert spans.learn.stop - 1 + 4 < spans.judge.start == 1376
        assert spans.reference.stop + 4 <= 1000

    def test_few_new_bars_are_all_for_judging(self) -> None:
        spans = plan_spans(self.stamps, self.stamps[1400], 4, RULES)
        assert len(spans.learn) == 0
        assert (spans.judge.start, spans.judge.stop) == (1401, 1496)

    def test_what_the_adapter_has_read_is_not_judged_by(self) -> None:
        spans = plan_spans(self.stamps, self.stamps[999], 4, RULES, self.stamps[1449])
        assert (spans.learn, spans.judge) == (Span(1000, 1446), Span(1450, 1496))
        none = plan_spans(self.stamps, self.stamps[999], 4, RULES, self.stamps[1499])
        assert (len(none.judge), none.learn.stop + 4) == (0, 1496)

    def test_none_is_an_error_that_says_how_many(self) -> None:
        with pytest.raises(DataError, match="28 bars past"):
            plan_spans(self.stamps, self.stamps[1490], 4, RULES)


class TestRule:
    spans = plan_spans(MARKET.panel.timestamps, MARKET.panel.timestamps[999], 4, RULES)

    @pytest.mark.parametrize(
        ("shifted", "rose", "rehearsed", "expected"),
        [
            (0.0, True, True, "adapt"),
            (0.0, True, False, "continual"),
            (0.0, False, True, "continual"),
            (0.9, True, True, "refit"),
            (0.9, False, True, "continual"),
        ],
    )
    def test_a_regime_shift_is_met_by_adaptation(self, shifted: float, rose: bool, rehearsed: bool, expected: str) -> None:
        level = 2.0 if rose else 1.0
        drift = Drift(
            stability={},
            shifted_share=shifted,
            loss_before=Interval(1.0, 0.9, 1.1),
            loss_after=Interval(level, level - 0.1, level + 0.1),
            calibration_before=0.0,
            calibration_after=0.0,
        )
        assert choose_method(RULES, self.spans, drift, 4, rehearsed=rehearsed)[0] == expected

    def test_few_bars_are_enough_for_an_adaptation_alone(self) -> None:
        spans = plan_spans(MARKET.panel.timestamps, MARKET.panel.timestamps[1400], 4, RULES)
        calm = Drift({}, 0.0, Interval(1.0, 0.9, 1.1), Interval(1.0, 0.9, 1.1), 0.0, 0.0)
        risen = replace(calm, loss_after=Interval(2.0, 1.9, 2.1))
        assert choose_method(RULES, spans, risen, 4, rehearsed=True)[0] == "adapt"
        assert choose_method(RULES, spans, risen, 4, rehearsed=False)[0] is None

    @pytest.mark.parametrize("strategy", ["auto", "adapt", "continual", "refit"])
    def test_too_few_bars_to_judge_by_are_counted(self, strategy: str) -> None:
        risen = Drift({}, 0.0, Interval(1.0, 0.9, 1.1), Interval(2.0, 1.9, 2.1), 0.0, 0.0)
        rules = RULES.model_copy(update={"strategy": strategy})
        method, reason = choose_method(rules, self.spans, risen, 24, rehearsed=True)
        assert (method, "120 bars to judge" in reason, "fewer than 144; judge_bars is 120" in reason) == (None, True, True)


class TestUpdate:
    def test_a_continual_step_becomes_a_version(self, registry: Registry, champion: Bundle) -> None:
        before = registry.champion()
        done = run_update(registry)
        assert done.method == "continual"
        assert done.duel is not None
        assert done.version in registry.versions()
        assert registry.champion() == (done.version if done.promoted else before)
        assert done.promoted == (done.duel.difference.high < 0)
        challenger = registry.load(done.version)
        assert pd.Timestamp(champion.known_until) < pd.Timestamp(challenger.known_until)
        assert pd.Timestamp(challenger.known_until) < MARKET.panel.timestamps[done.spans.judge.start]
        assert {"BULL", "BEAR"} & set(done.duel.forgetting)
        assert done.row()["duel"]["won"] == done.promoted

    @pytest.mark.parametrize("promoted", [True, False])
    def test_what_lost_or_was_rolled_back_is_not_made_again(
        self, registry: Registry, champion: Bundle, monkeypatch: pytest.MonkeyPatch, promoted: bool
    ) -> None:
        monkeypatch.setattr("cryptoml.update.Duel.won", property(lambda self: promoted))
        first, panel = registry.champion(), MARKET.panel.slice_time(None, 1450)
        done = run_update(registry, panel)
        assert registry.load(done.version).data_fingerprint == panel.fingerprint() != champion.data_fingerprint
        if promoted:
            assert registry.champion() == done.version
            registry.rollback()
        again = run_update(registry, panel)
        assert (again.method, again.version, again.promoted) == (None, None, False)
        fate = "was rolled back" if promoted else "lost its duel"
        assert f"continual would make {done.version} again, which {fate}" in again.reason
        assert registry.champion() == first
        assert len(registry.versions()) == 2

    def test_other_settings_champions_or_data_make_another_challenger(self) -> None:
        same = _origin("continual", "champion", MARKET.panel, RULES, "")
        asked = RULES.model_copy(update={"strategy": "continual"})
        slower = RULES.model_copy(update={"renewal": SMALL.model_copy(update={"learning_rate": 1e-5})})
        assert _origin("continual", "champion", MARKET.panel, asked, "") == same, "who chose the method does not count"
        others = {
            _origin("refit", "champion", MARKET.panel, RULES, ""),
            _origin("continual", "another", MARKET.panel, RULES, ""),
            _origin("continual", "champion", MARKET.panel.slice_time(None, 1499), RULES, ""),
            _origin("continual", "champion", MARKET.panel, slower, ""),
            _origin("continual", "champion", MARKET.panel, RULES, "settings"),
        }
        assert len(others - {same}) == 5

    def test_an_adapted_champion_is_judged_by_bars_that_its_adapter_has_not_read(self, registry: Registry) -> None:
        adapting = run_update(registry, MARKET.panel.slice_time(None, 1440), RULES.model_copy(update={"strategy": "adapt"}))
        registry.promote(str(adapting.version))
        at_once = run_update(registry, MARKET.panel.slice_time(None, 1440))
        assert (at_once.method, at_once.drift, len(at_once.spans.judge)) == (None, None, 0)
        assert "0 bars to judge that the champion has not read, fewer than 24" in at_once.reason
        assert at_once.row()["drift"] is None
        later = run_update(registry, rules=RULES.model_copy(update={"strategy": "continual"}))
        assert later.spans.judge == Span(1440, 1496)
        assert later.spans.learn.start == adapting.spans.learn.start, "what its members have not learned is still to be learned"
        renewed = registry.load(later.version)
        assert (renewed.ensemble.adapter, "adapted_until" in renewed.metrics) == (None, False)

    def test_an_adaptation_becomes_a_version_that_serves_adapted(self, registry: Registry, champion: Bundle) -> None:
        done = run_update(registry, rules=RULES.model_copy(update={"strategy": "adapt"}))
        assert done.method == "adapt"
        assert done.duel is not None
        assert done.promoted == done.duel.won
        assert {"BULL", "BEAR"} & set(done.duel.forgetting)
        challenger = registry.load(done.version)
        assert challenger.ensemble.adapter is not None
        assert challenger.known_until == champion.known_until
        for one, other in zip(champion.ensemble.members, challenger.ensemble.members, strict=True):
            assert all(value.equal(other.state_dict()[name]) for name, value in one.state_dict().items())

    def test_bars_to_judge_change_nothing_that_is_learned(self, registry: Registry) -> None:
        start = run_update(registry).spans.judge.start
        candles = MARKET.panel.candles.copy()
        candles[:, start + 1 :, :4] *= np.exp(np.random.default_rng(0).normal(0, 0.02, (3, 1500 - start - 1, 1))).cumprod(axis=1)
        run_update(registry, replace(MARKET.panel, candles=candles))
        first, second = (registry.load(version) for version in registry.versions()[1:3])
        for one, other in zip(first.ensemble.members, second.ensemble.members, strict=True):
            assert all(value.equal(other.state_dict()[name]) for name, value in one.state_dict().items())

    def test_a_worse_challenger_is_kept_and_does_not_serve(self, registry: Registry, champion: Bundle) -> None:
        broken = replace(
            champion, ensemble=replace(champion.ensemble, calibration=replace(champion.ensemble.calibration, temperature=0.01))
        )
        before = registry.champion()
        done = update(
            registry,
            MARKET.panel,
            compute=compute_features,
            refit=lambda _: broken,
            config=RULES.model_copy(update={"strategy": "refit"}),
        )
        assert (done.method, done.promoted) == ("refit", False)
        assert registry.champion() == before
        assert len(registry.versions()) == 2

    def test_a_better_challenger_serves_and_can_be_rolled_back(self, registry: Registry, champion: Bundle) -> None:
        ensemble = champion.ensemble
        broken = replace(champion, ensemble=replace(ensemble, calibration=replace(ensemble.calibration, temperature=0.01)))
        registry.promote(registry.add(broken))
        worse = registry.champion()
        done = update(
            registry,
            MARKET.panel,
            compute=compute_features,
            refit=lambda _: champion,
            config=RULES.model_copy(update={"strategy": "refit"}),
        )
        assert done.promoted
        assert registry.champion() == done.version
        assert registry.rollback() == worse

    def test_a_refit_knows_nothing_of_the_judging_bars(self, registry: Registry, champion: Bundle) -> None:
        asked: list[pd.Timestamp] = []

        def refit(instant: pd.Timestamp) -> Bundle:
            asked.append(instant)
            return champion

        done = update(
            registry, MARKET.panel, compute=compute_features, refit=refit, config=RULES.model_copy(update={"strategy": "refit"})
        )
        assert asked == [MARKET.panel.timestamps[done.spans.judge.start]]

    def test_too_little_that_is_new_changes_nothing(self, registry: Registry) -> None:
        done = run_update(registry, MARKET.panel.slice_time(None, 1100))
        assert done.method is None
        assert "fewer than 24" in done.reason
        assert len(registry.versions()) == 1

    def test_a_symbol_that_is_gone_is_named(self, registry: Registry) -> None:
        with pytest.raises(DataError, match="lacks BTCUSDT"):
            run_update(registry, MARKET.panel.select(MARKET.panel.symbols[1:]))

    def test_a_symbol_that_is_new_is_told_and_a_refit_may_know_it(self, registry: Registry, champion: Bundle) -> None:
        few = MARKET.panel.symbols[1:]
        pipeline_market = replace(MARKET, panel=MARKET.panel.select(few))
        pipeline = Pipeline.open(EXPERIMENT, pipeline_market, registry.address + "-few", train_end=MARKET.panel.timestamps[1000])
        with pipeline.run:
            pipeline.train()
        registry.promote(registry.add(load_bundle(Path(registry.address + "-few") / "bundle")))
        done = run_update(registry)
        assert done.new_symbols == (MARKET.panel.symbols[0],)
        rules = RULES.model_copy(update={"strategy": "refit"})
        refitted = update(registry, MARKET.panel, compute=compute_features, refit=lambda _: champion, config=rules)
        assert refitted.duel is not None
        assert refitted.duel.challenger != refitted.duel.champion
        assert registry.load(refitted.version).symbols == MARKET.panel.symbols

    def test_a_refit_with_other_labels_is_refused(self, registry: Registry, champion: Bundle) -> None:
        other = replace(champion, target_config={**champion.target_config, "direction_threshold": 0.7})
        rules = RULES.model_copy(update={"strategy": "refit"})
        with pytest.raises(ConfigError, match=r"targets.direction_threshold must be the champion's 0.5"):
            update(registry, MARKET.panel, compute=compute_features, refit=lambda _: other, config=rules)
        fewer = replace(champion, symbols=champion.symbols[:2])
        with pytest.raises(ConfigError, match=f"lacks {champion.symbols[2]}"):
            update(registry, MARKET.panel, compute=compute_features, refit=lambda _: fewer, config=rules)

    def test_features_of_another_version_are_refused(self, registry: Registry, champion: Bundle) -> None:
        names = ("another", *champion.feature_names[1:])
        registry.promote(registry.add(replace(champion, feature_names=names)))
        with pytest.raises(BundleError, match="train it anew"):
            run_update(registry)

    def test_without_a_champion_there_is_nothing_to_update(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no champion"):
            run_update(Registry(tmp_path / "empty"))
