/** Short messages that come and go; screen readers say them. */

import { h } from "./dom.js";

const SHOWN_MS = 6_000;

/**
 * Show a message for a while.
 * @param {string} text
 * @param {"done"|"problem"} kind
 */
export function notify(text, kind = "done") {
  const close = h("button", { type: "button", class: "close", "aria-label": "Dismiss" }, "×");
  const notice = h("div", { class: "notice", data: { kind } }, h("p", {}, text), close);
  close.addEventListener("click", () => notice.remove());
  document.getElementById("notices").append(notice);
  setTimeout(() => notice.remove(), kind === "problem" ? SHOWN_MS * 2 : SHOWN_MS);
}
