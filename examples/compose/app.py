"""An application beside CNM: it gives two containers that have no network one of CNM's, and tells what happens.

Both wrote the process that they are, as the node knows it, into a shared folder. This program needs no privilege:
it asks for everything over NATS. See docker-compose.example.yml.
"""

import asyncio
import json
import os
import signal
from pathlib import Path

import nats

MEMBERS = Path(os.environ.get("MEMBERS_DIR", "/members"))
NATS_URL = os.environ["CNM_NATS_URL"]
PORT = int(os.environ.get("EXAMPLE_PORT", "8088"))
NETWORK, WEB, CLIENT = "example", "example-web", "example-client"


class Cnm:
    """Asks CNM."""

    def __init__(self, connection):
        self._connection = connection

    async def ask(self, verb, **body):
        """Return the body of the reply; what CNM refuses ends the program, with CNM's own words."""
        reply = json.loads((await self._connection.request(f"cnm.v1.{verb}", json.dumps(body).encode(), 20)).data)
        if "error" in reply:
            raise SystemExit(f"{verb}: {reply['error']['code']}: {reply['error']['message']}")
        return reply

    async def remove(self, verb, **body):
        """Delete something that may not be there."""
        reply = json.loads((await self._connection.request(f"cnm.v1.{verb}", json.dumps(body).encode(), 20)).data)
        if reply.get("error", {}).get("code", "not_found") != "not_found":
            raise SystemExit(f"{verb}: {reply['error']['message']}")


async def process_of(member):
    """Wait until a container wrote which process it is."""
    path = MEMBERS / member
    while not path.exists() or not path.read_text().strip():  # another container writes it
        await asyncio.sleep(0.2)
    return int(path.read_text())


async def tidy(cnm):
    for name in (WEB, CLIENT):
        await cnm.remove("sandbox.delete", sandbox=name)
    await cnm.remove("network.delete", network=NETWORK, force=True)


async def show(message):
    """Print an event, such as ``sandbox.created example-web``."""
    event = json.loads(message.data)
    noun, participle = message.subject.split(".")[3:5]
    print(f"event    {noun}.{participle} {event['object'].get('name', '')}", flush=True)


async def main():
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    connection = await nats.connect(NATS_URL, name="example")
    cnm = Cnm(connection)
    await tidy(cnm)  # what an earlier run left
    await connection.subscribe("cnm.v1.event.>", cb=show)

    network = await cnm.ask("network.create", name=NETWORK)
    print(f"network  {network['name']} {network['id']}", flush=True)
    published = {"container_port": 8000, "host_port": PORT, "host_ip": "127.0.0.1"}
    for name, ports in ((WEB, [published]), (CLIENT, [])):
        await cnm.ask("sandbox.create", name=name, pid=await process_of(name), ports=ports)
        await cnm.ask("sandbox.connect", sandbox=name, network=NETWORK)
    print(f"ready    curl http://127.0.0.1:{PORT}/ on the node; {CLIENT} asks http://{WEB}:8000/", flush=True)

    await stop.wait()
    await tidy(cnm)
    await connection.close()


asyncio.run(main())
