/** Every symbol at a glance: signal, confidence, freshness; sorted and filtered here. */

import { fill, h } from "../dom.js";
import { barSeconds, basisPoints, count, percent, words } from "../format.js";
import { age, meter, regimeName, signalPill } from "../parts.js";
import { symbolAddress } from "../router.js";
import { empty } from "../states.js";

const ORDER = { BUY: 0, SELL: 1, HOLD: 2 };
const COLUMNS = [
  { key: "symbol", name: "Symbol", value: (row) => row.symbol, first: "ascending" },
  { key: "signal", name: "Signal", value: (row) => ORDER[row.signal?.action] ?? 3, first: "ascending" },
  { key: "confidence", name: "Confidence", short: "Conf.", value: (row) => row.signal?.confidence },
  { key: "size", name: "Size", value: (row) => row.signal && Math.abs(row.signal.position_size), less: true, number: true },
  { key: "edge", name: "Edge", value: (row) => row.signal?.expected_edge, less: true, number: true },
  { key: "regime", name: "Regime", value: (row) => row.signal?.market_regime, first: "ascending", less: true },
  { key: "fresh", name: "Last bar", value: (row) => row.closed, number: true },
];
const FILTERS = {
  all: ["All", () => true],
  BUY: ["Buy", (row) => row.signal?.action === "BUY"],
  SELL: ["Sell", (row) => row.signal?.action === "SELL"],
  HOLD: ["Hold", (row) => row.signal?.action === "HOLD" && !row.signal.refusal],
  none: ["No forecast", (row) => !row.signal || row.signal.refusal !== null],
};

/** Make the view. */
export function symbolsView(context) {
  const state = { sort: "signal", descending: false, filter: "all", text: "", rows: [] };
  const body = h("tbody");
  const [summary, nothing, counts] = [h("p", { class: "hint", role: "status" }), h("div"), new Map()];
  const headers = COLUMNS.map((column) =>
    header(column, (key) => {
      sortBy(state, key);
      draw();
    }),
  );
  const table = h(
    "table",
    { class: "rows symbols" },
    h("caption", { class: "hidden" }, "Symbols with their newest signal"),
    h("thead", {}, h("tr", {}, headers)),
    body,
  );
  const search = h("input", {
    type: "search",
    placeholder: "Find a symbol",
    "aria-label": "Find a symbol",
    autocomplete: "off",
    spellcheck: "false",
    on: {
      input: () => {
        state.text = search.value.trim().toUpperCase();
        draw();
      },
    },
  });
  const choice = choices(counts, (filter) => {
    state.filter = filter;
    draw();
  });

  const draw = () => {
    const shown = ordered(state).filter((row) => chosen(row, state));
    headers.forEach((cell, place) => mark(cell, COLUMNS[place].key, state));
    for (const [key, badge] of counts) badge.textContent = state.rows.filter(FILTERS[key][1]).length;
    fill(body, shown.map(line));
    table.hidden = !shown.length;
    summary.textContent = `${count(shown.length, "symbol")} of ${state.rows.length}`;
    fill(nothing, !shown.length && empty("No symbol here", "Another filter or another name shows more."));
  };

  return {
    title: "Symbols",
    element: h(
      "div",
      { class: "view" },
      h("h1", {}, "Symbols"),
      h("div", { class: "tools" }, search, choice),
      table,
      nothing,
      summary,
    ),
    load: (signal) => context.api.get("v1/symbols", signal),
    show: (data) => {
      state.rows = data.symbols.map((row) => flat(row, data.model));
      draw();
    },
  };
}

function flat({ candles, signal }, model) {
  const step = barSeconds(model.timeframe) * 1000;
  const closed = candles.last_bar && new Date(new Date(candles.last_bar).getTime() + step).toISOString();
  return { symbol: candles.symbol, candles, signal, closed };
}

function sortBy(state, key) {
  const first = COLUMNS.find((column) => column.key === key).first !== "ascending";
  state.descending = state.sort === key ? !state.descending : first;
  state.sort = key;
}

function ordered(state) {
  const { value } = COLUMNS.find((column) => column.key === state.sort);
  const turn = state.descending ? -1 : 1;
  return [...state.rows].sort((one, other) => compare(value(one), value(other), turn) || finest(one, other));
}

/** Return the order of two rows that the chosen column does not tell apart: the more confident first. */
function finest(one, other) {
  return (other.signal?.confidence ?? -1) - (one.signal?.confidence ?? -1) || one.symbol.localeCompare(other.symbol);
}

/** Return the order of two values; those that are absent come last either way. */
function compare(one, other, turn) {
  const absent = (one ?? null) === null;
  if (absent || (other ?? null) === null) return Number(absent) - Number((other ?? null) === null);
  return one === other ? 0 : turn * (one < other ? -1 : 1);
}

function chosen(row, { filter, text }) {
  return FILTERS[filter][1](row) && row.symbol.includes(text);
}

function header(column, sort) {
  const button = h(
    "button",
    { type: "button", on: { click: () => sort(column.key) } },
    named(column),
    h("span", { class: "arrow", "aria-hidden": "true" }),
  );
  return h(
    "th",
    {
      scope: "col",
      class: [column.less && "less", column.number && "number"].filter(Boolean).join(" "),
      data: { column: column.key },
    },
    button,
  );
}

function named({ name, short }) {
  return short ? [h("span", { class: "less" }, name), h("abbr", { class: "more", title: name }, short)] : name;
}

function mark(cell, key, state) {
  const order = state.descending ? "descending" : "ascending";
  cell.setAttribute("aria-sort", state.sort === key ? order : "none");
}

function choices(counts, choose) {
  const options = Object.entries(FILTERS).map(([key, [name]]) => {
    const badge = h("b");
    counts.set(key, badge);
    return h(
      "label",
      {},
      h("input", { type: "radio", name: "filter", value: key, checked: key === "all", on: { change: () => choose(key) } }),
      h("span", {}, name, badge),
    );
  });
  return h("fieldset", { class: "choice" }, h("legend", { class: "hidden" }, "Which signals"), options);
}

function line(row) {
  const { signal } = row;
  const known = signal && signal.refusal === null;
  return h(
    "tr",
    {},
    h(
      "th",
      { scope: "row" },
      h("a", { href: symbolAddress(row.symbol), data: { focus: row.symbol } }, row.symbol),
      signal?.adaptation && h("span", { class: "badge", title: `Adaptation ${signal.adaptation}` }, "adapted"),
    ),
    h(
      "td",
      {},
      known
        ? signalPill(signal.action)
        : h("span", { class: "muted", title: signal?.reasoning ?? "" }, signal ? words(signal.refusal) : "No bars"),
    ),
    h("td", {}, meter(signal?.confidence, "confidence")),
    h("td", { class: "less number" }, known && signal.position_size ? percent(signal.position_size, 1) : "–"),
    h("td", { class: "less number" }, basisPoints(signal?.expected_edge)),
    h("td", { class: "less" }, known ? regimeName(signal.market_regime) : "–"),
    h("td", { class: "number" }, freshness(row)),
  );
}

function freshness({ candles, closed }) {
  if (!closed) return h("span", { class: "fresh", data: { fresh: "no" } }, "none");
  return h(
    "span",
    { class: "fresh", data: { fresh: candles.fresh ? "yes" : "no" } },
    h("span", { class: "hidden" }, candles.fresh ? "fresh, " : "stale, "),
    age(closed, { short: true }),
  );
}
