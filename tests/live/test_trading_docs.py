"""The examples of docs/trading.md run as they stand, one after the other; the model is smaller."""

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from cryptoml.live.settings import LiveSettings
from tests.conftest import REPOSITORY
from tests.live.schools import CONFIG, market_panel


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / "docs" / "trading.md").read_text()
    first, *blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    exec(first, names)
    LiveSettings.of(names["config"])
    names["config"] = CONFIG
    panel = market_panel()
    (tmp_path / "data" / "candles").mkdir(parents=True)
    for symbol in panel.symbols:
        panel.frame(symbol).to_csv(tmp_path / "data" / "candles" / f"{symbol}-1h.csv", index=False)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block, names)
    assert "BULL" in capsys.readouterr().out


def test_example_of_the_front_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)
    block = next(one for one in blocks if "UltimateTradingAI" in one)
    assert '{"min_confidence": 0.4}' in block
    panel = market_panel()
    names: dict[str, Any] = {
        "CONFIG": CONFIG,
        "data": panel,
        "candles": panel.frame("BTCUSDT"),
        "newest_candles": panel.frame("BTCUSDT"),
    }
    filled = block.replace('{"min_confidence": 0.4}', "CONFIG").replace('"path/to/candles"', "data")
    monkeypatch.chdir(tmp_path)
    asyncio.run(eval(compile(filled, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names))
    assert names["ai"].get_performance_report()["num_predictions"] == 1


def test_every_setting_is_told() -> None:
    text = (REPOSITORY / "docs" / "trading.md").read_text()
    assert not [name for name in LiveSettings.model_fields if name != "trading" and f"`{name}`" not in text]
