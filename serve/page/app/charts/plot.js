/** What a price chart is made of, computed once: bars on a grid of time, the fan ahead of them, regimes below them. */

import { barSeconds, price } from "../format.js";
import { decimalsOf, extent, linear, ticks } from "./scale.js";

const [TOP, BOTTOM] = [14, 24];
const FLOOR = 34; // below the lowest price: volume and the strip of regimes
const DIGIT = 6.9;

/**
 * Return bars, fan and regimes by slot: slot 0 is the first bar shown, a missing bar leaves its slot empty.
 * @param {object} view Answer of `GET /v1/symbols/{symbol}`.
 * @param {number} shown How many of the newest bars.
 */
export function plotData(view, shown) {
  const first = Math.max(0, view.timestamp.length - shown);
  const step = barSeconds(view.model.timeframe) * 1000;
  const times = view.timestamp.slice(first).map((text) => Date.parse(text));
  const bars = times.map((time, place) => ({
    slot: Math.round((time - times[0]) / step),
    time,
    open: view.open[first + place],
    high: view.high[first + place],
    low: view.low[first + place],
    close: view.close[first + place],
    volume: view.volume[first + place],
  }));
  const last = bars.at(-1);
  const runs = runsOf(view.regimes, bars);
  return {
    bars: bars.map((bar) => ({ ...bar, regime: runs.find(({ start, stop }) => start <= bar.slot && bar.slot < stop)?.regime })),
    last,
    step,
    timeOf: (slot) => times[0] + slot * step,
    fan: fanOf(view.forecast, last),
    runs,
    levels: levelsOf(view.signal, last),
  };
}

/** Return where the parts of a plot lie in a frame of this size, and the axis of prices. */
export function layout(data, width, height) {
  const prices = [
    ...data.bars.flatMap((bar) => [bar.low, bar.high]),
    ...data.fan.flatMap((one) => one.prices),
    ...data.levels.map((level) => level.price),
  ];
  const [low, high] = extent(prices);
  const values = ticks(low, high, 6);
  const decimals = decimalsOf(values);
  const label = (value) => price(value, decimals);
  const exact = price(data.last.close, Math.min(10, decimals + 1));
  const room = 12 + DIGIT * Math.max(exact.length, ...values.map((value) => label(value).length));
  const plot = { left: 4, right: width - room, top: TOP, bottom: height - BOTTOM, room };
  const slots = data.last.slot + 1 + (data.fan.at(-1)?.bars ?? 0);
  const slotWidth = (plot.right - plot.left) / slots;
  return {
    ...plot,
    slots,
    slotWidth,
    values,
    label,
    exact,
    x: (slot) => plot.left + (slot + 0.5) * slotWidth,
    y: linear([low, high], [plot.bottom - FLOOR, TOP]),
  };
}

/** Return the fan as prices by horizon, nearest first; the levels of all horizons are the same. */
function fanOf(forecast, last) {
  if (!last) return [];
  return Object.entries(forecast.quantiles)
    .map(([bars, quantiles]) => {
      const known = Object.entries(quantiles)
        .map(([level, value]) => [Number(level), value])
        .sort((one, other) => one[0] - other[0]);
      return {
        bars: Number(bars),
        levels: known.map(([level]) => level),
        returns: known.map(([, value]) => value),
        prices: known.map(([, value]) => last.close * Math.exp(value)),
      };
    })
    .sort((one, other) => one.bars - other.bars);
}

/** Return stretches of one regime by slot; the newest regime known is that of the last bar. */
function runsOf(regimes, bars) {
  const known = [...regimes];
  while (known.length && known.at(-1) === null) known.pop();
  const last = bars.at(-1)?.slot ?? 0;
  const runs = [];
  known.forEach((regime, place) => {
    const slot = last - known.length + 1 + place;
    if (slot < 0 || regime === null) return;
    if (runs.at(-1)?.regime === regime && runs.at(-1).stop === slot) runs.at(-1).stop = slot + 1;
    else runs.push({ regime, start: slot, stop: slot + 1 });
  });
  return runs;
}

/** Return stop and target as prices, where a position is to be taken. */
function levelsOf(signal, last) {
  const side = { BUY: 1, SELL: -1 }[signal.action];
  if (!side || !last || signal.stop_loss_pct === null) return [];
  return [
    { name: "Stop", kind: "stop", price: last.close * (1 - side * signal.stop_loss_pct) },
    { name: "Target", kind: "target", price: last.close * (1 + side * signal.take_profit_pct) },
  ];
}
