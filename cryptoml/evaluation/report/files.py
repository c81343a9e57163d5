"""Writing a report: strict JSON and one page, each in one atomic step."""

import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from cryptoml.data.run_folder import publish_file
from cryptoml.evaluation.report.content import Report, report_dict

__all__ = ["strict_json", "write_report"]


def write_report(report: Report, folder: str | Path) -> Path:
    """Write `report.json` and `report.html` into a folder; return the page's path."""
    from cryptoml.evaluation.report.page import render_page

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    for target, text in (
        (folder / "report.json", strict_json(report_dict(report), indent=2) + "\n"),
        (page, render_page(report)),
    ):
        with publish_file(target) as partial:
            partial.write_text(text, encoding="utf-8")
    return page


def strict_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that any parser reads: NaN and infinities as null, NumPy values as plain ones."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return JSON types only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple | set | frozenset):
        return [_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return _plain(value.value)
    return value if isinstance(value, str | int | bool | None) else str(value)
