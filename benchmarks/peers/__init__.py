"""The Temporal Fusion Transformers of other libraries, each run by an interpreter of its own.

neuralforecast asks for torch below 2.8 and pytorch-forecasting for pandas below 3.1, so neither can share an environment with
this project. They do run with its torch; build their environment once, beside the project's own:

    python3 -m venv .venv-bench
    .venv-bench/bin/pip install -r benchmarks/peers/requirements.txt
    .venv-bench/bin/pip install --no-deps neuralforecast==3.1.1
"""

import json
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["PEERS", "ask", "missing"]

PEERS = {
    "pytorch-forecasting": "benchmarks.peers.pytorch_forecasting_tft",
    "neuralforecast": "benchmarks.peers.neuralforecast_tft",
}

_REPOSITORY = Path(__file__).resolve().parents[2]


def missing(python: str, peer: str) -> str | None:
    """Why `peer` cannot be run by the interpreter, or None where it can."""
    if not Path(python).is_file():
        return f"{peer}: no interpreter at {python}; see benchmarks/peers/__init__.py"
    found = subprocess.run([python, "-c", f"import {peer.replace('-', '_')}"], capture_output=True, text=True, check=False)
    return None if found.returncode == 0 else f"{peer} does not import in {python}: {found.stderr.strip().splitlines()[-1]}"


def ask(python: str, peer: str, *arguments: str) -> dict[str, float]:
    """Run a peer's module on one thread and return the JSON object that ends its output.

    Raises:
        RuntimeError: the peer failed; the message holds the end of its errors.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(_REPOSITORY)}
    command = [python, "-W", "ignore", "-m", PEERS[peer], *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_REPOSITORY, env=environment)
    if ran.returncode:
        raise RuntimeError(f"{peer} failed: {ran.stderr[-1500:]}")
    sys.stderr.write(f"{peer}: {ran.stdout.strip().splitlines()[-1]}\n")
    return json.loads(ran.stdout.strip().splitlines()[-1])
