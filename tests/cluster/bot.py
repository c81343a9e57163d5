"""A bot on a host of its own: asks a served model and puts bars while the service is broken, and compares every answer.

python -m tests.cluster.bot FOLDER URL [URL ...]    until FOLDER/stop appears; writes FOLDER/seen.json
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from cryptoml.live.client import ServiceClient
from cryptoml.live.predictor import Predictor

__all__ = ["HELD_BACK", "Seen", "main"]

HELD_BACK = 60
"""Bars of each symbol that are put while the service is broken."""
LIFE_SECONDS = 300.0
PAUSE_SECONDS = 0.2


@dataclass
class Seen:
    """What the bot saw.

    Attributes:
        answers: Forecasts of the instant before the first new bar; each was compared with the offline one.
        wrong: Those that differed.
        signals: Signals of now.
        failed: Requests that were answered by no host, after all retries.
        acknowledged: Symbol -> bars that were accepted.
        kept: Symbol -> bars that the service has in the end.
    """

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    signals: int = 0
    failed: list[str] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


def main(folder: Path, urls: Sequence[str]) -> None:
    """Fill the service, then ask and put until told to stop."""
    frames = {path.stem: pd.read_parquet(path) for path in sorted((folder / "frames").glob("*.parquet"))}
    before = {symbol: frame.iloc[:-HELD_BACK] for symbol, frame in frames.items()}
    now = max(frame["timestamp"].iloc[-1] for frame in before.values()) + pd.Timedelta(hours=1)
    expected = {one.symbol: one.direction["UP"] for one in Predictor(folder / "bundle").predict(before, now=now)}
    seen, until = Seen(), time.monotonic() + LIFE_SECONDS
    with ServiceClient(urls, timeout_s=20, attempts=60, longest_wait_s=1.0) as client:
        for symbol, frame in before.items():
            client.put_candles(symbol, frame)
            seen.acknowledged[symbol] = len(frame)

        def compare() -> None:
            told = client.predict([], as_of=now.to_pydatetime())
            seen.answers += 1
            found = {one.symbol: one.direction.get("UP", float("nan")) for one in told.predictions}
            if any(not abs(found[symbol] - right) < 1e-6 for symbol, right in expected.items()):
                seen.wrong.append(str(found))

        def ask() -> None:
            seen.signals += len(client.signals([]).signals) == len(frames)

        def put() -> None:
            symbol = min(frames, key=lambda name: seen.acknowledged[name])
            place = seen.acknowledged[symbol]
            if place < len(frames[symbol]):
                client.put_candles(symbol, frames[symbol].iloc[[place]])
                seen.acknowledged[symbol] += 1

        _repeat([compare, compare, ask, put], seen, lambda: (folder / "stop").exists() or time.monotonic() > until, folder)
        seen.kept = {symbol: client.candle_status(symbol).bars for symbol in frames}
    (folder / "seen.json").write_text(json.dumps(asdict(seen)))


def _repeat(works: Sequence[Callable[[], None]], seen: Seen, ended: Callable[[], bool], folder: Path) -> None:
    """Do each piece of work again and again, on a thread of its own."""

    def loop(work: Callable[[], None]) -> None:
        while not ended():
            try:
                work()
            except Exception as error:
                seen.failed.append(f"{work.__name__}: {error!r}")
            (folder / "answers").write_text(str(seen.answers))
            (folder / "bars").write_text(str(sum(seen.acknowledged.values())))
            time.sleep(PAUSE_SECONDS)

    threads = [threading.Thread(target=loop, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
