/** One view on the page: load, show, load again when something changed; say so where that fails. */

import { fill, h, keepingFocus } from "./dom.js";
import { instant } from "./format.js";
import { loading, problem } from "./states.js";

/**
 * Open a view.
 * @param {HTMLElement} place
 * @param {{title: string, element: HTMLElement, load: Function, show: Function}} view Made by a module of `views/`.
 * @param {{askKey: Function}} context
 */
export function openScreen(place, view, context) {
  const control = new AbortController();
  const said = h("div", { class: "said" });
  let [busy, again, shownAt] = [false, false, null];
  view.element.hidden = true;
  fill(said, loading());
  fill(place, said, view.element);

  const reload = async () => {
    if (busy) {
      again = true;
      return;
    }
    [busy, again] = [true, false];
    try {
      present(await view.load(control.signal));
    } catch (error) {
      if (!control.signal.aborted) failed(error);
    }
    busy = false;
    if (again && !control.signal.aborted) await reload();
  };

  const present = (data) => {
    if (control.signal.aborted) return;
    fill(said);
    view.element.hidden = false;
    shownAt = new Date();
    keepingFocus(view.element, () => view.show(data));
  };

  const failed = (error) => {
    const known = shownAt && h("p", { class: "hint" }, `Shown below: what was known at ${instant(shownAt)}.`);
    fill(said, problem(error, { retry: reload, askKey: () => context.askKey(error.message) }), known);
    if (error.status === 401) context.askKey(error.message);
  };

  const close = () => {
    control.abort();
    view.close?.();
  };

  return { reload, close };
}
