/** A form that sends an operation and shows what came back, as it came. */

import { fill, h } from "../dom.js";
import { exampleOf } from "./shapes.js";

const SHOWN = 20_000;

/** Return the form of an operation. */
export function tryForm({ path, method, operation, schemas }, session) {
  const fields = (operation.parameters ?? []).map((one) => ({ ...one, input: field(one) }));
  const json = operation.requestBody?.content["application/json"];
  const body = json && h("textarea", { rows: 6, spellcheck: "false", "aria-label": "JSON body" });
  if (body) body.value = JSON.stringify(exampleOf(json.schema, schemas), null, 1);
  const [answer, button] = [h("div", { role: "status" }), h("button", { type: "submit", class: "strong" }, "Send")];
  const form = h(
    "form",
    {},
    fields.map(({ name, input }) => h("label", { class: "field" }, h("span", {}, name), input)),
    body,
    h("div", { class: "actions" }, button),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    fill(answer, await sent(address(path, fields), method, body?.value, session.key()));
    button.disabled = false;
  });
  return h("section", {}, h("h3", {}, "Try it"), form, answer);
}

function field({ name, required, schema }) {
  return h("input", { type: "text", name, required: Boolean(required), autocomplete: "off", placeholder: schema.default });
}

function address(path, fields) {
  const filled = fields.reduce((text, { name, in: place, input }) => {
    return place === "path" ? text.replace(`{${name}}`, encodeURIComponent(input.value)) : text;
  }, path);
  const query = fields.filter(({ in: place, input }) => place === "query" && input.value);
  const asked = new URLSearchParams(query.map(({ name, input }) => [name, input.value])).toString();
  return new URL(filled.slice(1) + (asked && `?${asked}`), document.baseURI);
}

async function sent(url, method, body, key) {
  const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  const control = new AbortController();
  try {
    const answer = await fetch(url, { method: method.toUpperCase(), headers, body, cache: "no-store", signal: control.signal });
    const streams = answer.headers.get("content-type")?.startsWith("text/event-stream");
    const text = streams ? await firstEvent(answer) : await answer.text();
    control.abort();
    return [h("p", {}, h("b", {}, `${answer.status} `), answer.statusText), text && h("pre", {}, pretty(text).slice(0, SHOWN))];
  } catch {
    return h("p", { class: "hint" }, "The service cannot be reached.");
  }
}

async function firstEvent(answer) {
  const { value } = await answer.body.getReader().read();
  return new TextDecoder().decode(value);
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    return text;
  }
}
