"""What an update is to do: which bars teach and which judge, and by which method a challenger is made."""

from dataclasses import dataclass

import pandas as pd

from cryptoml.data.splits import Span
from cryptoml.errors import DataError
from cryptoml.evaluation.drift import Drift
from cryptoml.evaluation.uncertainty import least_bars
from cryptoml.update_config import UpdateConfig

__all__ = ["LEAST_MEASURED", "Spans", "choose_method", "plan_spans"]

LEAST_MEASURED = 24
"""Bars to judge without which nothing is said of them, not even their drift."""


@dataclass(frozen=True)
class Spans:
    """Forecast origins of an update, in order.

    Attributes:
        reference: The last ones that the champion knows.
        learn: New to it, free to learn from.
        judge: The newest with complete labels; no label of `learn` reaches them.
    """

    reference: Span
    learn: Span
    judge: Span


def plan_spans(
    stamps: pd.DatetimeIndex,
    known_until: pd.Timestamp,
    label_bars: int,
    config: UpdateConfig,
    adapted_until: pd.Timestamp | None = None,
) -> Spans:
    """Divide the bars after what the champion knows into those to learn and those to judge by.

    `learn` is empty where too few new bars are there; `judge` is where an adapter has read all of them.

    Args:
        stamps: Bar opens.
        known_until: Open of the last bar that the champion's training read, its labels included.
        label_bars: Bars after its origin that a label reads.
        config: Sizes.
        adapted_until: Open of the last bar that the champion's adapter read: free to learn from, but not to judge by.

    Raises:
        DataError: The data ends before the judging bars are complete.
    """
    known = int(stamps.searchsorted(known_until, side="right"))
    judge_stop = len(stamps) - label_bars
    if judge_stop - known < min(LEAST_MEASURED, config.judge_bars):
        raise DataError(
            f"data must reach at least {LEAST_MEASURED + label_bars} bars past {known_until}, which the champion knows; "
            f"it ends at {stamps[-1]}"
        )
    read = known if adapted_until is None else int(stamps.searchsorted(adapted_until, side="right"))
    judge_start = min(max(judge_stop - config.judge_bars, known, read), judge_stop)
    learn = Span(known, max(known, judge_start - label_bars))
    reference = Span(max(0, known - label_bars - config.reference_bars), max(1, known - label_bars))
    return Spans(reference, learn, Span(judge_start, judge_stop))


def choose_method(
    config: UpdateConfig, spans: Spans, drift: Drift | None, label_bars: int, *, rehearsed: bool
) -> tuple[str | None, str]:
    """Return what to do and why; `rehearsed` says that the champion learned to adapt."""
    needed = least_bars(label_bars)
    if drift is None or len(spans.judge) < needed:
        setting = f"; judge_bars is {config.judge_bars}" if config.judge_bars < needed else ""
        return None, f"{len(spans.judge)} bars to judge that the champion has not read, fewer than {needed}{setting}"
    major = drift.shifted_share > config.shifted_share and drift.loss_rose
    regime = drift.loss_rose and rehearsed
    if config.strategy == "adapt" or (config.strategy == "auto" and regime and not major):
        return "adapt", "asked for" if config.strategy == "adapt" else "the loss rose: a regime that the champion does not know"
    if len(spans.learn) < config.least_new_bars:
        return None, f"{len(spans.learn)} new bars to learn, fewer than {config.least_new_bars}"
    if config.strategy != "auto":
        return config.strategy, "asked for"
    if major:
        return "refit", f"{drift.shifted_share:.0%} of the features shifted and the loss rose"
    return "continual", "no major drift"
