/** One symbol: candles with the fan ahead, regimes, what to do, why, and a button to adapt. */

import { priceChart } from "../charts/candles.js";
import { attentionChart } from "../charts/attention.js";
import { influenceTable } from "../charts/influence.js";
import { plotData } from "../charts/plot.js";
import { fill, h } from "../dom.js";
import { count, price } from "../format.js";
import { card, shares } from "../parts.js";
import { empty } from "../states.js";
import { adaptButton } from "./adapting.js";
import { fanTable, regimeLegend, signalCard } from "./symbol_parts.js";
import { readout } from "./readout.js";

const CHOICES = [60, 120, 240, 480];
const NARROW = 640;

/** Make the view of one symbol. */
export function symbolView(context, symbol) {
  const state = { bars: window.innerWidth < NARROW ? CHOICES[0] : CHOICES[1], member: 0, data: null };
  const [top, why, story] = [h("div"), h("div", { class: "cards" }), h("div")];
  const line = h("p", { class: "readout" });
  const chart = priceChart((found) => fill(line, readout(state.data, found)));
  const attention = attentionChart();
  const looks = h("div", { class: "pick" });
  const choice = barChoice(state, () => context.reload());
  const chartCard = h(
    "section",
    { class: "card", "aria-label": "Prices" },
    h("div", { class: "card-head" }, line, choice),
    chart.element,
    story,
  );
  const lookCard = card("Temporal attention", { hint: "Which past bars the model looked at.", end: looks }, attention.element);
  const head = h(
    "div",
    { class: "title" },
    h("a", { class: "back", href: "#/", "aria-label": "Back to all symbols" }, "‹"),
    h("h1", {}, symbol),
    h("span", { class: "space" }),
    adaptButton(context, () => [symbol]),
  );

  const look = () => {
    const { attention: found } = state.data;
    lookCard.hidden = !found.length;
    if (!found.length) return;
    state.member = Math.min(state.member, found.length - 1);
    fill(looks, found.length > 1 ? memberChoice(found, state, look) : h("span", { class: "hint" }, memberName(found[0].member)));
    attention.show(found[state.member]);
  };

  const show = (data) => {
    state.data = data;
    fill(top, signalCard(data));
    showChart(data, state, { chart, line, story, chartCard });
    fill(why, whyCards(data));
    look();
  };

  return {
    title: symbol,
    element: h("div", { class: "view" }, head, top, chartCard, why, lookCard),
    load: (signal) => context.api.get(`v1/symbols/${encodeURIComponent(symbol)}?bars=${state.bars}`, signal),
    show,
    close: () => {
      chart.close();
      attention.close();
    },
  };
}

function showChart(data, state, { chart, line, story, chartCard }) {
  chart.element.hidden = !data.timestamp.length;
  if (!data.timestamp.length) {
    fill(line);
    fill(story, empty("No bars yet", "They appear as soon as some are put in /v1/candles."));
    return;
  }
  chartCard.hidden = false;
  const plot = plotData(data, state.bars);
  plot.label = chartLabel(data, plot);
  chart.show(plot);
  fill(line, readout(data, null));
  fill(story, regimeLegend(data.regimes));
}

function chartLabel(data, plot) {
  const far = plot.fan.at(-1);
  const ahead = far
    ? `, and in ${far.bars} bars most likely between ${price(far.prices[0])} and ${price(far.prices.at(-1))}`
    : "";
  return `${count(plot.bars.length, "candle")} of ${data.forecast.symbol}, last close ${price(plot.last.close)}${ahead}`;
}

function whyCards({ forecast }) {
  if (forecast.refusal) return [];
  const features = forecast.top_features ?? [];
  const fan = card("Forecast", { hint: "Log returns from the last close, by quantile." }, fanTable(forecast.quantiles));
  const chances = card(
    "Probabilities",
    { hint: `Over the next ${count(forecast.horizon_bars, "bar")}.` },
    h("h3", {}, "Direction"),
    shares(forecast.direction, "direction"),
    h("h3", {}, "Regime"),
    shares(forecast.regime, "regime"),
  );
  const inputs =
    features.length &&
    card("Top features", { hint: "Inputs that moved it most; to the right they speak for UP." }, influenceTable(features));
  return [h("div", { class: "stack" }, chances, fan), inputs];
}

function barChoice(state, chosen) {
  const options = CHOICES.map((bars) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name: "bars",
        value: bars,
        checked: bars === state.bars,
        on: {
          change: () => {
            state.bars = bars;
            chosen();
          },
        },
      }),
      h("span", {}, bars),
    ),
  );
  return h("fieldset", { class: "choice small" }, h("legend", { class: "hidden" }, "How many bars"), options);
}

function memberChoice(looks, state, chosen) {
  const options = looks.map(({ member }, place) =>
    h("option", { value: place, selected: place === state.member }, memberName(member)),
  );
  const select = h("select", { "aria-label": "Member of the ensemble", data: { focus: "member" } }, options);
  select.addEventListener("change", () => {
    state.member = Number(select.value);
    chosen();
  });
  return select;
}

function memberName(name) {
  const [place, architecture] = name.split(" ");
  return architecture ? `Member ${Number(place) + 1}, ${architecture.toUpperCase()}` : name;
}
