/** Whether the service lives, can answer, and how old its bars are. */

import { fill, h } from "../dom.js";
import { barSeconds, count } from "../format.js";
import { age, card, facts } from "../parts.js";
import { symbolAddress } from "../router.js";

const LIVE = { live: "Event stream open", polling: "Looks every 10 s", waiting: "Needs a key", connecting: "Connecting" };

/** Make the view. */
export function healthView(context) {
  const [tiles, stale, model] = [h("div", { class: "tiles" }), h("div"), h("div")];
  return {
    title: "Health",
    element: h("div", { class: "view" }, h("h1", {}, "Health"), tiles, stale, model),
    load: (signal) => look(context.api, signal),
    show: (found) => {
      fill(tiles, tilesOf(found, context.liveState()));
      fill(stale, found.overview && staleCard(found.overview.symbols));
      fill(model, found.ready.value && modelCard(found.ready.value));
    },
  };
}

/** Ask all at once; what fails is part of the answer. */
async function look(api, signal) {
  const [alive, ready, overview] = await Promise.all(
    ["healthz", "readyz", "v1/symbols"].map((path) => timed(() => api.get(path, signal))),
  );
  if (signal.aborted) throw new DOMException("closed", "AbortError");
  return { alive, ready, overview: overview.value, overviewError: overview.error, milliseconds: alive.milliseconds };
}

async function timed(work) {
  const began = performance.now();
  try {
    return { value: await work(), milliseconds: performance.now() - began };
  } catch (error) {
    return { error, milliseconds: performance.now() - began };
  }
}

function tilesOf({ alive, ready, overview, overviewError, milliseconds }, live) {
  const fresh = overview?.symbols.filter((row) => row.candles.fresh).length;
  const all = overview?.symbols.length;
  return [
    tile(
      "Process",
      alive.error ? "Down" : "Up",
      alive.error?.message ?? `answered in ${Math.round(milliseconds)} ms`,
      !alive.error,
    ),
    tile("Model", ready.error ? "Not ready" : "Ready", ready.error?.message ?? ready.value.version, !ready.error),
    overview
      ? tile("Fresh symbols", `${fresh} of ${all}`, newest(overview), fresh === all ? true : fresh > 0 ? "warn" : false)
      : tile("Symbols", "Unknown", overviewError.message, "warn"),
    tile("Updates", live === "live" ? "Live" : "Not live", LIVE[live], live === "live" ? true : "warn"),
  ];
}

function newest({ symbols, model }) {
  const last = symbols
    .map((row) => row.candles.last_bar)
    .filter(Boolean)
    .sort()
    .at(-1);
  return last
    ? age(new Date(Date.parse(last) + barSeconds(model.timeframe) * 1000).toISOString(), { before: "newest bar closed " })
    : "no bars are kept";
}

function tile(name, value, text, good) {
  return h(
    "section",
    { class: "tile", data: { kind: good === true ? "good" : good || "bad" } },
    h("h2", {}, name),
    h("p", { class: "tile-value" }, value),
    h("p", { class: "hint" }, text),
  );
}

function staleCard(symbols) {
  const late = symbols.filter((row) => !row.candles.fresh || !row.candles.enough || row.candles.missing > 0);
  if (!late.length) return card("Bars", {}, h("p", {}, "Every symbol has fresh bars, enough of them and no gaps."));
  const rows = late.map(({ candles }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: symbolAddress(candles.symbol), data: { focus: candles.symbol } }, candles.symbol)),
      h("td", { class: "number" }, candles.bars),
      h("td", { class: "number" }, candles.missing),
      h("td", {}, trouble(candles)),
      h("td", { class: "number less" }, age(candles.last_bar)),
    ),
  );
  return card(
    "Bars that need attention",
    {},
    h(
      "table",
      { class: "rows" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Symbol", "Kept", "Missing", "Trouble"].map((name, place) =>
            h("th", { scope: "col", class: place === 1 || place === 2 ? "number" : null }, name),
          ),
          h("th", { scope: "col", class: "number less" }, "Newest opened"),
        ),
      ),
      h("tbody", {}, rows),
    ),
  );
}

function trouble({ bars, fresh, enough, missing }) {
  if (!bars) return "No bars";
  const found = [!fresh && "stale", !enough && "too few", missing > 0 && "gaps"].filter(Boolean);
  return found.join(", ");
}

function modelCard(model) {
  return card(
    "Model",
    {},
    facts([
      ["Version", h("code", {}, model.version)],
      ["Timeframe", model.timeframe],
      ["Horizon", count(model.horizon_bars, "bar")],
      ["History needed", count(model.history_bars, "bar")],
      ["Symbols", model.symbols.length],
    ]),
    h("p", { class: "hint" }, h("a", { href: "docs" }, "The interface, described")),
  );
}
