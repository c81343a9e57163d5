/** Versions of the model: which one serves, and buttons to serve another. */

import { confirm } from "../dialogs.js";
import { fill, h } from "../dom.js";
import { age, busily, facts } from "../parts.js";
import { count } from "../format.js";
import { empty } from "../states.js";

/** Make the view. */
export function modelsView(context) {
  const [serving, body] = [h("section", { class: "card", "aria-label": "The version that serves" }), h("div", { class: "list" })];
  return {
    title: "Models",
    element: h("div", { class: "view" }, h("h1", {}, "Models"), serving, h("h2", {}, "Versions"), body),
    load: async (signal) => {
      const [models, model] = await Promise.all([context.api.get("v1/models", signal), context.api.get("v1/model", signal)]);
      return { ...models, model };
    },
    show: ({ versions, model }) => {
      fill(serving, present(model, versions.length > 1 && rollback(context)));
      const newest = [...versions].reverse();
      fill(
        body,
        newest.length ? newest.map((one) => entry(one, context)) : empty("No versions", "This service answers with one bundle."),
      );
    },
  };
}

function present(model, button) {
  return [
    h(
      "div",
      { class: "card-head" },
      h("h2", {}, h("span", { class: "badge", data: { kind: "good" } }, "Serving"), " ", h("code", {}, model.version)),
      button,
    ),
    facts([
      ["Timeframe", model.timeframe],
      ["Horizon", count(model.horizon_bars, "bar")],
      ["Symbols", model.symbols.length],
      ["History needed", count(model.history_bars, "bar")],
      ["Stale after", count(model.max_age_bars, "missed bar")],
    ]),
  ];
}

function entry(one, context) {
  return h(
    "article",
    { class: "card version", data: { serving: one.serving } },
    h("div", {}, h("code", {}, one.version), h("p", { class: "hint" }, one.reason || "No reason recorded")),
    one.added_at && age(one.added_at, { before: "added " }),
    one.serving ? h("span", { class: "badge", data: { kind: "good" } }, "Serving") : promote(one, context),
  );
}

function promote({ version }, context) {
  const button = h(
    "button",
    { type: "button", data: { focus: `promote-${version}` }, "aria-label": `Promote ${version}` },
    "Promote",
  );
  button.addEventListener("click", () =>
    change(context, button, {
      title: "Serve another version?",
      accept: "Promote",
      path: `v1/models/${encodeURIComponent(version)}/promote`,
      text: `${version} answers from now on. A damaged version is refused and the present one stays.`,
    }),
  );
  return button;
}

function rollback(context) {
  const button = h("button", { type: "button", data: { focus: "rollback" } }, "Roll back");
  button.addEventListener("click", () =>
    change(context, button, {
      title: "Roll back?",
      accept: "Roll back",
      path: "v1/models/rollback",
      danger: true,
      text: "The version that served before this one answers from now on.",
    }),
  );
  return button;
}

async function change(context, button, { path, ...question }) {
  const reason = await confirm(question);
  if (reason === null) return;
  const found = await busily(button, () => context.api.post(path, { reason }), context);
  if (found) context.notify(`${found.version} serves now.`);
  context.reload();
}
