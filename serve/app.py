"""The application as Serve builds it: `serve run serve.app:build bundle=runs/first/bundle`."""

from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from serve.deployments import Ingress, Model

__all__ = ["AppArgs", "build"]


class AppArgs(BaseModel):
    """Arguments of the application."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = Field(description="Folder of the bundle to serve, readable by every replica")


def build(args: AppArgs) -> Application:
    """Return the application: the ingress over the model."""
    return Ingress.bind(Model.bind(args.bundle))
