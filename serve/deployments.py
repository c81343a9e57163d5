"""The deployments, with settings that suit one machine of any size; a config file gives those of a cluster."""

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Deployment
from ray.serve.handle import DeploymentHandle

from cryptoml.data.storage import open_storage
from serve.access import Access
from serve.adapters import LocalAdapter
from serve.api import create_app
from serve.audit import AuditLog
from serve.features import LocalFeatures
from serve.members import LocalMember
from serve.service import remote_service
from serve.settings import AppArgs

__all__ = ["Adapter", "Features", "HttpIngress", "Ingress", "member_deployment"]


class HttpIngress:
    """HTTP in front of the feature deployment: keys, limits and formats, and nothing else.

    Args:
        args: Settings of the application.
        features: Handle of the feature deployment.

    Raises:
        ConfigError: The file of keys is missing or damaged.
    """

    def __init__(self, args: AppArgs, features: DeploymentHandle) -> None:
        self._limits = args.limits
        self._service = remote_service(features)
        self._access = Access(args.keys, args.limits, AuditLog(open_storage(args.state)))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application that this replica answers with; called by Serve after the constructor."""
        return create_app(self._service, self._access, self._limits)


_ANYWHERE = {"num_cpus": 0}
_COMMON: dict[str, Any] = {
    "max_surge_percent": 100,
    "ray_actor_options": _ANYWHERE,
    "graceful_shutdown_timeout_s": 10,
    "health_check_period_s": 5,
}

Adapter: Deployment = serve.deployment(name="Adapter", max_ongoing_requests=32, max_queued_requests=256, **_COMMON)(LocalAdapter)
Features: Deployment = serve.deployment(name="Features", max_ongoing_requests=256, max_queued_requests=512, **_COMMON)(
    LocalFeatures
)
Ingress: Deployment = serve.deployment(name="Ingress", max_ongoing_requests=512, **_COMMON)(serve.ingress()(HttpIngress))
_Member: Deployment = serve.deployment(max_ongoing_requests=64, max_queued_requests=256, **_COMMON)(LocalMember)


def member_deployment(number: int) -> Deployment:
    """Return the deployment of one member of the ensemble."""
    return _Member.options(name=f"Member{number}")
