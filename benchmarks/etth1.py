"""The ETTh1 task: from 96 hours of seven series and the calendar to quantiles of the oil temperature, 24 hours ahead.

The split is the usual one of 12, 4 and 4 months (Zhou et al. 2021). This module needs NumPy and pandas alone, so that peers
in an environment of their own can read it too.
"""

from pathlib import Path

import numpy as np
import pandas as pd

__all__ = [
    "CALENDAR",
    "COLUMNS",
    "HISTORY",
    "HORIZON",
    "QUANTILES",
    "TARGET",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "pinball",
    "read_etth1",
]

COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
TARGET = "OT"
CALENDAR = ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
HISTORY, HORIZON = 96, 24
QUANTILES = (0.1, 0.5, 0.9)
TRAIN, VALIDATION, TEST = slice(0, 8640), slice(8640, 11520), slice(11520, 14400)
"""Rows whose values are to be forecast; their histories may reach into the part before."""


def read_etth1(path: str | Path) -> pd.DataFrame:
    """Read the rows in use: `date`, the series standardised on the training rows, and the calendar."""
    frame = pd.read_csv(path, parse_dates=["date"]).iloc[: TEST.stop]
    values = frame[list(COLUMNS)].to_numpy(dtype=np.float32)
    scaled = (values - values[TRAIN].mean(0)) / values[TRAIN].std(0)
    phases = {"hour": frame["date"].dt.hour / 24, "weekday": frame["date"].dt.day_of_week / 7}
    turns = {name: 2 * np.pi * phase.to_numpy(dtype=np.float32) for name, phase in phases.items()}
    calendar = {f"{name}_{wave.__name__}": wave(turn) for name, turn in turns.items() for wave in (np.sin, np.cos)}
    return pd.DataFrame({"date": frame["date"], **dict(zip(COLUMNS, scaled.T, strict=True)), **calendar})


def pinball(series: np.ndarray, forecasts: np.ndarray, rows: slice) -> float:
    """Mean pinball loss of `forecasts` `[origin, horizon, quantile]`: one per HORIZON rows of `series` `[time]`."""
    truth = np.lib.stride_tricks.sliding_window_view(series[rows], HORIZON)[..., None]
    if forecasts.shape != (*truth.shape[:2], len(QUANTILES)):
        raise ValueError(f"forecasts must have shape {[*truth.shape[:2], len(QUANTILES)]}, was {list(forecasts.shape)}")
    levels, error = np.asarray(QUANTILES), truth - forecasts
    return float(np.maximum(levels * error, (levels - 1) * error).mean())
