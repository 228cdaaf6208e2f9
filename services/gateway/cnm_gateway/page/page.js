// Puts the parts together: what is heard changes the store, and once a frame what has changed is drawn.

import { Attaches } from "./attaches.js";
import { Details } from "./details.js";
import { byId, clock, h, text } from "./dom.js";
import { describe, Events, noun, participle } from "./events.js";
import { Store } from "./store.js";
import { listen } from "./stream.js";
import { Topology } from "./topology.js";

const SAY_EVERY_MS = 4000;
const THEMES = ["auto", "light", "dark"];

const store = new Store();
const attaches = new Attaches();
const topology = new Topology(store, choose);
const events = new Events(store, { choose, trace: (id) => attaches.show(id) });
const details = new Details(store, { choose, closed: () => { topology.chosen = null; topology.mark(); topology.wire(); } });

function choose(kind, id) {
  topology.chosen = { kind, id };
  topology.mark();
  topology.wire();
  details.open(kind, id);
}

let waiting = false;
function changed() {
  if (waiting) return;
  waiting = true;
  const draw = () => { waiting = false; drawAll(); };
  if (document.hidden) setTimeout(draw, 250);
  else requestAnimationFrame(draw);
}

function drawAll() {
  drawHealth();
  drawCounts();
  topology.draw();
  events.draw();
  details.changed();
}

function drawHealth() {
  const { live, why, since } = store.health;
  byId("health").dataset.live = String(live ?? "unknown");
  text(byId("health-text"), live === null ? "connecting" : live ? "live" : `stale since ${clock(since)}`);
  document.documentElement.classList.toggle("stale", live === false);
  const trouble = live === false ? `What is shown may be out of date: ${why}. It goes on by itself.` : why ? `Some of it may be out of date: ${why}.` : "";
  byId("trouble").hidden = !trouble;
  text(byId("trouble"), trouble);
}

function drawCounts() {
  let ports = 0;
  for (const each of store.sandboxes.values()) ports += new Set(each.ports.map((port) => `${port.protocol}${port.host_port}`)).size;
  const counts = [["nodes", store.nodes.size], ["networks", store.networks.size], ["sandboxes", store.sandboxes.size], ["endpoints", store.endpoints.size], ["ports", ports]];
  if (store.drift.size) counts.push(["drifted", store.drift.size]);
  const face = counts.join();
  if (byId("counts").dataset.face === face) return;
  byId("counts").dataset.face = face;
  byId("counts").replaceChildren(...counts.map(([name, count]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(count)))));
}

// Whoever listens hears what matters, and not too often.
let said = 0;
function say(told) {
  if (Date.now() - said < SAY_EVERY_MS) return;
  said = Date.now();
  text(byId("said"), describe(told, store));
}

function heard(told) {
  if (told === null) {
    attaches.ask();
    return;
  }
  if (!told.event) return;
  if (noun(told) === "endpoint" && participle(told) === "joined") attaches.soon();
  if (["network", "sandbox", "endpoint", "node", "drift"].includes(noun(told))) say(told);
}

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  text(byId("theme"), `Theme: ${theme}`);
}

let theme = THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto";
showTheme(theme);
byId("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  localStorage.setItem("theme", theme);
  showTheme(theme);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select, textarea")) return;
  event.preventDefault();
  byId("find").focus();
});
byId("find").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && byId("find").value) {
    event.stopPropagation();
    byId("find").value = "";
    topology.draw();
  }
});

window.cnm = store; // for whoever looks at the page with the browser's own tools
listen(store, { changed, heard });
