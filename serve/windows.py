"""What a model reads of the kept bars, kept warm: features are computed when bars come, not when somebody asks.

A symbol's next bar costs its one row (`LiveFeatures`), features over all symbols are computed once for each state of the bars.
The numbers are those that `Predictor` computes of the same bars, bit for bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.features.market import market_from_panel
from cryptoml.live.inputs import ModelInputs, Question
from cryptoml.live.intake import Intake
from cryptoml.live.prediction import Refusal
from cryptoml.live.predictor import Predictor
from serve.kept_bars import KeptBars
from serve.symbol_rows import SymbolRows

__all__ = ["PAST_BARS", "KeptWindow", "WarmInputs", "judge"]

FloatArray = NDArray[np.float32]
PAST_BARS = 48
"""Bars before the newest one that can be forecast anew, to show what the model thought then."""
_STRANGE = 3.0
_NO_FRAME = pd.DataFrame()


@dataclass(frozen=True)
class KeptWindow:
    """What the members are asked about all kept symbols, at one state of the bars.

    Attributes:
        question: Its intake holds every symbol of the model.
        strangeness: Share of the inputs at the newest bar beyond 3 deviations of training.
    """

    question: Question
    strangeness: float


class WarmInputs:
    """The inputs of one model over the kept bars; one thread at a time may use it.

    Args:
        predictor: Of the model.
        kept: The bars.
    """

    def __init__(self, predictor: Predictor, kept: KeptBars) -> None:
        self._predictor, self._kept = predictor, kept
        self._inputs: ModelInputs = predictor.inputs
        self._inputs.check_names(self._inputs.engineer.names)
        self._rows: dict[str, SymbolRows] = {}
        self._latest: dict[int, tuple[tuple, KeptWindow]] = {}

    def window(self, now: pd.Timestamp, past: int = 0) -> KeptWindow:
        """Return what the members are asked at `now`; the arrays are shared by all who ask at one state of the bars.

        Args:
            now: Instant of the decision.
            past: Bars before the newest one to ask about too, at most `PAST_BARS`.
        """
        intake = judge(self._predictor, self._kept, now)
        usable = {symbol: int(stamp.value // 1_000) for symbol, stamp in intake.last_open.items() if symbol in intake.usable}
        key = tuple((symbol, self._kept.revision(symbol)) for symbol in usable)
        if past not in self._latest or self._latest[past][0] != key:
            window = self._computed(intake, usable, past) if usable else KeptWindow(self._predictor.nothing_asked(intake), 0.0)
            self._latest[past] = (key, window)
        window = self._latest[past][1]
        question = window.question
        asked = Question(intake, question.timestamps, question.present, question.features, question.sigma)
        return KeptWindow(asked, window.strangeness)

    def _computed(self, intake: Intake, usable: Mapping[str, int], past: int) -> KeptWindow:
        symbols, kept, needs = self._predictor.symbols, self._kept, self._predictor.needs
        end = max(usable.values())
        origins = 1 + past + max((end - newest) // kept.step for newest in usable.values())
        wanted = self._inputs.context_bars - 1 + origins
        panel = kept.panel(symbols, usable, end, needs.history_bars + needs.max_age_bars + past)
        own = len(self._inputs.engineer.features)
        values = np.full((len(symbols), wanted, len(self._inputs.engineer.names)), np.nan, np.float32)
        for symbol, newest in usable.items():
            lag = (end - newest) // kept.step
            values[symbols.index(symbol), : wanted - lag, :own] = self._symbol_rows(symbol)[-(wanted - lag) :]
        if self._inputs.engineer.panel_features:
            values[:, :, own:] = self._inputs.engineer.newest_market(market_from_panel(panel), wanted)
        features, sigma = self._inputs.aligned(values, self._inputs.volatility(panel)[:, -wanted:], origins)
        question = Question(intake, panel.timestamps[-origins:], panel.present[:, -origins:], features, sigma)
        return KeptWindow(question, _strange_share(features[:, -1]))

    def follow(self, symbols: Iterable[str]) -> None:
        """Compute the features of some symbols' newest bars before anybody asks."""
        for symbol in symbols:
            if symbol in self._predictor.symbols and len(self._kept.bars(symbol)) >= self._predictor.history_bars:
                self._symbol_rows(symbol)

    def all_here(self) -> bool:
        """Tell whether every symbol that is not stale has the newest bar."""
        stamps = [int(bars.stamps[-1]) for symbol in self._predictor.symbols if len(bars := self._kept.bars(symbol))]
        oldest = max(stamps, default=0) - self._predictor.needs.max_age_bars * self._kept.step
        return len({stamp for stamp in stamps if stamp >= oldest}) == 1

    def _symbol_rows(self, symbol: str) -> FloatArray:
        if symbol not in self._rows:
            more = self._predictor.needs.max_age_bars + PAST_BARS
            rows, bars = self._inputs.context_bars + more, self._predictor.history_bars + more
            self._rows[symbol] = SymbolRows(self._inputs.engineer, self._kept, symbol, rows, bars)
        return self._rows[symbol].rows()


def judge(predictor: Predictor, kept: KeptBars, now: pd.Timestamp, symbols: Sequence[str] | None = None) -> Intake:
    """Tell which symbols can be forecast from the kept bars at `now`, and why others cannot; all of the model where None.

    The frames of the usable ones are empty: their bars are in `kept`.
    """
    order = tuple(predictor.symbols if symbols is None else symbols)
    known, instant = set(predictor.trained), now.value // 1_000
    last_open: dict[str, pd.Timestamp] = {}
    refused: dict[str, tuple[Refusal, str]] = {}
    for symbol in order:
        stamps = kept.bars(symbol).stamps
        if len(stamps):
            last_open[symbol] = pd.Timestamp(int(stamps[-1]), unit="us", tz="UTC")
        verdict = _verdict(predictor, stamps, kept.step, instant)
        if symbol not in known:
            refused[symbol] = (Refusal.NEVER_TRAINED, f"the model was never trained on {symbol}")
        elif verdict is not None:
            refused[symbol] = verdict
    return Intake(order, dict.fromkeys((symbol for symbol in order if symbol not in refused), _NO_FRAME), last_open, refused)


def _verdict(predictor: Predictor, stamps: NDArray[np.int64], step: int, instant: int) -> tuple[Refusal, str] | None:
    needs = predictor.needs
    if not len(stamps) or stamps[0] > stamps[-1] - (needs.history_bars - 1) * step:
        return Refusal.TOO_LITTLE_HISTORY, f"{needs.history_bars} closed bars of history are needed, {len(stamps)} are kept"
    age = (instant - int(stamps[-1])) // step - 1
    if age > needs.max_age_bars:
        return Refusal.STALE, f"the newest closed candle is {age} bars old, at most {needs.max_age_bars} are allowed"
    return None


def _strange_share(scaled: FloatArray) -> float:
    present = np.isfinite(scaled)
    return float((np.abs(scaled[present]) > _STRANGE).mean()) if present.any() else 0.0
