/** Read single bars of a price chart by pointer, finger or arrow keys. */

import { s } from "../dom.js";

/**
 * Let a chart be read.
 * @param {SVGElement} svg
 * @param {object} data From `plotData`.
 * @param {object} plot From `layout`.
 * @param {(found: object|null) => void} tell Gets a bar, `{slot, ahead}` for a slot ahead of the last bar, or null.
 */
export function crosshair(svg, data, plot, tell) {
  const line = s("line", { class: "cross", y1: plot.top, y2: plot.bottom, visibility: "hidden" });
  const bySlot = new Map(data.bars.map((bar) => [bar.slot, bar]));
  let slot = null;
  svg.append(line);

  const move = (found) => {
    slot = Math.max(0, Math.min(plot.slots - 1, found));
    line.setAttribute("visibility", "visible");
    line.setAttribute("x1", plot.x(slot));
    line.setAttribute("x2", plot.x(slot));
    tell(bySlot.get(slot) ?? { slot, time: data.timeOf(slot), ahead: slot - data.last.slot });
  };
  const leave = () => {
    slot = null;
    line.setAttribute("visibility", "hidden");
    tell(null);
  };
  const point = (event) => move(Math.floor((event.clientX - svg.getBoundingClientRect().left - plot.left) / plot.slotWidth));
  const press = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    move((slot ?? data.last.slot + 1) + step);
  };

  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("keydown", press);
  svg.addEventListener("blur", leave);
}
