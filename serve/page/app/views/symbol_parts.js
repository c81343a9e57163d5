/** Parts of the view of one symbol. */

import { h } from "../dom.js";
import { barSeconds, basisPoints, percent, words } from "../format.js";
import { age, facts, meter, regimeName, signalPill } from "../parts.js";

/** Return what to do and why, with how old the bars are. */
export function signalCard({ signal, model }) {
  const known = signal.refusal === null;
  const head = h(
    "div",
    { class: "verdict" },
    known ? signalPill(signal.action) : h("span", { class: "pill", data: { action: "NONE" } }, words(signal.refusal)),
    h("p", { class: "reasoning" }, signal.reasoning.replace(/^HOLD: /, "")),
  );
  return h(
    "section",
    { class: "card", "aria-label": "Signal" },
    head,
    facts(known ? details(signal, model) : [lastBar(signal, model)]),
  );
}

function details(signal, model) {
  const acts = signal.action !== "HOLD";
  return [
    ["Confidence", meter(signal.confidence, "confidence")],
    acts && ["Position", percent(signal.position_size, 1)],
    acts && ["Stop", percent(signal.stop_loss_pct, 1)],
    acts && ["Target", percent(signal.take_profit_pct, 1)],
    ["Edge", basisPoints(signal.expected_edge)],
    ["Volatility", percent(signal.predicted_volatility, 1)],
    ["Regime", regimeName(signal.market_regime)],
    lastBar(signal, model),
    ["Adaptation", signal.adaptation ? h("code", {}, signal.adaptation) : "none"],
  ];
}

function lastBar(signal, model) {
  const closed =
    signal.available_at ??
    (signal.timestamp && new Date(Date.parse(signal.timestamp) + barSeconds(model.timeframe) * 1000).toISOString());
  return ["Last bar", age(closed, { before: "closed " })];
}

/** Return the fan as a table: a row for each horizon, a column for each level. */
export function fanTable(quantiles) {
  const horizons = Object.entries(quantiles).sort((one, other) => one[0] - other[0]);
  const levels = Object.keys(horizons[0]?.[1] ?? {}).sort((one, other) => one - other);
  return h(
    "table",
    { class: "figures" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "Bars ahead"),
        levels.map((level) => h("th", { scope: "col" }, percent(Number(level), 0))),
      ),
    ),
    h(
      "tbody",
      {},
      horizons.map(([bars, values]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, bars),
          levels.map((level) =>
            h("td", { class: "number", data: { sign: Math.sign(values[level]) } }, percent(values[level], 2, true)),
          ),
        ),
      ),
    ),
  );
}

/** Return names and colours of the regimes that are shown, and what else the chart draws. */
export function regimeLegend(regimes) {
  const known = [...new Set(regimes.filter(Boolean))];
  return h(
    "ul",
    { class: "legend" },
    known.map((regime) => h("li", {}, regimeName(regime))),
    known.length > 0 && h("li", { class: "legend-fan" }, "Quantile fan"),
  );
}
