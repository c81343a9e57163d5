/** Who listens to whom: assets on a circle, an arc for each strong link, drawn from the asset listened to. */

import { s } from "../dom.js";
import { percent } from "../format.js";
import { chartFrame } from "./frame.js";

const MOST_LABELS = 60;
const NARROW = 560;
const [PULL, APART] = [0.55, 14];
const [LETTER, NODE] = [9, 28];

/**
 * Return a chart of a graph; `tell` gets the symbol under pointer or focus, or null.
 * @param {(symbol: string|null) => void} tell
 * @param {(symbol: string) => void} open
 */
export function networkChart(tell, open) {
  return chartFrame(
    (width) => Math.min(620, Math.max(300, width * 0.95)),
    (svg, width, data) => {
      const height = Number(svg.getAttribute("height"));
      const named = namer(data.symbols, width);
      const places = circle(data.symbols, named, width, height);
      const links = s(
        "g",
        { class: "links" },
        data.links.map((link) => arc(link, places, data.most, [width / 2, height / 2])),
      );
      const nodes = data.symbols.map((symbol) =>
        node(
          symbol,
          places.get(symbol),
          { ...data, named },
          {
            tell: (found) => {
              light(svg, data, found);
              tell(found);
            },
            open,
          },
        ),
      );
      svg.setAttribute("role", "group");
      svg.setAttribute("aria-label", `${data.symbols.length} assets, ${data.links.length} links`);
      svg.append(links, s("g", {}, nodes));
      if (data.focus) light(svg, data, data.focus);
    },
  );
}

/** Return each symbol's place and angle; names get room beside the circle where there are few enough to be shown. */
function circle(symbols, named, width, height) {
  const longest = Math.max(...symbols.map((symbol) => named(symbol).length));
  const [beside, above] = symbols.length > MOST_LABELS ? [20, 20] : [NODE + LETTER * longest, 48];
  const radius = Math.max(60, Math.min(width / 2 - beside, height / 2 - above));
  return new Map(
    symbols.map((symbol, place) => {
      const angle = (2 * Math.PI * place) / symbols.length - Math.PI / 2;
      return [symbol, { angle, x: width / 2 + radius * Math.cos(angle), y: height / 2 + radius * Math.sin(angle) }];
    }),
  );
}

/** Return a curve bent towards the middle, the two ways between a pair apart; wide and dark where the weight is large. */
function arc({ listener, source, weight }, places, most, centre) {
  const [from, to] = [places.get(source), places.get(listener)];
  const bend = bent(from, to, centre);
  const share = weight / most;
  return s(
    "path",
    {
      d: `M${from.x},${from.y} Q${bend[0]},${bend[1]} ${to.x},${to.y}`,
      data: { listener, source },
      "stroke-width": (0.75 + 4.25 * share).toFixed(2),
      "stroke-opacity": (0.18 + 0.62 * share).toFixed(2),
    },
    s("title", {}, `${listener} listens to ${source}: ${percent(weight, 1)}`),
  );
}

/** Return the point that pulls a curve towards the middle, and to the right of its way. */
function bent(from, to, [cx, cy]) {
  const [x, y] = [(from.x + to.x) / 2, (from.y + to.y) / 2];
  const far = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  return [x + (cx - x) * PULL - ((to.y - from.y) / far) * APART, y + (cy - y) * PULL + ((to.x - from.x) / far) * APART];
}

/** Return a function that names a symbol, on narrow charts without the quote that all have in common. */
function namer(symbols, width) {
  const quote = ["USDT", "USDC", "USD", "EUR", "BTC"].find((suffix) =>
    symbols.every((symbol) => symbol.endsWith(suffix) && symbol !== suffix),
  );
  return (symbol) => (quote && width < NARROW ? symbol.slice(0, -quote.length) : symbol);
}

function node(symbol, { x, y, angle }, data, { tell, open }) {
  const radius = 5 + 11 * Math.sqrt((data.heard.get(symbol) ?? 0) / (data.mostHeard || 1));
  const flip = Math.cos(angle) < -0.01;
  const reach = radius + 6;
  const label =
    data.symbols.length <= MOST_LABELS &&
    s(
      "text",
      {
        x: x + reach * Math.cos(angle),
        y: y + reach * Math.sin(angle) + 4 + 6 * Math.sin(angle),
        "text-anchor": Math.abs(Math.cos(angle)) < 0.2 ? "middle" : flip ? "end" : "start",
      },
      data.named(symbol),
    );
  const press = (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(symbol);
    }
  };
  return s(
    "g",
    {
      class: "node",
      tabindex: 0,
      role: "link",
      "aria-label": `${symbol}, listened to ${percent(data.heard.get(symbol) ?? 0, 0)} in all`,
      data: { symbol, focus: `node-${symbol}` },
      on: {
        pointerenter: () => tell(symbol),
        pointerleave: () => tell(null),
        focus: () => tell(symbol),
        blur: () => tell(null),
        keydown: press,
        click: () => open(symbol),
      },
    },
    s("circle", { cx: x, cy: y, r: radius }),
    s("circle", { class: "reach", cx: x, cy: y, r: Math.max(14, radius) }),
    label,
  );
}

/** Bring out the links of one symbol, or all again. */
function light(svg, data, symbol) {
  svg.classList.toggle("lit", symbol !== null);
  const near = new Set([symbol]);
  for (const path of svg.querySelectorAll(".links path")) {
    const [listens, heard] = [path.dataset.listener === symbol, path.dataset.source === symbol];
    path.classList.toggle("in", listens);
    path.classList.toggle("out", heard);
    if (listens) near.add(path.dataset.source);
    if (heard) near.add(path.dataset.listener);
  }
  for (const found of svg.querySelectorAll(".node")) found.classList.toggle("near", near.has(found.dataset.symbol));
}
