/** Small pieces that several views show. */

import { h } from "./dom.js";
import { ago, instant, percent, words } from "./format.js";

const SIGNS = { BUY: "▲", SELL: "▼", HOLD: "■" };

/** Return a signal as a coloured word with a shape, for those who do not see the colour. */
export function signalPill(action) {
  const known = action in SIGNS;
  return h(
    "span",
    { class: "pill", data: { action: known ? action : "NONE" } },
    known && h("span", { "aria-hidden": "true" }, SIGNS[action]),
    known ? action : "No bars",
  );
}

/** Return a share of 1 as a bar with its figure. */
export function meter(value, label) {
  if (value === null || value === undefined) return h("span", { class: "muted" }, "–");
  return h(
    "span",
    { class: "meter", vary: { share: value } },
    h("span", { class: "meter-bar", "aria-hidden": "true" }),
    h("span", { "aria-label": label }, percent(value, 0)),
  );
}

/** Return how long ago something was, `before` in front of it; short is without "ago". `refreshAges` keeps it true. */
export function age(value, { before = "", short = false } = {}) {
  if (!value) return h("span", { class: "muted" }, "–");
  return aged(h("time", { datetime: value, title: instant(value), data: { before, short } }));
}

/** Bring every age below an element up to date. */
export function refreshAges(root) {
  for (const time of root.querySelectorAll("time[data-before]")) {
    aged(time);
  }
}

function shortened(text) {
  return text.startsWith("just") ? "now" : text.split(" ").slice(0, 2).join(" ");
}

function aged(time) {
  const text = ago(time.getAttribute("datetime"));
  time.textContent = time.dataset.before + (time.dataset.short === "true" ? shortened(text) : text);
  return time;
}

/** Return a regime with its colour. */
export function regimeName(regime) {
  return h("span", { class: "regime", data: { regime } }, words(regime));
}

/** Return a titled part of a view. */
export function card(title, { hint = "", end = null } = {}, ...children) {
  return h(
    "section",
    { class: "card" },
    h("div", { class: "card-head" }, h("h2", {}, title), end),
    hint && h("p", { class: "hint" }, hint),
    children,
  );
}

/** Return pairs of names and values. */
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** Return probabilities of classes as one bar, each part as wide as it is probable. */
export function shares(probabilities, kind) {
  const known = Object.entries(probabilities);
  if (!known.length) return h("p", { class: "muted" }, "No forecast.");
  const parts = known.map(([name, value]) => h("span", { class: "share", data: { [kind]: name }, vary: { share: value } }));
  const legend = known.map(([name, value]) => h("li", { data: { [kind]: name } }, words(name), h("b", {}, percent(value, 0))));
  return h("div", { class: "shares" }, h("div", { class: "share-bar", "aria-hidden": "true" }, parts), h("ul", {}, legend));
}

/** Run work behind a button that says so meanwhile; what goes wrong is shown as a notice. */
export async function busily(button, work, context) {
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    return await work();
  } catch (error) {
    context.notify(error.message, "problem");
    if (error.status === 401 || error.status === 403) context.askKey(error.message);
    return undefined;
  } finally {
    button.removeAttribute("aria-busy");
    button.disabled = false;
  }
}
