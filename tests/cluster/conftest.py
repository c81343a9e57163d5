"""What the fault tests print at the end: the seconds that each fault cost."""

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show a row for each test that recorded what a fault cost."""
    rows = [
        dict(report.user_properties)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and "fault" in dict(report.user_properties)
    ]
    if rows:
        terminalreporter.section("seconds of each fault")
        terminalreporter.write_line(f"{'fault':44s} {'job':>8s} {'undisturbed':>12s} {'lost':>8s}   metrics")
    for row in rows:
        line = f"{row['fault']:44s} {row['seconds']:8.1f} {row['undisturbed']:12.1f} {row['lost']:8.1f}   {row['metrics']}"
        terminalreporter.write_line(line)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Say at once what a fault cost, for whoever ends the tests before the table."""
    properties = dict(report.user_properties)
    if report.when != "call" or not report.passed or "lost" not in properties:
        return None
    return "passed", ".", f"PASSED, {properties['seconds']:.1f} s, {properties['lost']:.1f} s lost"


@pytest.fixture
def told(request: pytest.FixtureRequest, record_property: Any) -> Any:
    """Return a function that records what a fault cost, for the table."""

    def tell(fault: str, seconds: float, undisturbed: float, metrics: str = "") -> None:
        properties = {"fault": fault, "seconds": seconds, "undisturbed": undisturbed}
        for name, value in {**properties, "lost": seconds - undisturbed, "metrics": metrics}.items():
            record_property(name, value)

    return tell
