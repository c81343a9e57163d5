/** The page: a view for the address, the key, and what changed. START HERE. */

import { openApi } from "./api.js";
import { askKey } from "./dialogs.js";
import { follow } from "./live.js";
import { notify } from "./notices.js";
import { parse } from "./router.js";
import { openScreen } from "./screen.js";
import { openSession } from "./session.js";
import { refreshAges } from "./parts.js";
import { adaptationsView } from "./views/adaptations.js";
import { graphView } from "./views/graph.js";
import { healthView } from "./views/health.js";
import { modelsView } from "./views/models.js";
import { symbolView } from "./views/symbol.js";
import { symbolsView } from "./views/symbols.js";

const VIEWS = {
  symbols: symbolsView,
  symbol: symbolView,
  graph: graphView,
  models: modelsView,
  adaptations: adaptationsView,
  health: healthView,
};
const LIVE = { live: "Live", polling: "Polling", waiting: "Needs a key", connecting: "Connecting" };
const AGES_MS = 15_000;
const LONGEST_UNASKED_MS = 60_000; // bars grow stale without any event

function start() {
  const session = openSession();
  const api = openApi(session);
  const place = document.getElementById("content");
  const live = document.getElementById("live");
  let [screen, asking, state] = [null, false, "connecting"];

  const context = { api, notify, askKey: (why) => changeKey(why), liveState: () => state, reload: () => screen?.reload() };
  const follower = follow(api, {
    change: () => screen?.reload(),
    state: (found) => {
      state = found;
      live.dataset.state = found;
      if (live.textContent !== LIVE[found]) live.textContent = LIVE[found];
    },
  });

  const changeKey = async (why) => {
    if (asking) return;
    asking = true;
    const known = session.key() !== null;
    const key = await askKey(known ? why : "This service answers to those with a key. Enter yours.", known);
    asking = false;
    if (key === null) return;
    if (key) session.keep(key);
    else session.forget();
    follower.restart();
    screen?.reload();
  };

  const show = () => {
    const { name, subject } = parse(window.location.hash);
    const make = VIEWS[name] ?? symbolsView;
    screen?.close();
    const view = make(context, subject);
    document.title = `${view.title} · cryptoml`;
    mark(name === "symbol" ? "symbols" : name);
    screen = openScreen(place, view, context);
    screen.reload();
    window.scrollTo(0, 0);
  };

  document
    .getElementById("key")
    .addEventListener("click", () => changeKey("Requests of this page carry the key you enter here."));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    place.focus();
  });
  window.addEventListener("hashchange", () => {
    show();
    place.focus({ preventScroll: true });
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) screen?.reload();
  });
  setInterval(() => refreshAges(document), AGES_MS);
  setInterval(() => {
    if (!document.hidden) screen?.reload();
  }, LONGEST_UNASKED_MS);
  show();
  follower.restart();
}

function mark(name) {
  for (const link of document.querySelectorAll(".nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

start();
