/** Where a member looked: a bar per bar of history, the newest at the right, as below candles. */

import { s } from "../dom.js";
import { percent } from "../format.js";
import { chartFrame } from "./frame.js";
import { linear, ticks } from "./scale.js";

const HEIGHT = 150;
const [LEFT, BOTTOM, TOP] = [40, 22, 8];

/** Return a chart of weights by bars ago, the newest first; they sum to 1. */
export function attentionChart() {
  return chartFrame(HEIGHT, (svg, width, { weights }) => {
    const most = Math.max(...weights, 1e-9);
    const y = linear([0, most * 1.05], [HEIGHT - BOTTOM, TOP]);
    const slot = (width - LEFT - 4) / weights.length;
    const x = (ago) => LEFT + (weights.length - 1 - ago) * slot;
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", summary(weights));
    svg.append(
      axis(y, most, width),
      s(
        "g",
        { class: "attention" },
        weights.map((weight, ago) => bar(weight, ago, x(ago), y, slot)),
      ),
      ...agoTicks(weights.length, x, slot),
    );
  });
}

function bar(weight, ago, x, y, slot) {
  const top = Math.min(y(weight), y(0) - 1);
  return s(
    "rect",
    { x: x + slot * 0.1, y: top, width: Math.max(1, slot * 0.8), height: y(0) - top, rx: Math.min(2, slot / 4) },
    s("title", {}, `${percent(weight, 1)} on ${ago === 0 ? "the newest bar" : `${ago} bars ago`}`),
  );
}

function axis(y, most, width) {
  return s(
    "g",
    {},
    ticks(0, most, 3).map((value) => [
      s("line", { class: "grid", x1: LEFT, x2: width - 4, y1: y(value), y2: y(value) }),
      s(
        "text",
        { class: "tick", x: LEFT - 6, y: y(value), dy: "0.32em", "text-anchor": "end" },
        percent(value, most < 0.05 ? 1 : 0),
      ),
    ]),
  );
}

function agoTicks(length, x, slot) {
  const places = [...new Set([length - 1, Math.round((length - 1) / 2), 0])];
  return places.map((ago) =>
    s(
      "text",
      {
        class: "tick",
        x: x(ago) + slot / 2,
        y: HEIGHT - 6,
        "text-anchor": ago === 0 ? "end" : ago === length - 1 ? "start" : "middle",
      },
      ago === 0 ? "newest bar" : `${ago} bars ago`,
    ),
  );
}

function summary(weights) {
  const strongest = weights
    .map((weight, ago) => [weight, ago])
    .sort((one, other) => other[0] - one[0])
    .slice(0, 3);
  return `Most attention: ${strongest.map(([weight, ago]) => `${percent(weight, 0)} ${ago ? `${ago} bars ago` : "on the newest bar"}`).join(", ")}.`;
}
