"""Join a Ray cluster, or start a small one on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import ray
from ray.exceptions import AuthenticationError

from cryptoml.errors import ConfigError

__all__ = ["cluster"]

LOCAL_OBJECT_STORE_BYTES = 1 << 30
KNOCK_SECONDS = 8.0
KNOCKS = {"": "/ray.rpc.NodeInfoGcsService/CheckAlive", "ray://": "/ray.rpc.RayletDriver/ClusterInfo"}
"""A call that the control service and the client's server answer at once, by the kind of address."""


@contextmanager
def cluster(address: str | None = None, num_cpus: int | None = None, *, dashboard: bool = False) -> Iterator[None]:
    """Hold a connection to Ray for the length of a `with` block.

    Args:
        address: Address of a running cluster; without it `RAY_ADDRESS`, and without that a private cluster on this
            machine, which ends with the block. An existing connection is used as it is and left open.
        num_cpus: Logical CPUs of the private cluster; all of this machine by default.
        dashboard: Start the private cluster's dashboard, which trials of several workers need.

    Raises:
        ConfigError: Nothing answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        _join(address) if address else _start(num_cpus, dashboard)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        what = f"RAY_ADDRESS {address!r} cannot be joined" if address else "Ray cannot be started on this machine"
        raise ConfigError(f"{what}: {' '.join(str(error).split())}{_advice(error) if address else ''}") from error
    _quieten()
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    _knock(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)


def _knock(address: str) -> None:
    """Raise soon where nothing answers, or something else than what the address says: Ray itself would wait for minutes."""
    kind = "ray://" if address.startswith("ray://") else ""
    place = address.removeprefix(kind)
    if not place.rpartition(":")[2].isdigit() or "/" in place or os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(KNOCKS[kind])(b"", timeout=KNOCK_SECONDS)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ConnectionError(f"nothing there answers as Ray does ({code.name.lower()})") from error
            if code == grpc.StatusCode.UNIMPLEMENTED:
                raise ConnectionError(
                    "another service of Ray answers there; the control service has port 6379 by default"
                ) from error


def _advice(error: BaseException) -> str:
    """Say what to do about a cluster that cannot be joined, by what Ray and its causes say."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    said = "\n".join(texts)
    if "uthenticat" in said:
        return "; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
    if "ersion mismatch" in said:
        return "; install the cluster's versions of Ray and Python here, or submit the job: it then runs on the cluster's own"
    return "; start that cluster, or unset RAY_ADDRESS to use this machine alone"


def _start(num_cpus: int | None, dashboard: bool) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says at each start that tokens are in use
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        include_dashboard=dashboard,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )


def _quieten() -> None:
    """Leave the terminal to progress bars and the job's own lines.

    Ray Data's plans still go to its log file; the sweep itself says which trials failed.
    """
    import ray.data

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    for handler in logging.getLogger(ray.data.__name__).handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
