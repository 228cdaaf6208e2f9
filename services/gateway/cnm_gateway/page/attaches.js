// Draws the last attaches as waterfalls: which worker did what, when, and how long it took.

import { byId, clock, h, hue, reconcile, svg, text } from "./dom.js";

const SOON_MS = 700;
const HOW = ["No attach has been recorded. Spans are recorded while workers run with ", h("code", {}, "OTEL_TRACES_EXPORTER=nats"),
  ", for instance ", h("code", {}, "OTEL_TRACES_EXPORTER=nats CNM_GATEWAY_ADDRESS=127.0.0.1:8780 cnm up"), "; the next attach is drawn here then."];

export class Attaches {
  constructor() {
    this.list = byId("attaches-list");
    this.asked = []; // traces that were asked for one by one
    this.last = [];
    byId("attaches-again").addEventListener("click", () => this.ask());
  }

  // Something joined: its spans arrive a moment later.
  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), SOON_MS);
  }

  async ask() {
    const told = await get("api/traces?limit=10");
    if (told.error) {
      this.say(`The traces cannot be shown: ${told.error.message}`);
      return;
    }
    this.last = told.traces;
    this.draw();
  }

  async show(id) {
    let found = [...this.asked, ...this.last].find((each) => each.trace_id === id);
    if (!found) {
      const told = await get(`api/traces/${encodeURIComponent(id)}`);
      if (told.error) this.say(told.error.code === "not_found" ? `Nothing is recorded of the trace ${id}.` : `The trace cannot be shown: ${told.error.message}`);
      else {
        found = told;
        this.asked = [told, ...this.asked].slice(0, 5);
      }
    }
    this.draw();
    const shown = found && this.list.querySelector(`[data-key="${id}"] > details`);
    if (shown) shown.open = true;
    const target = shown ? shown.querySelector("summary") : byId("attaches");
    target.scrollIntoView({ block: "start" });
    target.focus({ preventScroll: true });
  }

  say(why) {
    byId("attaches-none").hidden = false;
    byId("attaches-none").replaceChildren(why);
  }

  draw() {
    const all = [...this.asked.filter((each) => !this.last.some((other) => other.trace_id === each.trace_id)), ...this.last];
    byId("attaches-none").hidden = all.length > 0;
    if (!all.length) byId("attaches-none").replaceChildren(...HOW);
    const first = !this.list.childElementCount;
    reconcile(this.list, all, { key: (each) => each.trace_id, face: (each) => String(each.spans), make: (each) => this.trace(each, first && each === all[0]) });
  }

  trace(told, open) {
    const inside = h("div", {});
    const details = h("details", { class: "attach", ontoggle: () => { if (details.open && !inside.childElementCount) inside.append(...this.inside(told)); } },
      h("summary", {}, h("b", {}, told.about ?? told.operation, told.error && h("span", { class: "failed" }, ` failed: ${told.error}`)),
        h("span", { class: "soft" }, `${told.about ? `${told.operation} · ` : ""}${clock(told.began)} · ${told.spans} spans, ${told.services} workers`),
        h("span", { class: "took" }, ms(told.took_ms))), inside);
    if (open) details.open = true;
    return h("li", {}, details);
  }

  inside(told) {
    const services = [...new Set(told.bars.map((bar) => bar.service))];
    const hues = hued(services);
    return [
      h("ul", { class: "legend", "aria-hidden": "true" }, services.map((each) => h("li", { class: `h${hues.get(each)}` }, h("span", { class: "swatch" }), each))),
      h("ol", { "aria-label": `Spans of ${told.operation}` }, told.bars.map((bar) => this.bar(bar, told, hues))),
    ];
  }

  bar(bar, told, hues) {
    const whole = Math.max(told.took_ms, 0.001);
    const [x, width] = [(bar.at_ms / whole) * 100, Math.max(0.4, (bar.took_ms / whole) * 100)];
    const track = svg("svg", { class: `track h${hues.get(bar.service)}`, "aria-hidden": "true" },
      svg("rect", { x: `${Math.min(x, 99.6)}%`, width: `${width}%`, height: "100%", rx: "3" }));
    const line = [
      h("span", { class: `what d${Math.min(bar.depth, 6)}${bar.error ? " failed" : ""}`, title: `${bar.service}: ${bar.name}` }, spoken(bar),
        h("span", { class: "hidden" }, `, by ${bar.service}, after ${ms(bar.at_ms)}, took `)), track,
      h("span", { class: "took" }, ms(bar.took_ms))];
    const more = [...(bar.error ? [`failed: ${bar.error}`] : []), ...bar.steps, ...Object.entries(bar.attributes).map(([name, value]) => `${name} = ${value}`)];
    if (!more.length) return h("li", { class: "span" }, h("div", { class: "line" }, line));
    return h("li", { class: "span" }, h("details", {}, h("summary", { class: "line" }, line), h("pre", {}, more.join("\n"))));
  }
}

const KNOWN = ["cnm-controller", "cnm-ipam", "cnm-driver-bridge", "cnm-sandbox", "cnm-port-mapper", "cnm-resolver", "cnm-gateway"];

function hued(services) {
  return new Map(services.map((each) => [each, KNOWN.includes(each) ? KNOWN.indexOf(each) : hue(each)]));
}

const spoken = (bar) => bar.name.replace("cnm.v1.", "");
const ms = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms`;

async function get(path) {
  try {
    return await (await fetch(path)).json();
  } catch {
    return { error: { message: "the gateway does not answer" } };
  }
}
