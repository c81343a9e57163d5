/** One operation: what it does, what it takes, what it answers, and a form to send it. */

import { h } from "../dom.js";
import { fieldRow, typeOf } from "./shapes.js";
import { tryForm } from "./trying.js";

/** Return an operation, closed at first; its form is made when it is opened. */
export function operationCard(found, session) {
  const { path, method, operation } = found;
  const inside = h("div", { class: "inside" });
  const card = h(
    "details",
    { class: "card operation", id: `${method}${path.replaceAll(/[^a-z0-9]+/g, "-")}` },
    h(
      "summary",
      {},
      h("span", { class: "method", data: { method } }, method.toUpperCase()),
      h("code", {}, path),
      h("span", { class: "hint" }, operation.description?.split("\n")[0]),
    ),
    inside,
  );
  card.addEventListener("toggle", () => {
    if (card.open && !inside.hasChildNodes()) inside.append(...parts(found, session));
  });
  return card;
}

function parts(found, session) {
  const { operation } = found;
  return [
    operation.security && h("p", { class: "hint" }, "Where the service asks for keys: ", h("code", {}, "Authorization: Bearer cml_…")),
    parameters(operation.parameters ?? []),
    body(operation.requestBody),
    answers(operation.responses),
    tryForm(found, session),
  ].filter(Boolean);
}

function parameters(all) {
  if (!all.length) return null;
  const rows = all.map((one) => fieldRow(one.name, one.schema, one.required, [one.description, ` (${one.in})`]));
  return part("Parameters", h("table", { class: "figures fields" }, h("tbody", {}, rows)));
}

function body(described) {
  if (!described) return null;
  const rows = Object.entries(described.content).map(([kind, { schema }]) =>
    h("tr", {}, h("th", { scope: "row" }, h("code", {}, kind)), h("td", {}, h("code", {}, typeOf(schema))), h("td", {}, schema.description)),
  );
  return part("Body", h("table", { class: "figures fields" }, h("tbody", {}, rows)));
}

function answers(described) {
  const rows = Object.entries(described).map(([status, { description, content }]) => {
    const kinds = Object.entries(content ?? {}).map(([kind, { schema }]) => h("div", {}, h("code", {}, typeOf(schema)), ` ${kind}`));
    return h("tr", {}, h("th", { scope: "row" }, h("code", {}, status)), h("td", {}, description), h("td", {}, kinds));
  });
  return part("Answers", h("table", { class: "figures fields" }, h("tbody", {}, rows)));
}

function part(title, content) {
  return h("section", {}, h("h3", {}, title), content);
}
