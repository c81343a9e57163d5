"""The application as Serve builds it: `serve run serve.app:build bundle=/path/to/bundle`.

`serve build serve.app:application` writes a config file for the model that `CRYPTOML_REGISTRY` or `CRYPTOML_BUNDLE` names, or
for the newest bundle below `runs`.
"""

import os
from pathlib import Path
from typing import Any

from ray.serve import Application

from serve.deployments import Adapter, Features, Ingress, member_deployment
from serve.model_source import ModelSource, newest_bundle
from serve.settings import AppArgs

__all__ = ["AppArgs", "build"]

BUNDLE = "CRYPTOML_BUNDLE"
REGISTRY = "CRYPTOML_REGISTRY"


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


def __getattr__(name: str) -> Any:
    """Build `application` when it is asked for, not when the module is imported."""
    if name != "application":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    registry = os.environ.get(REGISTRY)
    bundle = None if registry else os.environ.get(BUNDLE) or str(newest_bundle(Path("runs")))
    return build(AppArgs(bundle=bundle, registry=registry))
