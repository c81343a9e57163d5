/** A place for a chart that is drawn again whenever its width changes, so that its text keeps its size. */

import { h, s } from "../dom.js";

/**
 * Return an element and a function that draws in it.
 * @param {number|((width: number) => number)} height Pixels.
 * @param {(svg: SVGElement, width: number, data: any) => void} draw
 */
export function chartFrame(height, draw) {
  const element = h("div", { class: "chart" });
  const tall = (wide) => (typeof height === "function" ? height(wide) : height);
  let [data, width] = [null, 0];
  const redraw = () => {
    if (!data || !width) return;
    const size = tall(width);
    const svg = s("svg", { width, height: size, viewBox: `0 0 ${width} ${size}` });
    element.style.setProperty("--height", `${size}px`);
    draw(svg, width, data);
    element.replaceChildren(svg);
  };
  const observer = new ResizeObserver(([entry]) => {
    const found = Math.floor(entry.contentRect.width);
    if (found === width) return;
    width = found;
    redraw();
  });
  observer.observe(element);
  return {
    element,
    show: (found) => {
      data = found;
      redraw();
    },
    close: () => observer.disconnect(),
  };
}
