"""Candles and answers as Arrow IPC streams, for callers with many bars."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from cryptoml.data.panel import CANDLE_FIELDS
from cryptoml.live.prediction import Prediction, prediction_frame
from serve.arrow_stream import read_stream
from serve.problems import InvalidFieldError
from serve.requests import MAX_BARS, MAX_ROWS, MAX_SYMBOLS

__all__ = ["ARROW", "candles_of", "frames_of", "predictions_to_arrow"]

ARROW = "application/vnd.apache.arrow.stream"
_REQUIRED = ("timestamp", "open", "high", "low", "close", "volume")
_PRICES = ("open", "high", "low", "close")
_EARLIEST, _LATEST = pd.Timestamp("2009-01-01", tz="UTC"), pd.Timestamp("2200-01-01", tz="UTC")


def candles_of(content: bytes) -> pd.DataFrame:
    """Return the candles of one symbol: `timestamp` with a time zone, oldest first, and numbers.

    Raises:
        InvalidFieldError: It is no Arrow stream, a column is missing or of another type, or a value is impossible.
    """
    frame = _table(content).to_pandas()
    _check(frame, "")
    return frame


def frames_of(content: bytes) -> dict[str, pd.DataFrame]:
    """Return the candles by symbol, told apart by the column `symbol`.

    Raises:
        InvalidFieldError: As `candles_of`, or there are too many rows or symbols.
    """
    table = _table(content)
    if "symbol" not in table.column_names:
        raise InvalidFieldError("column symbol is missing", "/symbol")
    if table["symbol"].null_count:
        raise InvalidFieldError("symbol must be given in every row", "/symbol")
    frame = table.to_pandas()
    groups = {str(name): part.reset_index(drop=True) for name, part in frame.groupby("symbol", sort=False, observed=True)}
    if not 1 <= len(groups) <= MAX_SYMBOLS:
        raise InvalidFieldError(f"symbol must have 1 to {MAX_SYMBOLS} values, had {len(groups)}", "/symbol")
    frames = {name: part.drop(columns="symbol") for name, part in groups.items()}
    for name, part in frames.items():
        _check(part, f"/{name}")
    return frames


def predictions_to_arrow(predictions: Sequence[Prediction], version: str) -> bytes:
    """Return a row per symbol: the columns of `prediction_frame`, `reasoning` and `model`."""
    frame = prediction_frame(predictions).assign(
        reasoning=[one.signal["reasoning"] for one in predictions],
        adaptation=pd.Series([one.adaptation for one in predictions], dtype="str"),
        model=version,
    )
    texts = ("symbol", "regime", "action", "refusal", "reasoning", "model")
    for name in texts:
        frame[name] = frame[name].map(lambda value: None if value is None else str(value), na_action="ignore").astype("str")
    for name in ("timestamp", "available_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    numbers = [name for name in frame.columns if name not in (*texts, "timestamp", "available_at", "adaptation", "horizon_bars")]
    table = pa.Table.from_pandas(frame.astype(dict.fromkeys(numbers, float)), preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _table(content: bytes) -> pa.Table:
    """Return the columns that are known: instants in UTC, numbers as float64, NaN where null, and symbols as text."""
    table = read_stream(content, MAX_ROWS)
    for name in _REQUIRED:
        if name not in table.column_names:
            raise InvalidFieldError(f"column {name} is missing", f"/{name}")
    columns = {}
    for name in table.column_names:
        try:
            kind = _known_type(name, table.schema.field(name).type)
            columns[name] = table[name].cast(kind, safe=name == "timestamp")
        except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter of a time zone
            raise InvalidFieldError(f"{name} cannot be read: {str(error)[:200]}", f"/{name[:64]}") from None
    return pa.table(columns)


def _known_type(name: str, kind: pa.DataType) -> pa.DataType:
    """Return the type that a column is read as."""
    if name == "timestamp":
        if not (pa.types.is_timestamp(kind) and kind.tz):
            raise InvalidFieldError(f"timestamp must be a timestamp with a time zone, was {kind}", "/timestamp")
        return pa.timestamp("us", "UTC")
    if name in CANDLE_FIELDS:
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise InvalidFieldError(f"{name} must be a column of numbers, was {kind}", f"/{name}")
        return pa.float64()
    if name != "symbol":
        raise InvalidFieldError(f"column {name[:64]} is unknown", f"/{name[:64]}")
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(one(text) for one in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise InvalidFieldError(f"symbol must be a column of text, was {kind}", "/symbol")
    return pa.string()


def _check(frame: pd.DataFrame, prefix: str) -> None:
    if len(frame) > MAX_BARS:
        raise InvalidFieldError(f"a symbol must have at most {MAX_BARS} bars, had {len(frame)}", f"{prefix}/timestamp")
    stamps = frame["timestamp"]
    wrong = stamps.isna() | (stamps < _EARLIEST) | (stamps >= _LATEST)
    _refuse(wrong.to_numpy(), frame, "timestamp", prefix, "an instant between 2009 and 2200")
    _refuse(np.append(False, np.diff(stamps.astype("int64")) <= 0), frame, "timestamp", prefix, "later than the one before it")
    for name in (name for name in CANDLE_FIELDS if name in frame):
        values = frame[name].to_numpy(np.float64, na_value=np.nan)
        if name in _PRICES:
            _refuse(~((values > 0) & (values <= 1e15)), frame, name, prefix, "a number above 0")
        elif name in _REQUIRED:
            _refuse(~((values >= 0) & (values <= 1e18)), frame, name, prefix, "a number of at least 0")
        else:
            _refuse(~(np.isnan(values) | ((values >= 0) & (values <= 1e18))), frame, name, prefix, "a number of at least 0")


def _refuse(wrong: np.ndarray, frame: pd.DataFrame, name: str, prefix: str, right: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        values = frame[name].to_numpy("datetime64[us]") if name == "timestamp" else frame[name].to_numpy()  # of any year
        raise InvalidFieldError(f"{name} must be {right}, was {values[row]} in row {row}", f"{prefix}/{name}/{row}")
