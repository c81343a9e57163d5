"""The report of a run: `report.json` with every figure, and `report.html`, one page that needs nothing else.

`content` is what there is to show, `page` puts it in order, `sections` and `model_sections` write the cards, `charts` and
`model_charts` the figures in them.
"""

from cryptoml.evaluation.report.content import Report, report_dict
from cryptoml.evaluation.report.files import write_report
from cryptoml.evaluation.report.strict import strict_json
from cryptoml.evaluation.report.summary import summary_table

__all__ = ["Report", "report_dict", "strict_json", "summary_table", "write_report"]
