"""What every job does around its work: parse, log, turn an expected error into one line and an exit code, leave a result file."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import tyro
from pydantic import ValidationError

from cryptoml.data.run_folder import RESULT, FolderInUseError, read_result
from cryptoml.data.storage import is_overload, open_storage
from cryptoml.errors import CryptomlError

__all__ = ["begin_result", "outcome", "run", "say", "write_result"]

EXIT_ERROR = 2
WAITS = (5.0, 10.0, 20.0, 40.0)
"""Seconds before each new try on an overloaded storage, on top of what its client waits (about 15 s)."""
EXIT_INTERRUPTED = 130
STATUSES = {0: "done", 1: "partial", EXIT_INTERRUPTED: "interrupted"}
"""What the result file says beside an exit code; of any other, "failed"."""
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
    config = tyro.cli(config_class, prog=_program(), args=arguments)
    try:
        return _patiently(main, config)
    except CryptomlError as error:
        code, line = EXIT_ERROR, f"error: {' '.join(str(error).split())}"
        if isinstance(error, FolderInUseError):
            return _end(line, code)
    except OSError as error:
        code, line = EXIT_ERROR, f"error: {error.filename or 'input/output'}: {error.strerror or error}"
    except ValidationError as error:
        code, line = EXIT_ERROR, f"error: {_first_fault(error)}"
    except KeyboardInterrupt:
        code, line = EXIT_INTERRUPTED, "interrupted; run the same command again to go on"
    except BaseException as error:
        _record_failure(main, config, EXIT_INTERRUPTED if isinstance(error, SystemExit) else 1, repr(error))
        raise
    _record_failure(main, config, code, line)
    return _end(line, code)


def begin_result(out: str, job: str) -> None:
    """Say in OUT/result.json that a job has begun: what an earlier one left there is no longer the result."""
    _publish(out, {"job": job, "status": "running", "started": datetime.now(UTC).isoformat(timespec="seconds")})


def write_result(out: str, job: str, exit_code: int = 0, **result: Any) -> None:
    """Publish OUT/result.json, for programs."""
    _publish(out, {"job": job, **outcome(exit_code), **result})


def outcome(exit_code: int) -> dict[str, Any]:
    """Return how every result file tells a job's end."""
    return {"status": STATUSES.get(exit_code, "failed"), "exit_code": exit_code}


def say(text: str) -> None:
    """Write a line of the job's own output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _publish(out: str, document: dict[str, Any]) -> None:
    open_storage(out).publish(RESULT, (json.dumps(document, indent=2, default=str) + "\n").encode())


def _record_failure(main: Callable[..., Any], config: Any, exit_code: int, line: str) -> None:
    """Leave the failure where the result would have been, and with it the record of a run that is complete there.

    A place without a result file, that cannot be written to, or that the failure itself is about, is left alone.
    """
    place = getattr(config, "out", None) or getattr(config, "lake", None)
    if place is None:
        return
    with suppress(CryptomlError, OSError):
        storage = open_storage(place)
        if not storage.is_local and storage.base.partition("/")[0] in line:
            return
        if not storage.exists(RESULT):
            return
        before = read_result(storage)
        kept = before if before.get("complete") and "key" in before else before.get("earlier")
        document = {"job": _job(main), **outcome(exit_code), "error": line, **({"earlier": kept} if kept else {})}
        storage.publish(RESULT, (json.dumps(document, indent=2) + "\n").encode())


def _job(main: Callable[..., Any]) -> str:
    return ((_program() if main.__module__ == "__main__" else None) or main.__module__).rpartition(".")[2]


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
