/** Questions that need an answer before anything happens: the key, and whether to go ahead. */

import { h } from "./dom.js";

/**
 * Ask for the API key; resolves to it, to "" where it is to be forgotten, or to null where the question was closed.
 * @param {string} why Said above the field.
 * @param {boolean} known Whether one is kept that could be forgotten.
 */
export function askKey(why, known) {
  const field = h("input", {
    id: "key-field",
    type: "password",
    name: "key",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    placeholder: "cml_…",
  });
  const form = h(
    "div",
    { class: "field" },
    h("label", { for: "key-field" }, "API key"),
    field,
    h("p", { class: "hint" }, "Kept in this tab only and gone when it is closed."),
  );
  const extra = known ? h("button", { type: "button", class: "quiet" }, "Forget key") : null;
  return ask({ title: "API key", text: why, body: form, accept: "Use key", extra, answer: () => field.value.trim() });
}

/**
 * Ask whether to go ahead and why; resolves to the reason given (may be empty), or to null.
 * @param {{title: string, text: string, accept: string, danger?: boolean, reason?: boolean}} question
 */
export function confirm({ title, text, accept, danger = false, reason = true }) {
  const field = h("input", { id: "reason-field", type: "text", maxlength: 500, autocomplete: "off" });
  const form = reason && h("div", { class: "field" }, h("label", { for: "reason-field" }, "Reason, for the record"), field);
  return ask({ title, text, body: form, accept, danger, answer: () => field.value.trim() });
}

function ask({ title, text, body, accept, danger = false, extra = null, answer }) {
  const cancel = h("button", { type: "button", class: "quiet" }, "Cancel");
  const go = h("button", { type: "submit", class: danger ? "danger" : "strong" }, accept);
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "dialog-title" }, title),
    h("p", { id: "dialog-text" }, text),
    body,
    h("div", { class: "actions" }, extra, h("span", { class: "space" }), cancel, go),
  );
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", "aria-describedby": "dialog-text" }, form);
  return new Promise((resolve) => {
    let found = null;
    form.addEventListener("submit", () => {
      found = answer();
    });
    cancel.addEventListener("click", () => dialog.close());
    extra?.addEventListener("click", () => {
      found = "";
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(found);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
