"""The pipeline's heavy stages on a cluster."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cryptoml.data.panel import Panel
from cryptoml.data.storage import folder_below
from cryptoml.distributed import features, training
from cryptoml.distributed.member_store import require_writable
from cryptoml.distributed.resources import slots_for
from cryptoml.distributed.tuning.engine import RayEngine
from cryptoml.features.engineer import FeatureConfig, FeaturePanel
from cryptoml.pipeline import Stages
from cryptoml.training.member import FittedMember, FoldData, MemberTask
from cryptoml.training.member_curves import OnMemberEpoch, hear_nothing
from cryptoml.training.worker_config import WorkerConfig

__all__ = ["ray_stages"]


def ray_stages(storage: str | None = None, workers: WorkerConfig | None = None, parallel_folds: int = 1) -> Stages:
    """Return the stages mapped over the connected cluster: Ray Data for features, Tune for the sweep, Train for members.

    Args:
        storage: Folder for features and training checkpoints that all nodes reach, local or `s3://`; that of the run by
            default.
        workers: Resources of each trial of the sweep and of each member's training run.
        parallel_folds: Refits that run side by side; 1 refits in the caller's process, fold after fold.

    Raises:
        ConfigError: The cluster can never hold one member's run, or `storage` cannot be written.
    """
    slots_for(workers or WorkerConfig(), 1)
    if storage is not None:
        require_writable(storage)
    stages = Stages(
        features=partial(_features, storage=storage),
        sweep=RayEngine(workers or WorkerConfig(), storage),
        fit=partial(_fit, storage=storage, workers=workers),
    )
    if parallel_folds == 1:
        return stages
    return replace(stages, folds=partial(_map_folds, parallel_folds=parallel_folds))


def _features(panel: Panel, config: FeatureConfig, folder: str, *, storage: str | None) -> FeaturePanel:
    return features.build_features(panel, config, _place(folder, storage))


def _fit(
    data: FoldData,
    tasks: Sequence[MemberTask],
    folder: str,
    on_epoch: OnMemberEpoch = hear_nothing,
    *,
    storage: str | None,
    workers: WorkerConfig | None,
) -> list[FittedMember]:
    return training.fit_members(data, tasks, _place(folder, storage), workers=workers, on_epoch=on_epoch)


def _place(folder: str, storage: str | None) -> str:
    """Return the run's own folder, or its counterpart below `storage`."""
    return folder if storage is None else folder_below(storage, "/".join(folder.partition("?")[0].split("/")[-2:]))


def _map_folds(function: Callable[[Any], Any], folds: Sequence[Any], *, parallel_folds: int) -> list[Any]:
    """Refit folds as tasks of this node, which holds the run folder; what they share lies once in its object store.

    A task drives its members' training runs and takes no CPU itself, so folds never wait for each other's place.
    """
    shared = ray.put(function)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    waiting, running, results = list(enumerate(folds)), dict[Any, int](), dict[int, Any]()
    while waiting or running:
        while waiting and len(running) < parallel_folds:
            number, fold = waiting.pop(0)
            running[_call.options(scheduling_strategy=here).remote(shared, fold)] = number
        for done in ray.wait(list(running))[0]:
            results[running.pop(done)] = ray.get(done)
    return [results[number] for number in range(len(folds))]


@ray.remote(num_cpus=0)
def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)
