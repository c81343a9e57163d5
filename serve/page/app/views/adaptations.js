/** Adaptations: start one, see what each did to the loss, forget one. */

import { confirm } from "../dialogs.js";
import { fill, h } from "../dom.js";
import { count, figure, instant, percent } from "../format.js";
import { age, busily, card, facts, regimeName } from "../parts.js";
import { symbolAddress } from "../router.js";
import { empty } from "../states.js";
import { adapt } from "./adapting.js";

/** Make the view. */
export function adaptationsView(context) {
  const list = h("div", { class: "list" });
  const form = adaptForm(context);
  const intro =
    "A small correction beside the weights, learned from the newest bars and kept only if it does better on held-back ones.";
  return {
    title: "Adaptations",
    element: h(
      "div",
      { class: "view" },
      h("h1", {}, "Adaptations"),
      card("Adapt to a new regime", { hint: intro }, form.element),
      list,
    ),
    load: async (signal) => {
      const [made, model] = await Promise.all([context.api.get("v1/adaptations", signal), context.api.get("v1/model", signal)]);
      return { adaptations: made.adaptations, model };
    },
    show: ({ adaptations, model }) => {
      form.offer(model.symbols);
      const newest = [...adaptations].reverse();
      fill(
        list,
        newest.length
          ? newest.map((one) => entry(one, context))
          : empty("No adaptations yet", "The model answers as it was trained."),
      );
    },
  };
}

function adaptForm(context) {
  const symbols = h("div", { class: "checks", role: "group", "aria-label": "Symbols" });
  const bars = h("input", {
    id: "adapt-bars",
    type: "number",
    min: 10,
    max: 1000,
    step: 1,
    placeholder: "model's own",
    inputmode: "numeric",
  });
  const regime = h("input", {
    id: "adapt-regime",
    type: "text",
    maxlength: 32,
    pattern: "[A-Za-z0-9_\\-]+",
    placeholder: "most probable",
    autocomplete: "off",
  });
  const button = h("button", { type: "submit", class: "strong" }, "Adapt");
  const said = h("p", { class: "hint", role: "alert" });
  const element = h(
    "form",
    { class: "adapt" },
    symbols,
    h(
      "div",
      { class: "fields" },
      h("div", { class: "field" }, h("label", { for: "adapt-bars" }, "Newest bars"), bars),
      h("div", { class: "field" }, h("label", { for: "adapt-regime" }, "Name of the regime"), regime),
      button,
    ),
    said,
  );
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = [...symbols.querySelectorAll("input:checked")].map((box) => box.value);
    said.textContent = chosen.length ? "" : "Choose one symbol at least.";
    if (chosen.length)
      adapt(context, button, {
        symbols: chosen,
        last_bars: bars.value ? Number(bars.value) : null,
        regime: regime.value || null,
      });
  });
  return { element, offer: (names) => offer(symbols, names) };
}

/** Show a box for each symbol, leaving those that are there as they are. */
function offer(place, names) {
  const there = [...place.querySelectorAll("input")].map((box) => box.value);
  if (there.join() === names.join()) return;
  fill(
    place,
    names.map((name) => h("label", { class: "check" }, h("input", { type: "checkbox", value: name }), h("span", {}, name))),
  );
}

function entry(one, context) {
  const accepted = one.status === "accepted";
  const head = h(
    "div",
    { class: "card-head" },
    h(
      "h2",
      {},
      h("span", { class: "badge", data: { kind: accepted ? "good" : "bad" } }, accepted ? "Accepted" : "Rolled back"),
      " ",
      regimeName(one.regime),
    ),
    age(one.created_at),
  );
  return h(
    "article",
    { class: "card" },
    head,
    losses(one),
    h("p", { class: "hint" }, one.reason),
    facts([
      [
        "Symbols",
        h(
          "span",
          { class: "links" },
          one.symbols.map((symbol) => h("a", { href: symbolAddress(symbol) }, symbol)),
        ),
      ],
      ["Bars", `${count(one.num_bars, "bar")}, ${instant(one.start)} to ${instant(one.end)}`],
      ["Drift", figure(one.drift)],
      ["Volatility", figure(one.volatility)],
      ["Strength", figure(one.strength)],
      ["Id", h("code", {}, one.id)],
    ]),
    h("div", { class: "actions" }, h("span", { class: "space" }), forget(one, context)),
  );
}

/** Return the losses on held-back bars as two bars, the longer one the worse. */
function losses({ loss_before: before, loss_after: after }) {
  if (before === null) return h("p", { class: "hint" }, "No loss could be measured.");
  const most = Math.max(before, after ?? 0, 1e-12);
  const row = (name, value, kind) =>
    h(
      "div",
      { class: "loss", data: { kind } },
      h("span", {}, name),
      h("span", { class: "loss-bar", "aria-hidden": "true", vary: { share: Math.max(0, value ?? 0) / most } }),
      h("b", {}, value === null ? "not finite" : figure(value, 4)),
    );
  const gain = after === null ? "" : percent(after / before - 1, 1, true);
  return h(
    "div",
    { class: "losses" },
    row("Before", before, "before"),
    row("After", after, after !== null && after < before ? "better" : "worse"),
    h("p", { class: "hint" }, gain && `Loss on held-back bars changed by ${gain}.`),
  );
}

function forget(one, context) {
  const button = h("button", { type: "button", class: "quiet", data: { focus: `forget-${one.id}` } }, "Forget");
  button.addEventListener("click", async () => {
    const text = `Adaptation ${one.id} of ${one.symbols.join(", ")} is deleted; the one before it becomes active again.`;
    if ((await confirm({ title: "Forget this adaptation?", text, accept: "Forget", danger: true, reason: false })) === null)
      return;
    await busily(button, () => context.api.remove(`v1/adaptations/${encodeURIComponent(one.id)}`), context);
    context.reload();
  });
  return button;
}
