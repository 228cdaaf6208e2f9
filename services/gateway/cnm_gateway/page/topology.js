// Draws nodes, networks as rails, and what hangs on them.

import { byId, h, reconcile, set, svg, text } from "./dom.js";
import { shown } from "./store.js";

const OPEN_UP_TO = 80; // so many endpoints are shown at once; with more, networks begin as rows of dots
const CHIPS = 120; // so many hang on a rail until the rest is asked for
const ALWAYS_WIRED = 14;
const HUES = 8;
const PREDEFINED = new Set(["bridge", "host", "none"]);

export class Topology {
  constructor(store, choose) {
    this.store = store;
    this.choose = choose;
    this.chosen = null; // {kind, id}
    this.folds = new Map(); // what the user opened or closed
    this.whole = new Set();
    this.allFolded = null;
    this.hues = new Map();
    this.networks = byId("networks");
    this.wires = byId("wires");
    byId("fold").addEventListener("click", () => {
      this.allFolded = !this.mostlyFolded();
      this.folds.clear();
      this.draw();
    });
    for (const id of ["find", "show"]) byId(id).addEventListener("input", () => this.draw());
    this.networks.addEventListener("keydown", (event) => this.move(event));
    new ResizeObserver(() => this.wire()).observe(this.networks);
  }

  draw() {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const only = byId("show").value;
    this.filtered = words.length > 0 || only !== "all";
    this.drawNodes();
    const sections = [];
    const plain = [];
    let count = 0;
    for (const id of this.hues.keys()) if (!this.store.networks.has(id)) this.hues.delete(id);
    for (const network of this.store.networks.values()) {
      const all = this.store.onNetwork.get(network.id) ?? [];
      const named = words.length && words.every((word) => network.name.toLowerCase().includes(word) || network.id.startsWith(word));
      const fits = all.filter((each) => (named || this.matches(each, network, words)) && this.passes(each, only));
      const amiss = only === "amiss" && this.store.drift.has(network.id);
      if (this.filtered && !fits.length && !amiss && !(named && only === "all")) continue;
      count += fits.length;
      if (!all.length && (PREDEFINED.has(network.name) || network.config_only)) plain.push(network);
      else sections.push({ network, endpoints: fits, of: all.length });
    }
    const loose = [...this.store.sandboxes.values()].filter(
      (each) => !this.store.ofSandbox.has(each.id) && this.looseMatches(each, words) && this.passesLoose(each, only));
    count += loose.length;
    this.total = count;
    if (loose.length) sections.push({ network: null, endpoints: loose, of: loose.length });
    if (plain.length) sections.push({ plain });
    const items = sections.map((each) => this.faced(each));
    reconcile(this.networks, items, {
      key: (each) => each.key, face: (each) => each.face, make: (each) => this.section(each),
    });
    for (const item of items) if (item.open) this.fill(item);
    this.store.fresh.clear();
    this.mark();
    this.wire();
    text(byId("fold"), this.mostlyFolded() ? "Expand all" : "Collapse all");
    const nothing = this.filtered && !items.length ? "Nothing here matches." : "";
    byId("nothing").hidden = !nothing;
    text(byId("nothing"), nothing);
    text(byId("found"), this.filtered ? `${count} found` : "");
  }

  matches(endpoint, network, words) {
    if (!words.length) return true;
    const sandbox = endpoint.sandbox && this.store.sandboxes.get(endpoint.sandbox);
    const all = [network.name, endpoint.name, endpoint.ipv4_address, endpoint.ipv6_address, endpoint.mac_address, endpoint.id,
      endpoint.node, sandbox?.name, sandbox?.id, ...endpoint.dns_names, ...this.store.portsOf(endpoint)].join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  }

  looseMatches(sandbox, words) {
    const all = [sandbox.name, sandbox.id, sandbox.node].join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  }

  passes(endpoint, only) {
    if (only === "ports") return this.store.portsOf(endpoint).length > 0;
    return only !== "amiss" || this.isAmiss(endpoint);
  }

  passesLoose(sandbox, only) {
    return only === "all" || (only === "ports" ? sandbox.ports.length > 0 : this.store.drift.has(sandbox.id));
  }

  isAmiss(endpoint) {
    const { drift, nodes } = this.store;
    return drift.has(endpoint.id) || drift.has(endpoint.sandbox) || !endpoint.ready || nodes.get(endpoint.node)?.state === "down";
  }

  isOpen(key) {
    if (this.folds.has(key)) return this.folds.get(key);
    if (this.allFolded !== null) return !this.allFolded;
    return this.filtered ? this.total <= 4 * OPEN_UP_TO : this.store.endpoints.size + this.store.sandboxes.size <= 2 * OPEN_UP_TO;
  }

  mostlyFolded() {
    const heads = [...this.networks.querySelectorAll(".fold")];
    return heads.length > 0 && heads.filter((each) => each.getAttribute("aria-expanded") === "false").length * 2 >= heads.length;
  }

  // A network keeps the colour that it was first given: the one that fewest had.
  hueOf(id) {
    if (!this.hues.has(id)) {
      const used = Array(HUES).fill(0);
      for (const hue of this.hues.values()) used[hue] += 1;
      this.hues.set(id, used.indexOf(Math.min(...used)));
    }
    return this.hues.get(id);
  }

  // What a section looks like, but for what hangs on it.
  faced(each) {
    if (each.plain) return { ...each, key: "plain", face: each.plain.map((one) => one.id + one.name).join() };
    const key = each.network?.id ?? "loose";
    const open = this.isOpen(key);
    const marked = each.network && this.store.drift.has(key);
    const face = JSON.stringify([each.network, open, marked, each.of, each.endpoints.length, this.filtered]);
    return { ...each, key, open, marked, face };
  }

  section({ network, plain, key, open, endpoints, of, marked }) {
    if (plain) {
      return h("div", { class: "plain" }, h("span", {}, "Empty:"), plain.map((each) => h("button", {
        class: "title", type: "button", "data-choose": `network:${each.id}`, "data-focus": each.id,
        onclick: () => this.choose("network", each.id),
      }, each.name)));
    }
    const name = network ? network.name : "On no network";
    const fold = h("button", {
      class: "fold", type: "button", "aria-expanded": String(open), "data-focus": "fold",
      onclick: () => { this.folds.set(key, !this.isOpen(key)); this.draw(); },
    }, network && h("span", { class: "swatch", "aria-hidden": "true" }), name);
    const count = this.filtered && endpoints.length !== of ? `${endpoints.length} of ${of}` : `${of}`;
    const head = h("div", { class: "head" }, h("h3", {}, fold),
      h("span", { class: "count" }, count, h("span", { class: "hidden" }, network ? " endpoints" : " sandboxes")));
    if (network) {
      head.append(h("span", { class: "meta" }, network.driver, " ",
        h("span", { class: "mono" }, network.pools.map((pool) => pool.subnet).join("  "))));
      if (network.internal) head.append(h("span", { class: "badge" }, "internal"));
      if (marked) head.append(h("span", { class: "mark" }, "⚠ drifted"));
      if (!open && endpoints.length) {
        const dots = h("div", { class: "dots", "aria-hidden": "true" });
        dots.style.setProperty("--count", endpoints.length);
        head.append(dots);
      }
      head.append(h("button", {
        class: "quiet", type: "button", "data-choose": `network:${network.id}`, "data-focus": "details",
        "aria-label": `Details of network ${network.name}`, onclick: () => this.choose("network", network.id),
      }, "Details"));
    }
    const section = h("div", { class: `network h${network ? this.hueOf(network.id) : 0}${network ? "" : " loose"}`, role: "group", "aria-label": network ? `Network ${name}` : name }, head);
    if (open) section.append(endpoints.length
      ? h("ul", { class: "rail", "aria-label": network ? `On ${name}` : name })
      : h("p", { class: "none-here" }, "Nobody is on it."));
    return section;
  }

  fill({ key, network, endpoints }) {
    const rail = this.networks.querySelector(`:scope > [data-key="${key}"] > .rail`);
    if (!rail) return;
    const most = this.whole.has(key) ? Infinity : CHIPS;
    const items = endpoints.slice(0, most).map((each) => (network ? this.endpointChip(each) : this.sandboxChip(each)));
    if (endpoints.length > most) items.push({ more: endpoints.length - most, id: "more", face: String(endpoints.length) });
    reconcile(rail, items, {
      key: (each) => each.id, face: (each) => each.face,
      make: (each) => (each.more ? h("li", { class: "more" }, h("button", {
        class: "quiet", type: "button", onclick: () => { this.whole.add(key); this.draw(); },
      }, `Show ${each.more} more`)) : this.chip(each)),
    });
    const chips = [...rail.querySelectorAll(".chip")]; // one of a rail is in the order of the tab key, arrows lead to the others
    const current = chips.find((each) => each.tabIndex === 0) ?? chips[0];
    for (const chip of chips) if ((chip.tabIndex === 0) !== (chip === current)) chip.tabIndex = chip === current ? 0 : -1;
  }

  endpointChip(endpoint) {
    const sandbox = endpoint.sandbox ? this.store.sandboxes.get(endpoint.sandbox) : null;
    const name = sandbox?.name ?? endpoint.name;
    const others = (this.store.ofSandbox.get(endpoint.sandbox) ?? []).filter((each) => each.id !== endpoint.id);
    const notes = [];
    if (!endpoint.sandbox) notes.push("reserved");
    if (!endpoint.ready) notes.push("not ready");
    if (this.store.nodes.get(endpoint.node)?.state === "down") notes.push("node is down");
    if (others.length) notes.push(`also on ${others.map((each) => this.store.networkName(each.network)).join(", ")}`);
    return this.withFace({
      id: endpoint.id, kind: "endpoint", name, alias: endpoint.name === name ? "" : endpoint.name, sandbox: endpoint.sandbox,
      address: (endpoint.ipv4_address ?? endpoint.ipv6_address ?? "no address").split("/")[0], ports: this.store.portsOf(endpoint),
      notes, amiss: this.isAmiss(endpoint), drifted: this.store.drift.has(endpoint.id) || this.store.drift.has(endpoint.sandbox),
      node: this.store.nodes.size > 1 ? endpoint.node : null,
    });
  }

  sandboxChip(sandbox) {
    return this.withFace({
      id: sandbox.id, kind: "sandbox", name: sandbox.name, alias: "", sandbox: sandbox.id, address: "", ports: shown(sandbox.ports),
      notes: [], drifted: this.store.drift.has(sandbox.id), amiss: this.store.drift.has(sandbox.id),
      node: this.store.nodes.size > 1 ? sandbox.node : null,
    });
  }

  withFace(chip) {
    return { ...chip, face: JSON.stringify(chip) };
  }

  chip(each) {
    const fresh = this.store.fresh.has(each.id);
    const reserved = each.kind === "endpoint" && !each.sandbox;
    return h("li", {}, h("button", {
      class: `chip${fresh ? " new" : ""}${reserved ? " reserved" : ""}${each.amiss ? " amiss" : ""}`, type: "button", tabindex: "-1",
      "data-choose": `${each.kind}:${each.id}`, "data-sandbox": each.sandbox, "data-focus": "chip",
      onclick: () => this.choose(each.kind, each.id),
    },
    h("span", { class: "name" }, each.name, each.alias && h("span", { class: "note" }, ` (${each.alias})`)),
    each.address && h("span", { class: "address" }, each.address),
    each.node && h("span", { class: "note" }, `on ${each.node}`),
    each.drifted && h("span", { class: "mark" }, "⚠ drifted"),
    each.notes.map((note) => h("span", { class: "note" }, note)),
    each.ports.length > 0 && h("span", { class: "ports" }, each.ports.slice(0, 4).map((port) => h("span", { class: "port" }, port)),
      each.ports.length > 4 && h("span", { class: "port" }, `+${each.ports.length - 4}`))));
  }

  drawNodes() {
    const sandboxes = new Map();
    for (const each of this.store.sandboxes.values()) sandboxes.set(each.node, (sandboxes.get(each.node) ?? 0) + 1);
    const items = [...this.store.nodes.values()].sort((a, b) => a.name.localeCompare(b.name)).map((node) => {
      const missing = node.workers.filter((each) => each.state !== "ready").map((each) => each.name);
      const state = node.state === "ready" && missing.length ? "partly" : node.state;
      const drifted = this.store.drift.has(node.name);
      const item = { node, state, missing, drifted, sandboxes: sandboxes.get(node.name) ?? 0 };
      return { ...item, face: JSON.stringify(item) };
    });
    reconcile(byId("nodes"), items, {
      key: (each) => each.node.name, face: (each) => each.face, make: ({ node, state, missing, drifted, sandboxes }) => h("li", {}, h("button", {
        class: `node ${state}`, type: "button", "data-choose": `node:${node.name}`, onclick: () => this.choose("node", node.name),
      }, h("span", { class: "light", "aria-hidden": "true" }), h("span", { class: "hidden" }, "Node "), h("b", {}, node.name),
      h("span", { class: "soft" }, state === "ready" ? node.address ?? "" : state === "partly" ? `without ${missing.join(", ")}` : `is ${state}`),
      h("span", { class: "soft" }, `${sandboxes} ${sandboxes === 1 ? "sandbox" : "sandboxes"}`), drifted && h("span", { class: "mark" }, "⚠ drifted"))),
    });
  }

  // Show what is chosen, and where the same sandbox is besides.
  mark() {
    const chosen = this.chosen && `${this.chosen.kind}:${this.chosen.id}`;
    const sandbox = this.chosenSandbox();
    for (const element of document.querySelectorAll("[data-choose]")) {
      if (element.closest("#networks, #nodes")) {
        if (element.dataset.choose === chosen) set(element, "aria-current", "true");
        else if (element.hasAttribute("aria-current")) element.removeAttribute("aria-current");
        element.classList.toggle("same", Boolean(sandbox) && element.dataset.sandbox === sandbox);
      }
    }
  }

  chosenSandbox() {
    if (!this.chosen) return null;
    return this.chosen.kind === "sandbox" ? this.chosen.id : this.store.endpoints.get(this.chosen.id)?.sandbox ?? null;
  }

  // Draw lines between the places of a sandbox that is on several networks: of all where there are few, else of the chosen one.
  wire() {
    const chosen = this.chosenSandbox();
    const several = [...this.store.ofSandbox].filter(([, endpoints]) => endpoints.length > 1).map(([id]) => id);
    const wired = several.length <= ALWAYS_WIRED ? several : several.filter((id) => id === chosen);
    const around = this.networks.getBoundingClientRect();
    const paths = [];
    for (const id of wired) {
      const places = [...this.networks.querySelectorAll(`.chip[data-sandbox="${id}"]`)].map((each) => each.getBoundingClientRect());
      for (let n = 1; n < places.length; n += 1) {
        const [a, b] = [places[n - 1], places[n]];
        const [x1, y1, x2, y2] = [a.left + a.width / 2 - around.left, a.bottom - around.top, b.left + b.width / 2 - around.left, b.top - around.top];
        const bend = Math.min(60, Math.max(18, (y2 - y1) / 2));
        const path = svg("path", { d: `M${x1} ${y1} C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}` });
        if (id === chosen) path.classList.add("chosen");
        paths.push(path);
      }
    }
    this.wires.replaceChildren(...paths);
  }

  // The arrows lead from chip to chip of a rail; up and down lead to other rails.
  move(event) {
    const chip = event.target.closest(".chip");
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!chip || event.ctrlKey || event.metaKey || event.altKey) return;
    const rail = chip.closest(".rail");
    if (event.key in steps) {
      const chips = [...rail.querySelectorAll(".chip")];
      const to = chips[Math.max(0, Math.min(chips.length - 1, chips.indexOf(chip) + steps[event.key]))];
      event.preventDefault();
      this.focus(to);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const rails = [...this.networks.querySelectorAll(".rail")];
      const to = rails[rails.indexOf(rail) + (event.key === "ArrowDown" ? 1 : -1)]?.querySelector(".chip[tabindex='0']");
      if (to) {
        event.preventDefault();
        to.focus();
      }
    }
  }

  focus(chip) {
    for (const each of chip.closest(".rail").querySelectorAll(".chip")) each.tabIndex = each === chip ? 0 : -1;
    chip.focus();
  }
}
