/** One line about the bar under the pointer, or about the last one. */

import { h } from "../dom.js";
import { count, figure, instant, percent, price } from "../format.js";
import { regimeName } from "../parts.js";

/**
 * Return the line.
 * @param {object} data Answer of `GET /v1/symbols/{symbol}`.
 * @param {object|null} found From the crosshair.
 */
export function readout(data, found) {
  if (found?.ahead) return found.ahead > 0 ? ahead(data, found) : [h("b", {}, instant(found.time)), h("span", {}, "no bar")];
  const bar = found ?? lastOf(data);
  const change = bar.close / bar.open - 1;
  return [
    h("b", {}, instant(bar.time)),
    ...["open", "high", "low", "close"].map((name) =>
      h("span", {}, h("i", { title: name }, name[0].toUpperCase()), price(bar[name])),
    ),
    h("span", { data: { sign: Math.sign(change) } }, percent(change, 2, true)),
    h("span", { class: "less" }, h("i", {}, "Vol"), figure(bar.volume, 4)),
    bar.regime && regimeName(bar.regime),
  ];
}

function ahead({ forecast, close }, { ahead: bars, time }) {
  const horizons = Object.keys(forecast.quantiles)
    .map(Number)
    .sort((one, other) => one - other);
  const nearest = horizons.find((one) => one >= bars) ?? horizons.at(-1);
  const levels = Object.entries(forecast.quantiles[nearest] ?? {}).sort((one, other) => one[0] - other[0]);
  return [
    h("b", {}, instant(time)),
    h("span", {}, `forecast, ${count(nearest, "bar")} ahead`),
    ...levels.map(([level, value]) =>
      h("span", {}, h("i", {}, percent(Number(level), 0)), price(close.at(-1) * Math.exp(value))),
    ),
  ];
}

function lastOf(data) {
  const value = (name) => data[name].at(-1);
  return {
    time: value("timestamp"),
    open: value("open"),
    high: value("high"),
    low: value("low"),
    close: value("close"),
    volume: value("volume"),
  };
}
