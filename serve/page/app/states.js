/** What a view shows while there is nothing else to show. */

import { h } from "./dom.js";

/** Return grey shapes in the place of what is on its way. */
export function loading() {
  const lines = [1, 2, 3, 4].map(() => h("div", { class: "ghost" }));
  return h("div", { class: "loading", role: "status" }, h("span", { class: "hidden" }, "Loading"), lines);
}

/** Return a friendly word that there is nothing yet, and what would change that. */
export function empty(title, text) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), h("p", {}, text));
}

/**
 * Return what went wrong, in the words of the service, and what can be done.
 * @param {Error} error
 * @param {{retry?: () => void, askKey?: () => void}} ways
 */
export function problem(error, { retry, askKey } = {}) {
  const wantsKey = error.status === 401 || error.status === 403;
  const button =
    wantsKey && askKey
      ? h(
          "button",
          { type: "button", class: "strong", on: { click: askKey } },
          error.status === 401 ? "Enter key" : "Use another key",
        )
      : retry && h("button", { type: "button", on: { click: retry } }, "Try again");
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("div", {}, h("p", { class: "problem-title" }, error.title || "This page failed"), h("p", {}, error.message)),
    button,
  );
}
