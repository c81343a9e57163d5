"""How long one fit takes beside another, for those who lay several on the same cores."""

import time

import torch

from cryptoml.models.forecaster import build_forecaster
from cryptoml.training.member import MemberTask

__all__ = ["relative_cost"]

SAMPLED_BARS = 64


def relative_cost(task: MemberTask) -> float:
    """Return the processor seconds of one short forward pass, times the epochs: comparable between fits on the same data."""
    config = task.forecaster
    with torch.random.fork_rng(devices=[]):
        model = build_forecaster(config).eval()
    features = torch.zeros(1, config.num_assets, SAMPLED_BARS, config.num_features)
    with torch.inference_mode():
        model.dense(features)  # the first pass allocates
        started = time.process_time()
        model.dense(features)
    return (time.process_time() - started) * task.training.max_epochs
