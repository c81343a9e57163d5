"""The application as Serve builds it: `serve run serve.app:build bundle=runs/first/bundle`."""

from ray.serve import Application

from serve.deployments import Adapter, Features, Ingress, member_deployment
from serve.model_source import ModelSource
from serve.settings import AppArgs

__all__ = ["AppArgs", "build"]


def build(args: AppArgs) -> Application:
    """Return the application: ingress over features, over a deployment per member, and the adapter.

    Raises:
        BundleError: There is no sound model to serve.
    """
    args = args.resolved()
    source = ModelSource(args.bundle, args.registry)
    count = len(source.load(source.champion()).ensemble.members)
    members = [member_deployment(number).bind(args, number, count) for number in range(count)]
    return Ingress.bind(args, Features.bind(args, members, Adapter.bind(args)))
