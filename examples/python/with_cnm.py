"""Two sandboxes that find each other by name, a published port, and what was told of it: with CNM's own client."""

import asyncio
from asyncio.subprocess import PIPE, create_subprocess_exec
from urllib.request import urlopen

from cnm.client import Client, Events, connect
from cnm.errors import CnmError
from cnm.messages.network import CreateNetwork, DeleteNetwork
from cnm.messages.sandbox import ConnectSandbox, CreateSandbox, DeleteSandbox, PortRequest, PublishOnSandbox

URL = "http://127.0.0.1:8080/"


async def main() -> None:
    """Make it, use it, remove it, and tell what was heard meanwhile."""
    async with connect() as client, client.events() as events:
        try:
            await use(client)
        finally:
            for command in (
                DeleteSandbox(sandbox="server", force=True),
                DeleteSandbox(sandbox="client", force=True),
                DeleteNetwork(network="example", force=True),
            ):
                try:
                    await client.ask(command)
                except CnmError as error:
                    print(f"not removed: {error.code}: {error.message}")
        await tell(events)


async def use(client: Client) -> None:
    """Attach two sandboxes to a network, resolve one's name from the other, and reach a port from outside."""
    network = await client.ask(CreateNetwork(name="example"))
    print("network", network.name, network.ipam.pools[0].subnet)
    for name in ("server", "client"):
        await client.ask(CreateSandbox(name=name))
        endpoint = await client.ask(ConnectSandbox(sandbox=name, network=network.id))
        print("attached", name, endpoint.ipv4_address)

    looking = await create_subprocess_exec("cnm", "exec", "client", "--", "getent", "hosts", "server", stdout=PIPE)
    found, _ = await looking.communicate()
    print("client finds server at", found.decode().split()[0])

    await client.ask(PublishOnSandbox(sandbox="server", ports=[PortRequest(container_port=8000, host_port=8080)]))
    words = ["cnm", "exec", "server", "--", "python3", "-u", "-m", "http.server", "8000"]
    serving = await create_subprocess_exec(*words, stdout=PIPE)
    try:
        await serving.stdout.readline()  # now it listens
        with await asyncio.to_thread(urlopen, URL, timeout=5) as reply:
            print("published", URL, "answers", reply.status)
    finally:
        serving.terminate()
        await serving.wait()

    try:
        await client.ask(CreateNetwork(name="example"))
    except CnmError as error:
        print(f"refused: {error.code}: {error.message}")


async def tell(events: Events) -> None:
    """Print what happened since the connection was made, to the last thing that we did."""
    async for heard in events:
        if "name" in heard.object:  # pools and addresses have none
            print("event", heard.kind, heard.object["name"])
        if heard.kind == "network.deleted":
            return


asyncio.run(main())
