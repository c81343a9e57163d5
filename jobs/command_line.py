"""What every job does around its work: parse, log, turn an expected error into one line and an exit code, leave a result file."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from pydantic import ValidationError

from cryptoml.data.storage import is_overload, open_storage
from cryptoml.errors import CryptomlError

__all__ = ["run", "write_result"]

EXIT_ERROR = 2
WAITS = (5.0, 10.0, 20.0, 40.0)
"""Seconds before each new try on an overloaded storage, on top of what its client waits (about 15 s)."""
EXIT_INTERRUPTED = 130
CHATTY_LIBRARIES = ("botocore", "ccxt", "filelock", "urllib3", "werkzeug")

_log = logging.getLogger(__name__)

_Config = TypeVar("_Config")


def run(main: Callable[[_Config], int | None], config_class: type[_Config], arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of a job: that of `main`, 2 after an error of the user's making, 130 after Ctrl-C.

    Args:
        main: The job; returns an exit code, or None for success.
        config_class: A dataclass or pydantic model; its fields become the flags, its docstring the help.
        arguments: Command line; None for that of the process.

    Raises:
        SystemExit: After `--help` (code 0) or arguments that do not fit the flags (code 2).
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    for name in CHATTY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return _patiently(main, tyro.cli(config_class, prog=_program(), args=arguments))
    except CryptomlError as error:
        return _end(f"error: {' '.join(str(error).split())}", EXIT_ERROR)
    except OSError as error:
        return _end(f"error: {error.filename or 'input/output'}: {error.strerror or error}", EXIT_ERROR)
    except ValidationError as error:
        return _end(f"error: {_first_fault(error)}", EXIT_ERROR)
    except KeyboardInterrupt:
        return _end("interrupted; run the same command again to go on", EXIT_INTERRUPTED)


def write_result(out: str, **result: Any) -> None:
    """Publish OUT/result.json, for programs."""
    open_storage(out).publish("result.json", (json.dumps(result, indent=2, default=str) + "\n").encode())


def _patiently(main: Callable[[_Config], int | None], config: _Config) -> int:
    """Run the job; again after a while where a storage was overloaded, for every job goes on where it stopped."""
    for wait in WAITS:
        try:
            return main(config) or 0
        except (CryptomlError, OSError) as error:
            if not is_overload(error):
                raise
            _log.warning("the storage is overloaded, going on in %.0f s: %s", wait, " ".join(str(error).split()))
            time.sleep(wait)
    return main(config) or 0


def _program() -> str | None:
    """Return how the job was started, for the usage line: `python -m jobs.ingest_data`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec is not None else None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, was {fault['input']!r}"


def _end(line: str, code: int) -> int:
    sys.stderr.write(f"{line}\n")
    return code
