/** Inputs that moved a forecast, to the right where they speak for UP. */

import { h } from "../dom.js";
import { percent } from "../format.js";

/**
 * Return the inputs as a table of bars.
 * @param {{name: string, contribution: number}[]} features
 */
export function influenceTable(features) {
  const most = Math.max(...features.map((feature) => Math.abs(feature.contribution)), 1e-9);
  return h(
    "table",
    { class: "influence" },
    h("caption", { class: "hidden" }, "Inputs by their share of all influence"),
    h("colgroup", {}, h("col"), h("col"), h("col")),
    h(
      "thead",
      { class: "hidden" },
      h("tr", {}, h("th", { scope: "col" }, "Input"), h("th", { scope: "col" }, "Direction"), h("th", { scope: "col" }, "Share")),
    ),
    h(
      "tbody",
      {},
      features.map((feature) => line(feature, most)),
    ),
  );
}

function line({ name, contribution }, most) {
  const side = contribution >= 0 ? "up" : "down";
  return h(
    "tr",
    {},
    h("th", { scope: "row", title: name }, name),
    h(
      "td",
      {},
      h(
        "span",
        { class: "diverging", data: { side }, vary: { share: Math.abs(contribution) / most } },
        h("span", { class: "hidden" }, side),
      ),
    ),
    h("td", { class: "number" }, percent(contribution, 1, true)),
  );
}
