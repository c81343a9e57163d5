/** The learned graph of assets: which ones each listens to, above a threshold. */

import { networkChart } from "../charts/network.js";
import { fill, h } from "../dom.js";
import { count, percent } from "../format.js";
import { card } from "../parts.js";
import { symbolAddress } from "../router.js";
import { empty } from "../states.js";

const STRONGEST = 8;
const MOST_DRAWN = 1500; // more are a blot and slow to draw
const FIRST_LINKS_PER_ASSET = 3;

/** Make the view. */
export function graphView(context) {
  const state = { data: null, threshold: null, links: [] };
  const [said, strongest, nothing] = [h("p", { class: "hint", "aria-live": "polite" }), h("div"), h("div")];
  const slider = h("input", { id: "threshold", type: "range", min: 0, max: 1, step: 0.01 });
  const output = h("output", { for: "threshold" });
  const chart = networkChart(
    (symbol) => {
      said.textContent = sentence(state, symbol);
    },
    (symbol) => {
      window.location.hash = symbolAddress(symbol);
    },
  );
  const control = h("div", { class: "slider" }, h("label", { for: "threshold" }, "Links from"), slider, output);
  const picture = card(
    "Who listens to whom",
    {
      hint: "A larger circle is listened to more. Point at one: blue links lead to what it listens to, amber ones to its listeners.",
      end: control,
    },
    chart.element,
    said,
  );
  const drawing = h("div", { class: "split" }, picture, strongest);

  const draw = () => {
    const { symbols } = state.data;
    const links = state.links.filter((link) => link.weight >= state.threshold).slice(0, MOST_DRAWN);
    output.textContent = percent(state.threshold, 0);
    chart.show({ symbols, links, most: state.links[0]?.weight ?? 1, ...listening(state.links) });
    fill(strongest, card("Strongest links", {}, table(state.links.slice(0, STRONGEST))));
    said.textContent = sentence(state, null);
  };
  slider.addEventListener("input", () => {
    state.threshold = Number(slider.value);
    draw();
  });

  return {
    title: "Asset graph",
    element: h("div", { class: "view" }, h("h1", {}, "Asset graph"), drawing, nothing),
    load: (signal) => context.api.get("v1/graph", signal),
    show: (data) => {
      state.data = data;
      state.links = linksOf(data);
      drawing.hidden = !state.links.length;
      fill(
        nothing,
        !state.links.length && empty("No graph", "It appears for a model that attends across assets, once fresh bars are kept."),
      );
      if (!state.links.length) return;
      slider.max = (Math.ceil(state.links[0].weight * 100) / 100).toFixed(2);
      state.threshold ??= firstThreshold(state.links, data.symbols.length);
      slider.value = state.threshold;
      draw();
    },
    close: chart.close,
  };
}

/** Return the links between two assets, strongest first. */
function linksOf({ symbols, weights }) {
  const all = (weights ?? []).flatMap((row, listener) =>
    row.map((weight, source) => ({ listener: symbols[listener], source: symbols[source], weight })),
  );
  return all.filter((link) => link.weight > 0 && link.listener !== link.source).sort((one, other) => other.weight - one.weight);
}

/** Return the threshold above which there are a few links for each asset. */
function firstThreshold(links, assets) {
  const wanted = links[Math.min(links.length, assets * FIRST_LINKS_PER_ASSET) - 1];
  return Math.floor(wanted.weight * 100) / 100;
}

function listening(links) {
  const heard = new Map();
  for (const { source, weight } of links) heard.set(source, (heard.get(source) ?? 0) + weight);
  return { heard, mostHeard: Math.max(...heard.values()) };
}

function sentence({ links, threshold, data }, symbol) {
  const above = links.filter((link) => link.weight >= threshold);
  const most = above.length > MOST_DRAWN ? `, of which the strongest ${MOST_DRAWN.toLocaleString("en")} are drawn` : "";
  if (symbol === null) return `${count(above.length, "link")} between ${count(data.symbols.length, "asset")}${most}.`;
  const hears = above
    .filter((link) => link.listener === symbol)
    .slice(0, STRONGEST)
    .map((link) => `${link.source} ${percent(link.weight, 0)}`);
  const heard = above.filter((link) => link.source === symbol).length;
  return `${symbol} listens to ${hears.length ? hears.join(", ") : "none of the others"}; ${heard ? count(heard, "asset listens", "assets listen") : "none listens"} to it.`;
}

function table(links) {
  return h(
    "table",
    { class: "figures" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["Asset", "Listens to", "Weight"].map((name) => h("th", { scope: "col" }, name)),
      ),
    ),
    h(
      "tbody",
      {},
      links.map(({ listener, source, weight }) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, h("a", { href: symbolAddress(listener) }, listener)),
          h("td", {}, source),
          h("td", { class: "number" }, percent(weight, 1)),
        ),
      ),
    ),
  );
}
