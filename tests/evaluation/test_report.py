"""The report: strict JSON, a self-contained page, atomic writes."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest

from cryptoml.evaluation.baselines import buy_and_hold, last_value
from cryptoml.evaluation.candidates import BootstrapConfig, candidate_from_predictions, gaussian_quantiles
from cryptoml.evaluation.protocol import evaluate
from cryptoml.evaluation.report import Report, report_dict, strict_json, summary_table, write_report
from cryptoml.evaluation.report.charts import _round_values
from cryptoml.evaluation.report.model_charts import asset_graph, attention_lines, importance_bars, trial_points
from cryptoml.evaluation.report.summary import sentences, summary_columns
from cryptoml.evaluation.volatility_baselines import heterogeneous_autoregression

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
    ensemble = candidate_from_predictions("ensemble", predictions, inputs)
    others = [buy_and_hold(inputs), last_value(inputs), heterogeneous_autoregression(inputs)]
    others += [replace(ensemble, name=name) for name in ("ensemble_seed_1", "ensemble_seed_2", "ensemble_continual")]
    others += [replace(ensemble, name=name) for name in ("member_tft", "without_graph", "without_price")]
    return Report(
        title="Four <symbols> & a market",
        inputs=inputs,
        ensemble=evaluate(inputs, ensemble),
        baselines={one.name: evaluate(inputs, one) for one in others},
        skipped={"lightgbm": "ImportError: not installed"},
        missing={"adaptation": "a single member was trained"},
        attention={"tft": np.full(8, 1 / 8)},
        graph=np.full((4, 4), 0.25),
        trials=[
            {"number": 0, "state": "COMPLETE", "loss": 2.5, "seconds": 1.0, "parameters": {"dropout": 0.1}},
            {"number": 1, "state": "FAIL", "loss": None, "seconds": 0.1, "parameters": {"dropout": 0.9}},
        ],
        selection={"num_trials": 2, "overfitting_probability": 0.4, "degradation": float("nan")},
        config={"note": "</script><script>alert(1)</script>", "penalty": float("nan")},
        history={"tft": {"train_loss": [1.0, 0.9], "validation_loss": [1.1, float("nan")]}},
        importance={f"price_feature_{index}": 1 / (index + 1) for index in range(40)},
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
        self.loads += [attributes[name] for name in ("src", "href") if not attributes.get(name, "#").startswith("#")]
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
    assert stored["missing"] == {"baseline lightgbm": "ImportError: not installed", "adaptation": "a single member was trained"}
    assert list(stored["ensemble_minus_baseline"]) == ["buy_and_hold", "last_value", "har", "member_tft"]
    assert stored["ensemble_minus_baseline"]["last_value"]["auc"].keys() == {"value", "low", "high", "better"}
    assert list(stored["seeds"]["ensemble"]["per_seed"]) == ["0", "1", "2"]
    assert list(stored["ablations"]) == ["continual", "graph", "price"]
    assert stored["ablations"]["graph"]["change"]["auc"]["value"] == 0
    assert [stored["ablations"]["graph"][side] for side in ("without", "with")] == ["without_graph", "member_tft"]
    assert [stored["ablations"]["continual"][side] for side in ("without", "with")] == ["ensemble", "ensemble_continual"]
    assert np.shape(stored["asset_graph"]["weights"]) == (4, 4)
    assert len(stored["temporal_attention"]["tft"]) == 8
    assert stored["ensemble"]["trading"]["with_stops"]["sharpe_ratio"].keys() == {"value", "low", "high"}
    assert set(stored["ensemble"]) == {
        "direction", "ranking", "volatility", "regime", "quantiles", "trading", "per_symbol", "per_year", "per_regime",
    }  # fmt: skip
    assert len(stored["ensemble"]["trading"]["cost_sweep"]) == 7
    assert stored["protocol"]["bootstrap"]["mean_block_bars"] == 16
    assert stored == json.loads(strict_json(report_dict(report)))


def test_an_ablation_is_judged_by_the_spread_between_seeds(report, tmp_path):
    rng = np.random.default_rng(1)
    forecasts = report.ensemble.candidate.forecasts
    labels = report.inputs.targets.direction[:, report.inputs.bars]

    def skilled(name, skill):
        truth = np.eye(3)[np.maximum(labels, 0)] * skill
        weights = rng.dirichlet([2, 2, 2], size=labels.shape) + truth
        probabilities = weights / weights.sum(axis=-1, keepdims=True)
        made = replace(report.ensemble.candidate, name=name, forecasts=replace(forecasts, probabilities=probabilities))
        return evaluate(report.inputs, made)

    whole = {one.name: one for one in (skilled("member_tft", 0.3), skilled("without_graph", 0.2))}
    near = [skilled(f"member_tft_seed_{seed}", 0.3) for seed in range(1, 5)]
    far = skilled("member_tft_seed_1", 0.1)
    alone, judged, noisy = (replace(report, baselines=whole | {one.name: one for one in seeds}) for seeds in ([], near, [far]))
    found = [report_dict(one)["ablations"]["graph"] for one in (alone, judged, noisy)]
    changes = [one["change"]["accuracy"] for one in found]
    assert changes[0]["high"] < 0
    assert [change["better"] for change in changes] == [None, False, None]
    assert changes[0]["seed_spread"] is None
    assert changes[1]["seed_spread"] < -changes[1]["value"] < changes[2]["seed_spread"]
    assert [one["num_seeds"] for one in found] == [1, 5, 2]
    assert found[0]["interval_covers"] == "test bars, one initialisation"
    assert "the spread between initialisations is unknown" in write_report(alone, tmp_path / "alone").read_text()
    assert (
        "exceeds what another seed alone may change, by 5 seeds of member tft"
        in write_report(judged, tmp_path / "judged").read_text()
    )


def test_an_ablation_that_was_left_out_is_named_with_the_reason(report):
    bare = replace(report, skipped={"without_onchain": "no onchain feature holds a value"}, missing={})
    assert bare.absent == {"ablation of onchain": "no onchain feature holds a value"}


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
        "In brief", "Against the baselines", "Ensemble minus baseline", "Account value after costs", "Drawdown", "Cost sweep",
        "Trades", "Reliability", "Accuracy by confidence", "Quantile fan", "Volatility", "Quantiles", "By symbol", "By regime",
        "Ablations", "Feature importance", "Importance by category", "Temporal attention", "Learned asset graph", "Training",
        "Planted signal", "Sweep", "Luck of the search", "Seeds", "Data health", "Not in this report", "Settings",
    }  # fmt: skip
    assert set(page.headings) == expected
    assert len(page.headings) == len(expected)


def test_every_chart_is_a_valid_figure(page):
    assert len(page.charts) == 16
    views = [view for chart in page.charts for view in chart.get("views", [chart])]
    assert len(views) == 20
    for view in views:
        go.Figure({"data": view["data"], "layout": view["layout"]})


def test_links_lead_to_chapters(written):
    text = written.read_text()
    links = re.findall(r"<nav>.*?</nav>", text, re.S)[0]
    for target in re.findall(r'href="#(\w+)"', links):
        assert f'id="{target}"' in text


def test_sections_without_content_are_left_out(report, tmp_path):
    bare = Report("Bare", report.inputs, report.baselines["buy_and_hold"])
    text = write_report(bare, tmp_path).read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert "Training" not in headings
    assert "Quantile fan" not in headings
    assert "Against the baselines" in headings
    assert 'id="search"' not in text


def test_summary_table_is_aligned(report):
    lines = summary_table(report).splitlines()
    assert len(lines) == 6  # neither other seeds nor ablations nor who forecasts no direction
    assert lines[0].startswith("candidate")
    assert lines[2].startswith("ensemble")
    assert len({len(line) for line in lines}) == 1


def test_the_heading_of_intervals_states_their_level(report):
    inputs = replace(report.inputs, bootstrap=BootstrapConfig(level=0.9, num_draws=20))
    assert "90% interval" in summary_columns(replace(report, inputs=inputs))
    assert "95% interval" in summary_table(report).splitlines()[0]


def test_a_failed_write_leaves_the_old_page_and_no_litter(report, tmp_path):
    page = write_report(report, tmp_path)
    old = page.read_text()
    with pytest.raises(UnicodeEncodeError):
        write_report(replace(report, title="new \ud800"), tmp_path)
    assert page.read_text() == old
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json"}


def test_sentences_say_no_more_than_the_intervals(report):
    said = dict(sentences(report))
    assert set(said) == {"Direction", "Trading", "Volatility"}
    direction = report.ensemble.figures["direction"]["accuracy"]
    assert f"{direction['low']:.1%} to {direction['high']:.1%}" in said["Direction"]
    assert "After one configuration tried" in said["Trading"]
    assert "HAR" in said["Volatility"]


def test_charts_without_content_are_left_out():
    assert asset_graph(None, ("A", "B")) is None
    assert asset_graph(np.ones((1, 1)), ("A",)) is None
    assert attention_lines({}) is None
    assert importance_bars({}) is None
    assert trial_points([{"number": 0, "state": "FAIL", "loss": None, "parameters": {}}]) is None


@pytest.mark.parametrize(("low", "high"), [(0.98, 1.01), (0.5, 1.7), (1.0, 1.0), (0.01, 300.0)])
def test_account_axis_has_some_round_values_in_sight(low, high):
    values = [value for value in _round_values(low, high) if low * 0.999 <= value <= high * 1.001]
    assert 1 <= len(values) <= 16
    assert all(f"{value:.6g}".count("9") < 3 for value in values)


def drawn(address: str, folder: Path) -> str:
    """Return the elements of a page after its scripts ran."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder}", "--virtual-time-budget=20000"]
    command = [browser, *options, "--allow-file-access-from-files", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
def test_every_chart_is_drawn_in_a_browser(written, page, tmp_path):
    shown = drawn(f"file://{written}", tmp_path)
    boxes = re.findall(r'<div class="chart[^"]*"', shown)
    assert len(boxes) == len(page.charts)
    assert all("js-plotly-plot" in box for box in boxes)
    assert shown.count('class="views"') == sum("views" in chart for chart in page.charts)


NARROWED = """<!doctype html><body><iframe src="{page}" style="width:1000px; height:9000px"></iframe><script>
const frame = document.querySelector('iframe');
const charts = () => [...frame.contentDocument.querySelectorAll('.js-plotly-plot')];
const widths = () => charts().map(chart => [chart.clientWidth, chart.querySelector('.main-svg').clientWidth]);
function narrow() {{
  if (charts().length < {charts}) return setTimeout(narrow, 100);
  frame.style.width = '390px';
  setTimeout(() => document.body.append(document.createElement('pre'), JSON.stringify(widths())), 1000);
}}
narrow();
</script></body>"""


@pytest.mark.slow
def test_charts_follow_the_width_of_their_cards(written, page, tmp_path):
    wrapper = tmp_path / "narrowed.html"
    wrapper.write_text(NARROWED.format(page=f"file://{written}", charts=len(page.charts)))
    widths = json.loads(drawn(f"file://{wrapper}", tmp_path / "browser").split("<pre></pre>")[1].split("</body>")[0])
    assert len(widths) == len(page.charts)
    assert all(200 < box < 390 and drawing == box for box, drawing in widths)
