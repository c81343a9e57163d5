"""Ask every node whether it can run a job at all, before work is given to it."""

from typing import Any

import ray
from ray.exceptions import RayError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cryptoml.errors import ConfigError

__all__ = ["require_able_nodes"]

PATIENCE_SECONDS = 15.0
"""How long answers are waited for; a node that is busy or has just died answers nothing and is asked nothing more."""


def require_able_nodes() -> None:
    """Start a process of the job on each node that takes work.

    Raises:
        ConfigError: A node cannot set the job's code up, for want of disk space mostly; Ray would fail every task there.
    """
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
    ask: Any = ray.remote(num_cpus=0, max_retries=0)(_answer)
    asked: dict[Any, str] = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): address
        for node, address in nodes.items()
    }
    for answer in ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE_SECONDS)[0] if asked else ():
        if (reason := _inability(answer)) is not None:
            raise ConfigError(
                f"node {asked[answer]} cannot set up this job's code: {reason}; free its disk or take it out, and submit again"
            )


def _answer() -> bool:
    return True


def _inability(answer: Any) -> str | None:
    """Return what a node said last about a set-up that failed, None where it ran or is gone."""
    try:
        ray.get(answer)
    except RuntimeEnvSetupError as error:
        return str(error).strip().splitlines()[-1]
    except RayError:
        return None
    return None
