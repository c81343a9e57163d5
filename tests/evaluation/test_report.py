"""The report: strict JSON, a self-contained page, atomic writes."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest

from cryptoml.evaluation.baselines import buy_and_hold, last_value
from cryptoml.evaluation.candidates import candidate_from_predictions, gaussian_quantiles
from cryptoml.evaluation.protocol import evaluate
from cryptoml.evaluation.report import Report, report_dict, strict_json, summary_table, write_atomically, write_report

VOID = {"meta", "link", "br", "img", "input"}


@pytest.fixture(scope="module")
def report(planted) -> Report:
    inputs = planted[0]
    rng, shape = np.random.default_rng(0), inputs.test_panel.present.shape
    predictions = SimpleNamespace(
        probabilities=rng.dirichlet([3, 3, 3], size=shape),
        volatility=inputs.ewma_volatility,
        regime=rng.dirichlet([1] * 4, size=shape),
        quantiles=gaussian_quantiles(inputs),
    )
    return Report(
        title="Four <symbols> & a market",
        inputs=inputs,
        ensemble=evaluate(inputs, candidate_from_predictions("ensemble", predictions, inputs)),
        baselines={"buy_and_hold": evaluate(inputs, buy_and_hold(inputs)), "last_value": evaluate(inputs, last_value(inputs))},
        skipped={"lightgbm": "ImportError: not installed"},
        missing={"ablations": "a single member was trained"},
        config={"note": "</script><script>alert(1)</script>", "penalty": float("nan")},
        history={"tft": {"train_loss": [1.0, 0.9], "validation_loss": [1.1, float("nan")]}},
        importance={f"feature_{index}": 1 / (index + 1) for index in range(40)},
        importance_by_category={"price": 0.7, "volume": 0.3},
        health=[{"symbol": "AUSDT", "rows": 1500, "gaps": 0}],
        extras={"Planted signal": {"ceiling": 0.61}},
    )


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    return write_report(report, tmp_path_factory.mktemp("report") / "new" / "folder")


class Structure(HTMLParser):
    """Checks that tags close in order; collects headings and what the page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.headings, self.loads, self.charts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.loads += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag not in VOID:
            self.open.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "h2":
            self.headings.append(data)
        if tag == "script" and attributes.get("type") == "application/json":
            self.charts.append(json.loads(data))


@pytest.fixture(scope="module")
def page(written) -> Structure:
    structure = Structure()
    structure.feed(written.read_text())
    assert not structure.open
    return structure


def test_json_is_strict_and_complete(report, written):
    def refuse(constant):
        raise AssertionError(f"not JSON: {constant}")

    stored = json.loads((written.parent / "report.json").read_text(), parse_constant=refuse)
    assert stored["ensemble"]["direction"]["accuracy"].keys() == {"value", "low", "high"}
    assert stored["baselines"]["buy_and_hold"]["ranking"]["rank_ic"]["value"] is None
    assert stored["missing"] == {"baseline lightgbm": "ImportError: not installed", "ablations": "a single member was trained"}
    assert set(stored["ensemble"]) == {
        "direction", "ranking", "volatility", "regime", "quantiles", "trading", "per_symbol", "per_regime",
    }  # fmt: skip
    assert len(stored["ensemble"]["trading"]["cost_sweep"]) == 7
    assert stored["protocol"]["bootstrap"]["mean_block_bars"] == 16
    assert stored == json.loads(strict_json(report_dict(report)))


def test_page_is_self_contained(page, written):
    assert page.loads == []
    text = written.read_text()
    assert text.count("plotly.js v") == 1
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "Four &lt;symbols&gt; &amp; a market" in text
    assert "<script>alert" not in text


def test_page_shows_every_section(page):
    expected = {
        "Against the baselines", "Account value after costs", "Drawdown", "Cost sweep", "Reliability", "Accuracy by confidence",
        "Quantile fan", "Quantiles", "By symbol", "By regime", "Training", "Feature importance", "Importance by category",
        "Planted signal", "Data health", "Not in this report", "Settings",
    }  # fmt: skip
    assert set(page.headings) == expected


def test_every_chart_is_a_valid_figure(page):
    assert len(page.charts) == 10
    for chart in page.charts:
        go.Figure(chart)


def test_sections_without_content_are_left_out(report, tmp_path):
    bare = Report("Bare", report.inputs, report.baselines["buy_and_hold"])
    text = write_report(bare, tmp_path).read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert "Training" not in headings
    assert "Quantile fan" not in headings
    assert "Against the baselines" in headings


def test_summary_table_is_aligned(report):
    lines = summary_table(report).splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("candidate")
    assert lines[2].startswith("ensemble")
    assert len({len(line) for line in lines}) == 1


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "report.json"
    write_atomically(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(target, "new \ud800")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
