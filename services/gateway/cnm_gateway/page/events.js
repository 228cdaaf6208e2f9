// Lists what happens, newest first, in words.

import { byId, clock, h, reconcile, text } from "./dom.js";
import { shown } from "./store.js";

const SHOWN = 150;
const OF = { pool: "ipam", address: "ipam" };

export class Events {
  constructor(store, { choose, trace }) {
    this.store = store;
    this.choose = choose;
    this.trace = trace;
    this.list = byId("events-list");
    this.held = null;
    this.list.addEventListener("keydown", (event) => this.move(event));
    byId("events-of").addEventListener("input", () => this.draw());
    byId("events-hold").addEventListener("click", (event) => {
      this.held = this.held ? null : this.store.events.slice();
      event.currentTarget.setAttribute("aria-pressed", String(Boolean(this.held)));
      this.draw();
    });
  }

  draw() {
    const of = byId("events-of").value;
    const events = (this.held ?? this.store.events).filter((told) => !of || (OF[noun(told)] ?? noun(told)) === of).slice(0, SHOWN);
    const away = this.held ? this.store.events.findIndex((told) => told === this.held[0]) : 0;
    text(byId("events-hold"), this.held ? `Held${away > 0 ? `, ${away} more` : ""}` : "Hold");
    byId("events-none").hidden = events.length > 0;
    this.list.hidden = events.length === 0;
    const first = this.list.childElementCount === 0;
    reconcile(this.list, events, { key: (told) => told.event.id, face: () => "", make: (told) => this.line(told, first) });
  }

  line(told, first) {
    const { event } = told;
    const target = this.target(told);
    const words = describe(told, this.store);
    return h("li", { class: `event of-${noun(told)}${first ? "" : " new"}` },
      h("time", { datetime: event.time, title: event.time }, clock(event.time)),
      h("span", { class: "words" }, target
        ? h("button", { class: "link", type: "button", tabindex: "-1", onclick: () => this.choose(...target) }, words) : words),
      h("span", { class: "kind" }, `${noun(told)} ${participle(told)}`, event.node && ` on ${event.node}`, " · ",
        h("button", { class: "link", type: "button", tabindex: "-1", "aria-label": `Trace of: ${words}`, onclick: () => this.trace(event.trace_id) }, "trace")));
  }

  // The list is one stop of the tab key; arrows lead to the events, and from an event to its trace.
  move(event) {
    const lines = [...this.list.children];
    const line = document.activeElement.closest(".event");
    const links = line ? [...line.querySelectorAll("button")] : [];
    const place = links.indexOf(document.activeElement);
    const to = {
      ArrowDown: () => lines[line ? lines.indexOf(line) + 1 : 0]?.querySelector("button"),
      ArrowUp: () => (line ? lines[lines.indexOf(line) - 1]?.querySelector("button") : null),
      ArrowRight: () => links[place + 1],
      ArrowLeft: () => links[place - 1],
      Home: () => lines[0]?.querySelector("button"),
      End: () => lines.at(-1)?.querySelector("button"),
    }[event.key]?.();
    if (!to) return;
    event.preventDefault();
    to.focus();
  }

  target(told) {
    const { object } = told.event;
    switch (noun(told)) {
      case "network": case "sandbox": case "endpoint": return participle(told) === "deleted" ? null : [noun(told), object.id];
      case "port": return ["sandbox", object.sandbox];
      case "node": return ["node", object.name];
      default: return null;
    }
  }
}

export const noun = (told) => told.subject.split(".")[3];
export const participle = (told) => told.subject.split(".")[4];

export function describe(told, store) {
  const { object } = told.event;
  const what = participle(told);
  switch (noun(told)) {
    case "network": return `Network ${object.name} was ${what}`;
    case "sandbox": return `Sandbox ${object.name} was ${what}`;
    case "endpoint": {
      const network = store.networkName(object.network);
      const address = (object.ipv4_address ?? object.ipv6_address ?? "").split("/")[0];
      switch (what) {
        case "joined": return `${object.name} joined ${network}${address && ` as ${address}`}`;
        case "left": return `${object.name} left ${network}`;
        case "ready": case "unready": return `${object.name} on ${network} is ${what === "ready" ? "ready" : "not ready"}`;
        default: return `Endpoint ${object.name} on ${network} was ${what}`;
      }
    }
    case "port": return `${object.name} ${what === "published" ? "publishes" : "no longer publishes"} ${shown(object.ports).join(", ")}`;
    case "pool": return `Pool ${object.pool ?? object.subnet ?? ""} was ${what === "conflict" ? "found in conflict" : what}`;
    case "address": return `Address ${object.address ?? ""} was ${what}`;
    case "node": return what === "joined" ? `Node ${object.name} joined` : what === "left" ? `Node ${object.name} left` : `Node ${object.name} is down`;
    case "drift": {
      const all = object.differences ?? [];
      const more = all.length > 1 ? ` and ${all.length - 1} more` : "";
      return `${object.about ?? object.id}: ${all[0]?.value ?? "something"}${more} ${what === "found" ? "was found to differ" : "was repaired"}`;
    }
    default: return told.subject;
  }
}
