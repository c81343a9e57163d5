"""The page and the table of a sweep: complete, self-contained, and drawable."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.evaluation.sweep_page import render_sweep_page, trials_frame, write_sweep
from cryptoml.training.search_config import SearchConfig
from cryptoml.training.study import Study
from cryptoml.training.trial import Outcome

FACTS = {"started": 1.7e9, "seconds": 2.5, "host": "node", "pid": 7, "resources": {"CPU": 1.0, "GPU": 0.5}}


def suggest(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "architecture": trial.suggest_categorical("architecture", ["tft", "<tcn>"]),
        "use_time": trial.suggest_categorical("use_time", [True, False]),
        "fixed": trial.suggest_categorical("fixed", [3]),
    }


def finished(num_trials: int = 12, folder: Path | None = None, objectives: tuple = ("loss",)) -> Study:
    study = Study(suggest, SearchConfig(num_trials=num_trials, objectives=objectives), 4, folder=folder)
    for _ in range(num_trials):
        number, parameters = study.ask()
        loss = abs(np.log(parameters["learning_rate"] / 1e-3))
        study.report(number, 1, loss)
        if number == 1:
            study.tell(number, Outcome("FAIL", facts=FACTS, reason="loss must be finite, was nan"))
        elif number % 4 == 2 and len(objectives) == 1:
            study.tell(number, Outcome("PRUNED", facts=FACTS))
        else:
            study.report(number, 2, loss / 2)
            study.tell(number, Outcome("COMPLETE", {"loss": loss, "sharpe": -loss, "drawdown": loss / 9}, FACTS))
    return study


def charts(page: str) -> list[dict[str, Any]]:
    return [
        json.loads(text.replace("<\\/", "</")) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)
    ]


@pytest.fixture(scope="module")
def page() -> str:
    return render_sweep_page(finished())


class TestPage:
    def test_needs_nothing_from_elsewhere(self, page: str) -> None:
        sources: list[str] = []

        class Links(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                sources.extend(value or "" for name, value in attrs if name in ("src", "href"))

        Links().feed(page)
        assert sources == []
        assert "Plotly" in page

    def test_holds_history_parallel_coordinates_importance_and_steps(self, page: str) -> None:
        assert [{trace["type"] for trace in chart["data"]} for chart in charts(page)].count({"scatter"}) == 3
        for heading in ("History of loss", "Parallel coordinates of loss", "What matters for loss", "Loss by epoch"):
            assert heading in page

    def test_every_chart_has_a_height_and_no_theme_of_its_own(self, page: str) -> None:
        for chart in charts(page):
            assert chart["layout"]["height"] > 0
            assert "template" not in chart["layout"]

    def test_tells_of_every_trial_and_escapes_what_it_shows(self, page: str) -> None:
        assert "loss must be finite, was nan" in page
        assert "1 CPU, 0.5 GPU" in page
        assert "<tcn>" not in page.replace('"<tcn>"', "")
        assert "&lt;tcn&gt;" in page

    def test_several_objectives_have_their_front(self) -> None:
        page = render_sweep_page(finished(objectives=("sharpe", "drawdown")))
        for heading in ("Pareto front", "History of sharpe", "History of drawdown", "What matters for drawdown"):
            assert heading in page

    @pytest.mark.parametrize("num_trials", [1, 2, 3])
    def test_few_trials_are_no_error(self, num_trials: int) -> None:
        assert "Trials" in render_sweep_page(finished(num_trials))


class TestFiles:
    def test_the_table_has_a_row_per_trial_with_seconds_and_resources(self, tmp_path: Path) -> None:
        study = finished(folder=tmp_path)
        write_sweep(study, tmp_path)
        frame = pd.read_parquet(tmp_path / "trials.parquet")
        assert len(frame) == 12
        assert set(frame["state"]) == {"COMPLETE", "PRUNED", "FAIL"}
        assert (frame["seconds"] == 2.5).all()
        assert (frame["resource_gpu"] == 0.5).all()
        assert frame["started"].dt.tz is not None
        assert frame.loc[frame["state"] == "COMPLETE", "loss"].notna().all()
        assert frame.loc[frame["state"] != "COMPLETE", "loss"].isna().all()
        assert frame["parameter_learning_rate"].between(1e-4, 1e-2).all()
        assert (tmp_path / "sweep.html").stat().st_size > 1e6

    def test_nothing_is_written_before_a_trial_has_ended(self, tmp_path: Path) -> None:
        write_sweep(Study(suggest, SearchConfig(num_trials=1), 1), tmp_path / "empty")
        assert not (tmp_path / "empty").exists()

    def test_the_table_keeps_the_order_of_numbers(self) -> None:
        assert list(trials_frame(finished().trials)["number"]) == list(range(12))
