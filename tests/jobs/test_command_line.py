"""What every job's command line does about an overloaded storage."""

from dataclasses import dataclass

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
