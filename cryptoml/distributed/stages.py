"""The pipeline's heavy stages on a cluster."""

from collections.abc import Sequence
from pathlib import Path

from cryptoml.data.panel import Panel
from cryptoml.distributed import features, training, tuning
from cryptoml.features.engineer import FeatureConfig, FeaturePanel
from cryptoml.pipeline import Stages
from cryptoml.training.member import FittedMember, FoldData, MemberTask

__all__ = ["ray_stages"]


def ray_stages(storage: str | None = None, workers: training.WorkerConfig | None = None) -> Stages:
    """Return the stages mapped over the connected cluster: Ray Data for features, Tune for the sweep, Train for members.

    Args:
        storage: Folder for training checkpoints that all nodes reach, local or `s3://`; that of the run by default.
        workers: Resources of each member's training run.
    """

    def compute_features(panel: Panel, config: FeatureConfig) -> FeaturePanel:
        return features.build_features(panel, config)

    def fit(data: FoldData, tasks: Sequence[MemberTask], folder: Path) -> list[FittedMember]:
        place = str(folder) if storage is None else f"{storage.rstrip('/')}/{folder.parent.name}/{folder.name}"
        return training.fit_members(data, tasks, place, workers=workers)

    return Stages(features=compute_features, sweep=tuning.run_sweep, fit=fit)
