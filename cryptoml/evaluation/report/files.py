"""Writing a report: strict JSON and one page, each in one atomic step."""

from pathlib import Path

from cryptoml.data.run_folder import publish_file
from cryptoml.evaluation.report.content import Report, report_dict
from cryptoml.evaluation.report.strict import strict_json

__all__ = ["write_report"]


def write_report(report: Report, folder: str | Path) -> Path:
    """Write `report.json` and `report.html` into a folder; return the page's path."""
    from cryptoml.evaluation.report.page import render_page  # plotly takes a second to import

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
