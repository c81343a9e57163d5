"""Names of the presets, apart from the presets: a command line that only shows its help loads no more than this."""

from typing import Literal, get_args

__all__ = ["PRESETS", "Preset"]

Preset = Literal["debug", "baseline", "production"]
PRESETS: tuple[str, ...] = get_args(Preset)
