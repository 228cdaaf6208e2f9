// Two sandboxes that find each other by name, a published port, and what was told of it: with nats.js.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { DeliverPolicy, jetstream } from "@nats-io/jetstream";
import { connect, headers } from "@nats-io/transport-node";

const url = "http://127.0.0.1:8080/";
const connection = await connect({ servers: process.env.CNM_NATS_URL ?? "nats://127.0.0.1:4222" });

class Refused extends Error {
  constructor({ code, message }) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

async function ask(verb, body = {}) {
  const about = headers();
  about.set("Cnm-Deadline-Ms", "10000");
  // A second more than the deadline, so that the worker can say that it passed.
  const reply = await connection.request(`cnm.v1.${verb}`, JSON.stringify(body), { timeout: 11000, headers: about });
  const found = reply.json();
  if (reply.headers?.has("Nats-Service-Error-Code")) throw new Refused(found.error);
  return found;
}

async function use() {
  const network = await ask("network.create", { name: "example" });
  console.log("network", network.name, network.ipam.pools[0].subnet);
  for (const name of ["server", "client"]) {
    await ask("sandbox.create", { name });
    const endpoint = await ask("sandbox.connect", { sandbox: name, network: network.id });
    console.log("attached", name, endpoint.ipv4_address);
  }

  const found = execFileSync("cnm", ["exec", "client", "--", "getent", "hosts", "server"], { encoding: "utf8" });
  console.log("client finds server at", found.split(/\s/)[0]);

  await ask("sandbox.publish", { sandbox: "server", ports: [{ container_port: 8000, host_port: 8080 }] });
  const words = "exec server -- python3 -u -m http.server 8000".split(" ");
  const serving = spawn("cnm", words, { stdio: ["ignore", "pipe", "ignore"] });
  try {
    await once(serving.stdout, "data"); // now it listens
    const reply = await fetch(url);
    console.log("published", url, "answers", reply.status);
  } finally {
    serving.kill();
  }

  try {
    await ask("network.create", { name: "example" });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.log("refused:", error.message);
  }
}

const consumer = await jetstream(connection).consumers.get("CNM_EVENTS", { deliver_policy: DeliverPolicy.New });
const events = await consumer.consume();
try {
  await use();
} finally {
  for (const [verb, body] of [
    ["sandbox.delete", { sandbox: "server", force: true }],
    ["sandbox.delete", { sandbox: "client", force: true }],
    ["network.delete", { network: "example", force: true }],
  ]) {
    await ask(verb, body).catch((error) => console.log("not removed:", error.message));
  }
}
for await (const event of events) {
  const kind = event.subject.split(".").slice(3, 5).join(".");
  const { name } = event.json().object;
  if (name) console.log("event", kind, name); // pools and addresses have none
  if (kind === "network.deleted") break;
}
await connection.close();
