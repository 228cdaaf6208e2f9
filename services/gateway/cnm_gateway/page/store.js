// What the page knows: the rows that the gateway tells, and how they belong together. It draws nothing.

const PLACES = { node: "nodes", network: "networks", sandbox: "sandboxes", endpoint: "endpoints", drift: "drift" };
const MOST_EVENTS = 300;

export class Store {
  constructor() {
    this.sequence = 0;
    this.health = { live: null, why: null, since: null };
    this.events = [];
    this.fresh = new Set(); // ids of what came lately, to be shown as new
    for (const place of Object.values(PLACES)) this[place] = new Map();
    this.index();
  }

  // Take in the whole state.
  begin(state) {
    for (const [kind, place] of Object.entries(PLACES)) {
      this[place] = new Map(state[place].map((row) => [kind === "node" ? row.name : row.id, row]));
    }
    this.sequence = state.sequence;
    this.health = state.health;
    this.events = state.events.map((told) => told).reverse();
    this.index();
  }

  // Take in an event, or a change that no event tells.
  change(told) {
    for (const [kind, id, row] of told.changes) {
      const rows = this[PLACES[kind]];
      if (row === null) rows.delete(id);
      else {
        if (!rows.has(id)) this.fresh.add(id);
        rows.set(id, row);
      }
    }
    if (told.changes.length) this.index();
    if (!told.event) return;
    this.sequence = told.sequence;
    this.events.unshift(told);
    if (this.events.length > MOST_EVENTS) this.events.length = MOST_EVENTS;
  }

  index() {
    this.onNetwork = new Map();
    this.ofSandbox = new Map();
    for (const endpoint of this.endpoints.values()) {
      push(this.onNetwork, endpoint.network, endpoint);
      if (endpoint.sandbox) push(this.ofSandbox, endpoint.sandbox, endpoint);
    }
  }

  networkName(id) {
    return this.networks.get(id)?.name ?? id.slice(0, 12);
  }

  // The ports of a sandbox that lead to an endpoint, each once though it is bound in two families.
  portsOf(endpoint) {
    const sandbox = endpoint.sandbox && this.sandboxes.get(endpoint.sandbox);
    if (!sandbox) return [];
    const own = [endpoint.ipv4_address, endpoint.ipv6_address].filter(Boolean).map((each) => each.split("/")[0]);
    return shown(sandbox.ports.filter((port) => own.includes(port.container_ip)));
  }
}

export function shown(ports) {
  return [...new Set(ports.map(portText))];
}

export function portText(port) {
  const to = port.protocol === "tcp" ? "" : `/${port.protocol}`;
  const end = (first, last) => (last && last !== first ? `${first}-${last}` : `${first}`);
  const host = port.host_port === null ? "routed" : end(port.host_port, port.host_port_end);
  return `${host}→${end(port.container_port, port.container_port_end)}${to}`;
}

function push(map, key, value) {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}
