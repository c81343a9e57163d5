"""Keep the model that serves current: measure drift, train a challenger, promote it only if it is better beyond noise.

The registry keeps every version and its history; going back is `--rollback`.
"""

import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptoml.data.storage import folder_below, open_storage
from cryptoml.errors import BundleError, ConfigError
from cryptoml.update_config import UpdateConfig
from jobs.command_line import begin_result, run, say, write_result
from jobs.experiment import ExperimentArguments
from jobs.stages import clear_storage, open_stages, read_data

if TYPE_CHECKING:
    import pandas as pd

    from cryptoml.models.bundle import Bundle
    from cryptoml.models.registry import Registry
    from cryptoml.pipeline import Stages
    from cryptoml.update import Update

__all__ = ["UpdateArguments", "main"]


@dataclass(frozen=True, kw_only=True)
class UpdateArguments(ExperimentArguments):
    """Update the registry's champion with the newest data, or roll it back.

    An adaptation to a new regime, a continual step (elastic weight consolidation and replay) or a refit makes a
    challenger. It is judged against the champion on the newest bars, which neither has seen, and promoted only if its loss
    is lower beyond noise. Without a champion the first model is trained, or adopted with --adopt, and promoted. Writes
    OUT/result.json.
    """

    registry: str
    """Folder of the model versions, local or s3://."""
    adopt: str | None = None
    """Bundle to register and promote, local or s3://, such as runs/first/bundle."""
    rollback: bool = False
    """Make the champion before the present one serve again, and do nothing else."""
    update: UpdateConfig = field(default_factory=UpdateConfig)
    """Rules of the update."""


def main(arguments: UpdateArguments) -> int:
    """Run the job; return its exit code."""
    open_storage(arguments.registry).require_bucket()
    open_storage(arguments.out).require_bucket()
    from cryptoml.models.registry import Registry
    from cryptoml.update import update

    _require_folder(arguments.registry)
    registry = Registry(arguments.registry)
    begin_result(arguments.out, "update_models")
    if arguments.rollback:
        version = registry.rollback(reason="asked for")
        say(f"{version} serves again")
        write_result(arguments.out, job="update_models", method="rollback", version=version, champion=version)
        return 0
    if arguments.adopt is not None:
        place = open_storage(arguments.adopt).address
        return _crown(arguments, registry, _fetched(arguments.adopt), "adopt", f"adopted from {place}")
    with open_stages(arguments) as stages:
        if registry.champion() is None:
            return _crown(arguments, registry, _train(arguments, stages, None), "first", "first model")
        panel = read_data(arguments, arguments.experiment()).panel
        done = update(
            registry,
            panel,
            compute=lambda panel, config: stages.features(panel, config, folder_below(arguments.out, ".work/update")),
            refit=lambda instant: _train(arguments, stages, instant, registry.load()),
            config=arguments.update,
            refit_settings=arguments.experiment().model_dump_json(),
        )
    _show(done)
    write_result(arguments.out, job="update_models", champion=registry.champion(), **done.row())
    return 0


def _require_folder(registry: str) -> None:
    """Refuse a place where no version could be stored, before hours of training.

    Raises:
        ConfigError: A file is in the way, or the folder may not be written.
    """
    storage = open_storage(registry)
    if not storage.is_local:
        return
    place = Path(storage.base)
    existing = next(one for one in (place, *place.parents) if one.exists())
    if not existing.is_dir():
        raise ConfigError(f"registry must be a folder, was {storage.address}, where {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"registry must be a folder that may be written, was {storage.address}")


def _crown(arguments: UpdateArguments, registry: "Registry", bundle: "Bundle", method: str, reason: str) -> int:
    version = _serving(registry, bundle)
    if version is None:
        version = registry.add(bundle, reason=reason)
        registry.promote(version, reason=reason)
        say(f"{version} serves now: {reason}")
    else:
        say(f"{version} serves already: {reason}")
    write_result(arguments.out, job="update_models", method=method, version=version, champion=version, reason=reason)
    return 0


def _serving(registry: "Registry", bundle: "Bundle") -> str | None:
    """Return the champion where it is this very bundle: a job that is submitted twice changes nothing the second time."""
    champion = registry.champion()
    with suppress(BundleError):  # of a damaged champion, which is to be replaced
        held = registry.load(champion) if champion else None
        if held and (held.created_at, held.data_fingerprint) == (bundle.created_at, bundle.data_fingerprint):
            return champion
    return None


def _fetched(address: str) -> "Bundle":
    """Return a bundle from wherever it lies."""
    from cryptoml.models.bundle import load_bundle

    storage = open_storage(address)
    if storage.is_local:
        return load_bundle(storage.base)
    with tempfile.TemporaryDirectory() as folder:
        for file in storage.list_files(recursive=True):
            (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
            storage.download(file, Path(folder) / file)
        return load_bundle(folder)


def _train(
    arguments: ExperimentArguments, stages: "Stages", instant: "pd.Timestamp | None", champion: "Bundle | None" = None
) -> "Bundle":
    """Train on all that precedes an instant, by default on all but the last bars that a split needs.

    Raises:
        ConfigError: The result could not be compared with the champion.
    """
    from cryptoml.models.bundle import load_bundle
    from cryptoml.pipeline import Pipeline
    from cryptoml.update import check_comparable

    config = arguments.experiment().updated(walk_forward={"num_folds": 1}, shuffled_label_run=False)
    market = read_data(arguments, config)
    if champion is not None:
        check_comparable(champion, market.panel.symbols, market.panel.timeframe, config.targets)
    longest = config.targets.horizons[-1]
    until = market.panel.timestamps[-longest - 1] if instant is None else instant
    pipeline = Pipeline.open(config, market, arguments.out, train_end=until, stages=stages)
    with pipeline.run as run:
        pipeline.train()
        bundle = load_bundle(run.out / "bundle")
        run.finish()
        clear_storage(arguments, pipeline)
    return bundle


def _show(done: "Update") -> None:
    if (drift := done.drift) is not None:
        say(
            f"drift: {drift.shifted_share:.0%} of the features shifted; "
            f"loss {drift.loss_before.value:.4f} -> {drift.loss_after.value:.4f} "
            f"[{drift.loss_after.low:.4f}, {drift.loss_after.high:.4f}]; "
            f"calibration error {drift.calibration_before:.3f} -> {drift.calibration_after:.3f}"
        )
    if done.new_symbols:
        say(f"new symbols, which a refit alone learns: {' '.join(done.new_symbols)}")
    say(f"{done.method or 'no update'}: {done.reason}")
    if done.duel is not None:
        duel = done.duel
        low, high = duel.difference.low, duel.difference.high
        say(f"challenger {duel.challenger:.4f} against champion {duel.champion:.4f}, difference [{low:+.4f}, {high:+.4f}]")
        for regime, (before, after) in duel.forgetting.items():
            say(f"  loss on old {regime} bars {before:.4f} -> {after:.4f}")
        say(f"{done.version} {'serves now' if done.promoted else 'is kept, the champion stays'}")


if __name__ == "__main__":
    sys.exit(run(main, UpdateArguments))
