// Shows one object as `get` does: what matters in words, all of it as JSON.

import { byId, h, text } from "./dom.js";
import { portText } from "./store.js";

const AGAIN_MS = 300;

export class Details {
  constructor(store, { choose, closed }) {
    this.store = store;
    this.choose = choose;
    this.closed = closed;
    this.object = null;
    this.seen = "";
    this.turn = 0;
    this.panel = byId("details");
    this.body = byId("details-body");
    byId("details-close").addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.panel.hidden) this.close();
    });
  }

  async open(kind, id) {
    this.back = document.activeElement?.closest?.("#details") ? this.back : document.activeElement;
    this.object = { kind, id };
    this.seen = this.face();
    text(byId("details-title"), this.name());
    this.panel.hidden = false;
    this.body.replaceChildren(h("p", { class: "empty" }, "asking …"));
    byId("details-title").focus({ preventScroll: true });
    await this.ask();
    this.panel.scrollTop = 0;
  }

  close() {
    const back = this.back;
    this.object = null;
    this.panel.hidden = true;
    this.closed();
    if (back?.isConnected) back.focus({ preventScroll: true });
    else byId("topology").focus({ preventScroll: true });
  }

  // Called when anything has changed: asks again only when this did.
  changed() {
    if (!this.object || this.face() === this.seen) return;
    this.seen = this.face();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.object && this.ask(), AGAIN_MS);
  }

  rows() {
    return { network: this.store.networks, sandbox: this.store.sandboxes, endpoint: this.store.endpoints, node: this.store.nodes }[this.object.kind];
  }

  face() {
    const { kind, id } = this.object;
    const about = kind === "sandbox" ? this.store.ofSandbox.get(id) : kind === "network" ? this.store.onNetwork.get(id) : this.store.sandboxes.get(this.store.endpoints.get(id)?.sandbox);
    return JSON.stringify([this.rows().get(id), about, this.store.drift.get(id)]);
  }

  name() {
    const { kind, id } = this.object;
    const row = this.rows().get(id);
    const word = kind[0].toUpperCase() + kind.slice(1);
    if (kind === "endpoint" && row) return `${word} ${row.name} on ${this.store.networkName(row.network)}`;
    return `${word} ${row?.name ?? id.slice(0, 12)}`;
  }

  async ask() {
    const { kind, id } = this.object;
    const turn = (this.turn += 1);
    let shown;
    try {
      const reply = await fetch(`api/objects/${kind}/${encodeURIComponent(id)}`);
      shown = await reply.json();
    } catch {
      shown = { error: { message: "the gateway does not answer" } };
    }
    if (turn !== this.turn || !this.object) return;
    text(byId("details-title"), this.name());
    const drift = this.store.drift.get(id);
    this.body.replaceChildren(...[
      drift && h("div", { class: "amiss-box", role: "note" }, h("strong", {}, "Not as it should be: "),
        drift.differences.map((each) => `${each.what}: ${each.value}${each.reason ? ` (${each.reason})` : ""}`).join("; ")),
      shown.error ? h("p", { class: "failed", role: "alert" }, `It cannot be shown: ${shown.error.message}`) : this.facts(kind, shown),
      !shown.error && h("details", { class: "json" }, h("summary", {}, "As JSON"), h("pre", { tabindex: "0" }, JSON.stringify(shown, null, 2))),
    ].filter(Boolean));
  }

  facts(kind, shown) {
    return h("dl", { class: "facts" }, this[kind](shown).filter(([, value]) => value && (!Array.isArray(value) || value.length)).flatMap(([term, value, mono]) => [
      h("dt", {}, term),
      h("dd", { class: mono ? "mono" : null }, Array.isArray(value) ? h("ul", {}, value.map((each) => h("li", {}, each))) : value),
    ]));
  }

  link(kind, id, name) {
    return h("button", { class: "link", type: "button", onclick: () => this.choose(kind, id) }, name);
  }

  endpoint(shown) {
    const sandbox = this.store.sandboxes.get(shown.sandbox);
    return [
      ["Sandbox", sandbox ? this.link("sandbox", sandbox.id, sandbox.name) : shown.sandbox ?? "none: it is reserved"],
      ["Network", this.link("network", shown.network, this.store.networkName(shown.network))],
      ["Names", shown.dns_names.join(", ")],
      ["Addresses", [shown.ipv4_address, shown.ipv6_address].filter(Boolean), true],
      ["Gateways", [shown.gateway_ipv4, shown.gateway_ipv6].filter(Boolean), true],
      ["Ports", (shown.driver_info.ports ?? []).map(bound), true],
      ["Exposed", (shown.driver_info.exposed_ports ?? []).join(", "), true],
      ["Interface", shown.ifname && [shown.ifname, shown.driver_info.host_ifname && `${shown.driver_info.host_ifname} on the node`].filter(Boolean), true],
      ["MAC", shown.mac_address, true],
      ["Node", shown.node],
      ["Ready", shown.ready ? "yes" : "no: DNS does not answer it"],
      ["Labels", labels(shown), true],
      ["Id", shown.id, true],
    ];
  }

  sandbox(shown) {
    return [
      ["Networks", shown.endpoints.map((each) => h("span", {}, this.link("endpoint", each.id, this.store.networkName(each.network)), ` ${(each.ipv4_address ?? each.ipv6_address ?? "")} ${each.ifname ?? ""}`))],
      ["Names", [...new Set(shown.endpoints.flatMap((each) => each.dns_names))].join(", ")],
      ["Ports", shown.ports.map(bound), true],
      ["Exposed", shown.exposed_ports.join(", "), true],
      ["Hostname", shown.hostname],
      ["Node", shown.node],
      ["Namespace", shown.key, true],
      ["Files", [shown.hosts_path, shown.resolv_conf_path].filter(Boolean), true],
      ["Created", new Date(shown.created).toLocaleString()],
      ["Labels", labels(shown), true],
      ["Id", shown.id, true],
    ];
  }

  network(shown) {
    return [
      ["Driver", `${shown.driver}, ${shown.scope}${shown.internal ? ", internal" : ""}`],
      ["Pools", shown.ipam.pools.map((pool) => `${pool.subnet}${pool.gateway ? ` gateway ${pool.gateway}` : ""}: ${pool.in_use} in use, ${pool.available} left`), true],
      ["Endpoints", shown.endpoints.slice(0, 50).map((each) => h("span", {}, this.link("endpoint", each.id, each.name), ` ${each.ipv4_address ?? each.ipv6_address ?? ""}`))
        .concat(shown.endpoints.length > 50 ? [`and ${shown.endpoints.length - 50} more`] : [])],
      ["Options", Object.entries(shown.options).map(([name, value]) => `${name}=${value}`), true],
      ["Created", shown.created.startsWith("1970") ? "predefined" : new Date(shown.created).toLocaleString()],
      ["Labels", labels(shown), true],
      ["Id", shown.id, true],
    ];
  }

  node(shown) {
    return [
      ["State", shown.state],
      ["Address", shown.address, true],
      ["Workers", shown.workers.map((each) => `${each.name} is ${each.state}`)],
      ["Sandboxes", String(shown.sandboxes)],
      ["Endpoints", String(shown.endpoints)],
      ["Kernel", Object.entries(shown.kernel).filter(([, has]) => has).map(([name]) => name).join(", ")],
    ];
  }
}

const labels = (shown) => Object.entries(shown.labels).map(([name, value]) => `${name}=${value}`);

function bound(port) {
  const host = port.host_ip.includes(":") ? `[${port.host_ip}]` : port.host_ip;
  return port.host_port === null ? portText(port) : `${host}:${portText(port)}`;
}
