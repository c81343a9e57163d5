"""What every job's command line does about an overloaded storage."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cryptoml.errors import DataError
from jobs import command_line

OVERLOADED = DataError(
    "cannot read s3://market/lake: AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."
)


@dataclass(frozen=True)
class Arguments:
    """Nothing."""


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(command_line.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("failures", [1, len(command_line.WAITS)])
def test_goes_on_when_the_storage_has_recovered(waited: list[float], failures: int) -> None:
    left = [OVERLOADED] * failures

    def main(arguments: Arguments) -> int:
        if left:
            raise left.pop()
        return 0

    assert command_line.run(main, Arguments, []) == 0
    assert waited == list(command_line.WAITS[:failures])


def test_gives_up_in_the_end(waited: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: Arguments) -> int:
        raise OVERLOADED

    assert command_line.run(main, Arguments, []) == 2
    assert waited == list(command_line.WAITS)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: cannot read s3://market/lake")


def test_other_errors_end_at_once(waited: list[float]) -> None:
    def main(arguments: Arguments) -> int:
        raise DataError("BTCUSDT has no candles")

    assert command_line.run(main, Arguments, []) == 2
    assert waited == []


@dataclass(frozen=True)
class Placed:
    """A job with a place for its result."""

    out: str


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (DataError("no candles"), 2, "failed"),
        (OSError(28, "No space left on device"), 2, "failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ended_a_job_stands_in_its_result_file(tmp_path: Path, error: BaseException, code: int, status: str) -> None:
    def main(arguments: Placed) -> int:
        command_line.begin_result(arguments.out, "a_job")
        raise error

    (tmp_path / "result.json").write_text('{"job": "a_job", "status": "done", "complete": true}')
    assert command_line.run(main, Placed, ["--out", str(tmp_path)]) == code
    found = json.loads((tmp_path / "result.json").read_text())
    assert (found["status"], found["exit_code"]) == (status, code)
    assert "complete" not in found


def test_an_error_of_the_program_is_recorded_and_shown(tmp_path: Path) -> None:
    def main(arguments: Placed) -> int:
        command_line.begin_result(arguments.out, "a_job")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command_line.run(main, Placed, ["--out", str(tmp_path)])
    assert json.loads((tmp_path / "result.json").read_text())["exit_code"] == 1


def test_a_place_that_cannot_be_written_hides_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    def main(arguments: Placed) -> int:
        raise DataError("no candles")

    assert command_line.run(main, Placed, ["--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no candles"


JOBS = [
    path for path in sorted(Path(command_line.__file__).parent.glob("*.py")) if 'if __name__ == "__main__":' in path.read_text()
]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_help_loads_neither_models_nor_ray(path: Path) -> None:
    assert len(JOBS) == 7
    code = f"import runpy, sys\nsys.argv = ['job', '--help']\ntry: runpy.run_module('jobs.{path.stem}', run_name='__main__')\n"
    code += (
        "except SystemExit as end: assert end.code == 0\nassert not {'torch', 'ray', 'optuna', 'scipy.stats'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=path.parents[1])
    assert found.returncode == 0, found.stderr
    assert "usage: " in found.stdout
