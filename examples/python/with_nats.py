"""Two sandboxes that find each other by name, a published port, and what was told of it: with nats-py alone."""

import asyncio
import json
import os
import subprocess
from urllib.request import urlopen

import nats
from nats.js.api import DeliverPolicy

URL = "http://127.0.0.1:8080/"


class Refused(Exception):
    """An error of CNM's, with its code: ``not_found``, ``conflict``, ..."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


async def main():
    connection = await nats.connect(os.environ.get("CNM_NATS_URL", "nats://127.0.0.1:4222"))

    async def ask(verb, **body):
        """Send a request; return the reply's body."""
        headers = {"Cnm-Deadline-Ms": "10000"}
        # A second more than the deadline, so that the worker can say that it passed.
        reply = await connection.request(f"cnm.v1.{verb}", json.dumps(body).encode(), timeout=11, headers=headers)
        found = json.loads(reply.data)
        if (reply.headers or {}).get("Nats-Service-Error-Code"):
            raise Refused(found["error"]["code"], found["error"]["message"])
        return found

    stream = connection.jetstream()
    events = await stream.subscribe("cnm.v1.event.>", ordered_consumer=True, deliver_policy=DeliverPolicy.NEW)
    try:
        await use(ask)
    finally:
        for verb, body in (
            ("sandbox.delete", {"sandbox": "server", "force": True}),
            ("sandbox.delete", {"sandbox": "client", "force": True}),
            ("network.delete", {"network": "example", "force": True}),
        ):
            try:
                await ask(verb, **body)
            except Refused as error:
                print("not removed:", error)

    kind = ""
    while kind != "network.deleted":
        message = await events.next_msg(timeout=10)
        kind = ".".join(message.subject.split(".")[3:5])
        found = json.loads(message.data)["object"]
        if "name" in found:  # pools and addresses have none
            print("event", kind, found["name"])
    await connection.close()


async def use(ask):
    network = await ask("network.create", name="example")
    print("network", network["name"], network["ipam"]["pools"][0]["subnet"])
    for name in ("server", "client"):
        await ask("sandbox.create", name=name)
        endpoint = await ask("sandbox.connect", sandbox=name, network=network["id"])
        print("attached", name, endpoint["ipv4_address"])

    found = subprocess.check_output(["cnm", "exec", "client", "--", "getent", "hosts", "server"], text=True)
    print("client finds server at", found.split()[0])

    await ask("sandbox.publish", sandbox="server", ports=[{"container_port": 8000, "host_port": 8080}])
    words = ["cnm", "exec", "server", "--", "python3", "-u", "-m", "http.server", "8000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        serving.stdout.readline()  # now it listens
        with urlopen(URL, timeout=5) as reply:
            print("published", URL, "answers", reply.status)
        serving.terminate()

    try:
        await ask("network.create", name="example")
    except Refused as error:
        print("refused:", error)


asyncio.run(main())
