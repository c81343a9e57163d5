/** Ask for an adaptation and tell how it went. */

import { h } from "../dom.js";
import { figure } from "../format.js";
import { busily } from "../parts.js";

/** Return a button that adapts to the newest kept bars of some symbols. */
export function adaptButton(context, symbols) {
  const button = h("button", { type: "button", class: "strong" }, "Adapt", h("span", { class: "less" }, "to newest bars"));
  button.addEventListener("click", () => adapt(context, button, { symbols: symbols() }));
  return button;
}

/** Send a request for an adaptation; tell the outcome and return it, undefined where it was refused. */
export async function adapt(context, button, request) {
  const found = await busily(button, () => context.api.post("v1/adaptations", request), context);
  if (found) {
    context.notify(outcome(found));
    context.reload();
  }
  return found;
}

/** Return in words what became of an adaptation. */
export function outcome({ status, loss_before: before, loss_after: after }) {
  const losses = before === null ? "" : `: loss on held-back bars ${figure(before, 4)} before, ${figure(after, 4)} after`;
  return status === "accepted" ? `Accepted${losses}.` : `Rolled back${losses}.`;
}
