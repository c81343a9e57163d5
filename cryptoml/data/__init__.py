"""Market data: tables and their checks, sources, the lake, the panel, splits and windows, and the built-in market."""
