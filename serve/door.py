"""What every node of a service must know before Ray starts on it: how its proxy refuses, and how its replicas talk.

Serve asks the function that `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names for middleware of its proxies. A request refused
there costs its parsing; without it a replica of the ingress refuses, which costs a call between processes. Replicas call each
other by gRPC on one event loop each (Serve's settings for throughput). `serve.run`, `cluster.local` and the image set all of it.
"""

import os
from collections.abc import Mapping

from starlette.middleware import Middleware
from starlette.types import ASGIApp

from serve.limits import Admission
from serve.metrics import keep_reporting, set_refused
from serve.settings import MAX_ONGOING

__all__ = ["Door", "at_the_door", "node_environment"]

_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
_MAX_ONGOING = "CRYPTOML_PROXY_MAX_ONGOING"
_THROUGHPUT = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def node_environment(max_ongoing: int = MAX_ONGOING) -> Mapping[str, str]:
    """Return what the environment of a node must hold, whose proxy is to have at most so many requests in work."""
    return {_CALLBACK: "serve.door.at_the_door", _MAX_ONGOING: str(max_ongoing), **_THROUGHPUT}


class Door(Admission):
    """Admission at a proxy, which tells Prometheus how many it refused: they reach nobody else who counts."""

    def __init__(self, app: ASGIApp, max_ongoing: int) -> None:
        super().__init__(app, max_ongoing)
        keep_reporting(self._report)

    def _report(self) -> None:
        set_refused(self.refused)


def at_the_door() -> list[Middleware]:
    """Return the middleware of a proxy; called by Serve."""
    return [Middleware(Door, max_ongoing=int(os.environ.get(_MAX_ONGOING, MAX_ONGOING)))]
