"""Serve a bundle on this machine: `python -m serve.run [--bundle DIR] [--port 8000]`."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tyro
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from cryptoml.distributed.cluster import cluster
from cryptoml.errors import ConfigError, CryptomlError
from serve.access import ENVIRONMENT
from serve.app import AppArgs, build
from serve.door import node_environment
from serve.keys import read_keys
from serve.model_source import newest_bundle
from serve.settings import MAX_ONGOING, Batching, Limits

__all__ = ["RunArgs", "main"]

_LOG = logging.getLogger(__name__)
_LOGGING = LoggingConfig(enable_access_log=False)  # metrics count requests; a line each in three processes costs much


class RunArgs(BaseModel):
    """What to serve and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path | None = Field(None, description="Folder of a bundle; the newest below `runs` where absent")
    registry: str | None = Field(None, description="Registry (folder or s3://) whose champion is served, instead of a bundle")
    runs: Path = Field(Path("runs"), description="Folder that holds the results of runs")
    state: str = Field("runs/serving", description="Folder or s3:// of kept bars, adaptations and the audit log")
    keys: Path | None = Field(None, description="File of API keys (python -m serve.keys create); none are asked where absent")
    host: str = Field("127.0.0.1", description="Address to listen on; others than loopback need keys")
    port: int = Field(8000, ge=1, le=65535)
    tls_key: Path | None = Field(None, description="PEM file of the private key; with tls_certificate the service speaks TLS")
    tls_certificate: Path | None = Field(None, description="PEM file of the certificate")
    max_ongoing: int = Field(MAX_ONGOING, ge=1, description="Requests in work; more are answered 503")
    batch_size: int = Field(32, ge=1, description="Requests answered from one forecast")
    cpus: int | None = Field(None, ge=1, description="Logical CPUs of the private cluster; all of this machine where absent")


def main(args: RunArgs) -> None:
    """Start the application and hold it until interrupted.

    Raises:
        BundleError: The bundle is absent or damaged; found before anything is started.
        ConfigError: The keys are missing or damaged, or the address is open to others without keys.
    """
    settings = _settings(args)
    app = build(settings)
    os.environ.update(node_environment(args.max_ongoing))  # before Ray starts, whose processes inherit it
    with cluster(num_cpus=args.cpus), _interruptible():
        serve.start(http_options=_listening(args), logging_config=_LOGGING)
        serve.run(app, name="cryptoml", logging_config=_LOGGING)
        scheme = "https" if args.tls_certificate else "http"
        what = settings.registry or settings.bundle
        _LOG.info("serving %s on %s://%s:%s (interface at /docs)", what, scheme, args.host, args.port)
        while True:
            time.sleep(1)


def _settings(args: RunArgs) -> AppArgs:
    if args.registry is not None and args.bundle is not None:
        raise ConfigError("one of bundle and registry must be given, both were")
    bundle = str(args.bundle or newest_bundle(args.runs)) if args.registry is None else None
    keys = args.keys or os.environ.get(ENVIRONMENT)
    if keys is not None:
        read_keys(Path(keys))
    elif args.host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(f"keys must be given where others can reach the service: host was {args.host}")
    settings = AppArgs(
        bundle=bundle,
        registry=args.registry,
        state=args.state,
        keys=None if keys is None else str(keys),
        limits=Limits(max_ongoing=args.max_ongoing),
        batching=Batching(max_size=args.batch_size),
    )
    return settings.resolved()


def _listening(args: RunArgs) -> HTTPOptions:
    if (args.tls_key is None) != (args.tls_certificate is None):
        raise ConfigError("tls_key and tls_certificate must be given together")
    tls = {"ssl_keyfile": str(args.tls_key), "ssl_certfile": str(args.tls_certificate)} if args.tls_key else {}
    return HTTPOptions(host=args.host, port=args.port, **tls)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Shut Serve down on Ctrl-C and on SIGTERM, which Ray would otherwise answer by aborting."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        serve.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main(tyro.cli(RunArgs))
    except CryptomlError as error:
        sys.exit(str(error))
