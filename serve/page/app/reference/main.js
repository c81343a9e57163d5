/** The interface, described by itself: every operation by topic, the shapes of bodies, and a form to try each. */

import { openApi } from "../api.js";
import { askKey } from "../dialogs.js";
import { fill, h } from "../dom.js";
import { openSession } from "../session.js";
import { loading, problem } from "../states.js";
import { operationCard } from "./operation.js";
import { shapeCard } from "./shapes.js";

async function start() {
  const session = openSession();
  const place = document.getElementById("content");
  document.getElementById("key").addEventListener("click", () => changeKey(session));
  fill(place, loading());
  try {
    fill(place, page(await openApi(session).get("openapi.json"), session));
    document.getElementById(window.location.hash.slice(1))?.scrollIntoView();
  } catch (error) {
    fill(place, problem(error, { retry: start }));
  }
}

async function changeKey(session) {
  const key = await askKey("Requests that you try here carry the key you enter.", session.key() !== null);
  if (key) session.keep(key);
  else if (key === "") session.forget();
}

function page({ info, paths, components }, session) {
  const topics = new Map();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const topic = operation.tags?.[0] ?? "other";
      if (!topics.has(topic)) topics.set(topic, []);
      topics.get(topic).push(operationCard({ path, method, operation, schemas: components.schemas }, session));
    }
  }
  return h(
    "div",
    { class: "view" },
    h("h1", {}, "Interface"),
    h("p", { class: "hint" }, `${info.description} Version ${info.version}.`),
    [...topics].map(([topic, operations]) => h("section", { class: "topic" }, h("h2", {}, topic), operations)),
    h("section", { class: "topic" }, h("h2", {}, "shapes"), Object.entries(components.schemas).map(shapeCard)),
  );
}

start();
