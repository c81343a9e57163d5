"""The report as one HTML page: works offline, on a phone, on paper, in light and dark."""

from html import escape

from plotly.offline import get_plotlyjs

from cryptoml.evaluation.report.content import Report
from cryptoml.evaluation.report.markup import figure, number
from cryptoml.evaluation.report.model_sections import data_cards, model_cards, search_cards
from cryptoml.evaluation.report.sections import baseline_cards, breakdown_cards, forecast_cards, trading_cards
from cryptoml.evaluation.report.style import SCRIPT, STYLE
from cryptoml.evaluation.report.summary import sentences

__all__ = ["render_page"]

_CHAPTERS = (
    ("baselines", "Baselines", baseline_cards),
    ("trading", "Trading", trading_cards),
    ("forecasts", "Forecasts", forecast_cards),
    ("breakdowns", "Symbols and regimes", breakdown_cards),
    ("model", "Model", model_cards),
    ("search", "Search", search_cards),
    ("data", "Data", data_cards),
)


def render_page(report: Report) -> str:
    """Return the whole page; plotly's script is inlined once."""
    chapters = [(key, label, "\n".join(card for card in cards(report) if card)) for key, label, cards in _CHAPTERS]
    chapters = [chapter for chapter in chapters if chapter[2]]
    links = "".join(f'<a href="#{key}">{label}</a>' for key, label, _ in chapters)
    body = "\n".join(f'<div class="chapter" id="{key}">\n{cards}\n</div>' for key, _, cards in chapters)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script></head>\n"
        f"<body>\n{_head(report)}\n<nav><div>{links}</div></nav>\n<main>\n{_tiles(report)}\n{_brief(report)}\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _head(report: Report) -> str:
    inputs = report.inputs
    stamps = inputs.panel.timestamps
    facts = [
        f"{inputs.panel.num_assets} symbols, {inputs.panel.timeframe} bars",
        f"tested {stamps[inputs.test[0]]:%Y-%m-%d} to {stamps[inputs.test[1] - 1]:%Y-%m-%d}",
        f"horizon {inputs.horizon_bars} bars",
        f"{inputs.trading.costs.side_bps:g} bps per side",
        f"{inputs.bootstrap.level:.0%} intervals, block bootstrap",
        f"made {report.created:%Y-%m-%d %H:%M} UTC",
    ]
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<header><h1>{escape(report.title)}</h1><ul class="facts">{items}</ul></header>'


def _tiles(report: Report) -> str:
    direction, trading = report.ensemble.figures["direction"], report.ensemble.figures["trading"]
    ranking, volatility = report.ensemble.figures["ranking"], report.ensemble.figures["volatility"]
    har = report.others.get("har")
    har_note = "" if har is None else f", HAR {number(har.figures['volatility']['qlike']['value'], '.3f')}"
    tiles = [
        (
            "Net Sharpe ratio",
            figure(trading["sharpe_ratio"], "+.2f"),
            f"deflated {number(trading['deflated_sharpe_ratio'], '.2f')}",
        ),
        (
            "Direction accuracy",
            figure(direction["accuracy"], ".1%"),
            f"majority class {number(direction['majority_share'], '.1%')}",
        ),
        ("AUC", figure(direction["auc"], ".3f"), "0.5 is chance"),
        ("Rank IC", figure(ranking["rank_ic"], "+.3f"), f"per bar; ICIR {number(ranking['rank_ic_ir'], '+.2f')}"),
        ("Maximum drawdown", number(trading["max_drawdown"], ".1%"), f"return {number(trading['total_return'], '+.1%')}"),
        (
            "Break-even cost",
            number(trading["break_even_cost_bps"], ".1f") + " bps",
            f"turnover {number(trading['annual_turnover'], ',.0f')} a year",
        ),
        ("Calibration error", number(direction["expected_calibration_error"], ".3f"), "0 is perfect"),
        (
            "Volatility QLIKE",
            figure(volatility["qlike"], ".3f"),
            f"EWMA {number(volatility['ewma_qlike']['value'], '.3f')}{har_note}",
        ),
    ]
    cards = (
        f'<div class="tile"><h3>{name}</h3><p class="value">{value}</p><p>{escape(note)}</p></div>' for name, value, note in tiles
    )
    return f'<section class="tiles">{"".join(cards)}</section>'


def _brief(report: Report) -> str:
    items = "".join(f"<dt>{escape(topic)}</dt><dd>{escape(said[0].upper() + said[1:])}</dd>" for topic, said in sentences(report))
    return f'<section class="brief"><h2>In brief</h2><dl>{items}</dl></section>'
