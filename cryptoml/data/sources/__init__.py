"""Market data from files and frames, streaming, each table in its schema of `cryptoml.data.schema`."""

from cryptoml.data.sources.candles import RawCandles, candle_files, frame_candles, read_candle_file

__all__ = ["RawCandles", "candle_files", "frame_candles", "read_candle_file"]
