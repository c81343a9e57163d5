"""A bundle behind HTTP on this machine, for as long as a test asks: the whole application but for Ray's processes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.serve.multiplex
import uvicorn
from ray import serve
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.context import ReplicaContext
from ray.serve.schema import ReplicaRank

from cryptoml.models.bundle import load_bundle
from serve.api import create_app
from serve.app import AppArgs
from serve.deployments import Adapter, Features, member_deployment
from serve.service import remote_service

__all__ = ["served"]


@contextmanager
def served(bundle: Path, state: Path) -> Iterator[str]:
    """Serve a bundle, with its state in a folder, and give the address."""
    args, members = AppArgs(bundle=str(bundle), state=str(state)), len(load_bundle(bundle).ensemble.members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.serve.context._INTERNAL_REPLICA_CONTEXT", _replica())
        controller = SimpleNamespace(record_request_routing_info=lambda info: None)
        ray.serve.multiplex._get_global_client = lambda: controller  # for good: multiplexing asks on, and would start a cluster
        bound = [member_deployment(number).bind(args, number, members) for number in range(members)]
        app = Features.bind(args, bound, Adapter.bind(args))
        service = remote_service(serve.run(app, name=f"live-{state.name}", _local_testing_mode=True))
        server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _replica() -> ReplicaContext:
    """Return what batching and multiplexing ask for, which Serve's local testing mode does not say."""
    config = DeploymentConfig(max_ongoing_requests=1000)
    replica, rank = ReplicaID("local", DeploymentID("Local", "test")), ReplicaRank(rank=0, node_rank=0, local_rank=0)
    return ReplicaContext(replica_id=replica, servable_object=None, _deployment_config=config, rank=rank, world_size=1)
