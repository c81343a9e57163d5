"""Serve a bundle on this machine: `python -m serve.run [--bundle DIR] [--port 8000]`."""

import logging
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

from cryptoml.distributed.cluster import cluster
from cryptoml.errors import BundleError, CryptomlError
from cryptoml.models.bundle import load_bundle
from serve.app import AppArgs, build

__all__ = ["RunArgs", "main", "newest_bundle"]

_LOG = logging.getLogger(__name__)


class RunArgs(BaseModel):
    """What to serve and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path | None = Field(None, description="Folder of a bundle; the newest below `runs` where absent")
    runs: Path = Field(Path("runs"), description="Folder that holds the results of runs")
    host: str = Field("127.0.0.1", description="Address to listen on; the application asks for no key, so keep it private")
    port: int = Field(8000, ge=1, le=65535)


def newest_bundle(runs: Path) -> Path:
    """Return the bundle below `runs` that was published last.

    Raises:
        BundleError: There is none.
    """
    bundles = [path for path in runs.glob("**/bundle") if path.is_dir()]
    if not bundles:
        raise BundleError(f"no bundle below {runs}; make one with `make run`, or name one with --bundle")
    return max(bundles, key=lambda path: path.stat().st_mtime)


def main(args: RunArgs) -> None:
    """Start the application and hold it until interrupted.

    Raises:
        BundleError: The bundle is absent or damaged; found before anything is started.
    """
    bundle = (args.bundle or newest_bundle(args.runs)).resolve()
    load_bundle(bundle)
    with cluster(), _interruptible():
        serve.start(http_options=HTTPOptions(host=args.host, port=args.port))
        serve.run(build(AppArgs(bundle=str(bundle))), name="cryptoml")
        _LOG.info("serving %s on http://%s:%s (interface at /docs)", bundle, args.host, args.port)
        while True:
            time.sleep(1)


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
