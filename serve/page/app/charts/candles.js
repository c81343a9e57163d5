/** Candles with volume, regime bands, the quantile fan ahead of the last bar, stop and target. */

import { s } from "../dom.js";
import { chartFrame } from "./frame.js";
import { crosshair } from "./crosshair.js";
import { layout } from "./plot.js";
import { linear } from "./scale.js";

const HEIGHT = 400;
const STRIP = 6;
const VOLUME = 30;

/** Return a price chart; `tell` gets what lies under the pointer: a bar, a slot ahead, or null. */
export function priceChart(tell) {
  return chartFrame(HEIGHT, (svg, width, data) => {
    const plot = layout(data, width, HEIGHT);
    svg.setAttribute("role", "img");
    svg.setAttribute("tabindex", "0");
    svg.dataset.focus = "price-chart";
    svg.setAttribute("aria-label", `${data.label}. Arrow keys read single bars.`);
    svg.append(bands(data, plot), grid(data, plot), volumes(data, plot), fan(data, plot), sticks(data, plot), marks(data, plot));
    crosshair(svg, data, plot, tell);
  });
}

function bands(data, plot) {
  return s(
    "g",
    {},
    data.runs.map(({ regime, start, stop }) => {
      const [x, width] = [plot.left + start * plot.slotWidth, (stop - start) * plot.slotWidth];
      return [
        s("rect", { class: "band", data: { regime }, x, y: plot.top, width, height: plot.bottom - plot.top }),
        s("rect", { class: "band-strip", data: { regime }, x, y: plot.bottom - STRIP, width, height: STRIP }),
      ];
    }),
  );
}

function grid(data, plot) {
  const lines = plot.values.map((value) => [
    s("line", { class: "grid", x1: plot.left, x2: plot.right, y1: plot.y(value), y2: plot.y(value) }),
    s("text", { class: "tick", x: plot.right + 6, y: plot.y(value), dy: "0.32em" }, plot.label(value)),
  ]);
  return s("g", {}, lines, timeTicks(data, plot));
}

function timeTicks(data, plot) {
  const every = Math.max(1, Math.ceil(78 / plot.slotWidth));
  const slots = [];
  for (let slot = Math.floor(every / 2); slot < plot.slots; slot += every) slots.push(slot);
  return slots
    .filter((slot) => plot.x(slot) < plot.right - 20 && plot.x(slot) > plot.left + 30)
    .map((slot) =>
      s("text", { class: "tick", x: plot.x(slot), y: plot.bottom + 16, "text-anchor": "middle" }, timeLabel(data, slot)),
    );
}

function timeLabel(data, slot) {
  const text = new Date(data.timeOf(slot)).toISOString();
  return data.step < 86_400_000 ? `${text.slice(5, 10)} ${text.slice(11, 16)}` : text.slice(0, 10);
}

function volumes(data, plot) {
  const most = Math.max(...data.bars.map((bar) => bar.volume), 1e-12);
  const bottom = plot.bottom - STRIP - 1;
  const width = Math.max(1, plot.slotWidth * 0.7);
  const height = linear([0, most], [0, VOLUME]);
  return s(
    "g",
    { class: "volume" },
    data.bars.map((bar) =>
      s("rect", { x: plot.x(bar.slot) - width / 2, y: bottom - height(bar.volume), width, height: height(bar.volume) }),
    ),
  );
}

function sticks(data, plot) {
  const width = Math.max(1, Math.min(14, plot.slotWidth * 0.7));
  return s(
    "g",
    {},
    data.bars.map((bar) => {
      const [x, top, bottom] = [plot.x(bar.slot), plot.y(Math.max(bar.open, bar.close)), plot.y(Math.min(bar.open, bar.close))];
      return s(
        "g",
        { class: bar.close >= bar.open ? "up" : "down" },
        s("line", { x1: x, x2: x, y1: plot.y(bar.high), y2: plot.y(bar.low) }),
        s("rect", { x: x - width / 2, y: top, width, height: Math.max(1, bottom - top) }),
      );
    }),
  );
}

/** Return the fan: one shape for each pair of levels around the middle one, which is a line. */
function fan(data, plot) {
  if (!data.fan.length) return s("g");
  const number = data.fan[0].levels.length;
  const start = [plot.x(data.last.slot), plot.y(data.last.close)];
  const path = (level) => [start, ...data.fan.map((one) => [plot.x(data.last.slot + one.bars), plot.y(one.prices[level])])];
  const pairs = Array.from({ length: Math.floor(number / 2) }, (_, place) => [place, number - 1 - place]);
  return s(
    "g",
    { class: "fan" },
    pairs.map(([low, high]) => s("polygon", { points: points([...path(high), ...path(low).reverse()]) })),
    number % 2 === 1 && s("polyline", { points: points(path((number - 1) / 2)) }),
    data.fan.map((one) =>
      s("circle", { cx: plot.x(data.last.slot + one.bars), cy: plot.y(one.prices[Math.floor(number / 2)]), r: 2.5 }),
    ),
  );
}

function marks(data, plot) {
  const now = plot.x(data.last.slot) + plot.slotWidth / 2;
  const levels = data.levels.map((level) =>
    s(
      "g",
      { class: "level", data: { kind: level.kind } },
      s("line", { x1: now, x2: plot.right, y1: plot.y(level.price), y2: plot.y(level.price) }),
      s("text", { x: plot.right - 4, y: plot.y(level.price) - 5, "text-anchor": "end" }, level.name),
    ),
  );
  const y = plot.y(data.last.close);
  return s(
    "g",
    {},
    s("line", { class: "now", x1: now, x2: now, y1: plot.top, y2: plot.bottom }),
    levels,
    s(
      "g",
      { class: "last" },
      s("rect", { x: plot.right + 2, y: y - 9, width: plot.room - 4, height: 18, rx: 3 }),
      s("text", { x: plot.right + 6, y, dy: "0.34em" }, plot.exact),
    ),
  );
}

function points(places) {
  return places.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
}
