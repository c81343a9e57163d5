"""How long one fit takes beside another, for those who lay several on the same cores."""

import time
from functools import cache

import torch

from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.training.member import MemberTask

__all__ = ["relative_cost"]

SAMPLED_BARS = 128
SAMPLED_PASSES = 2


def relative_cost(task: MemberTask) -> float:
    """Return the processor seconds of one short training pass, times the epochs: comparable between fits on the same data.

    Fits of the same model cost exactly the same, whatever else the machine does.
    """
    return _pass_seconds(task.forecaster) * task.training.max_epochs


@cache
def _pass_seconds(config: ForecasterConfig) -> float:
    """Return the least of a few measurements, which other work on the machine disturbs the least."""
    with torch.random.fork_rng(devices=[]):
        model = build_forecaster(config).train()
        features = torch.randn(1, config.num_assets, SAMPLED_BARS, config.num_features)
        seconds = []
        for _ in range(1 + SAMPLED_PASSES):
            started = time.process_time()
            output = model.dense(features)
            torch.stack([part.sum() for part in output if part.requires_grad]).sum().backward()
            seconds.append(time.process_time() - started)
    return min(seconds[1:])  # the first pass allocates
