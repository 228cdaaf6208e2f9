"""The way out of a machine without a network: a proxy that understands CONNECT and plain HTTP's absolute targets.

``relay.py unix PATH`` answers on a socket in the file system and connects for whoever asks;
``relay.py tcp PORT PATH`` listens on loopback in a network namespace and passes all that comes on to that socket.
"""

import asyncio
import sys
from contextlib import suppress
from urllib.parse import urlsplit

SIZE = 1 << 16


async def pump(reader, writer):
    with suppress(OSError):
        while data := await reader.read(SIZE):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()


async def join(one, other):
    """Carry bytes both ways until both ends are done."""
    try:
        await asyncio.gather(pump(one[0], other[1]), pump(other[0], one[1]))
    finally:
        for _, writer in (one, other):
            writer.close()


async def proxy(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        method, target, version = line.decode("ascii").split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            there = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 connected\r\n\r\n")
        else:
            parts = urlsplit(target)
            path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            there = await asyncio.open_connection(parts.hostname, parts.port or 80)
            kept = [each for each in rest.split(b"\r\n") if not each.lower().startswith((b"proxy-", b"connection:"))]
            first = f"{method} {path} {version}\r\nConnection: close".encode()
            there[1].write(b"\r\n".join([first, *kept]))
    except (OSError, ValueError, asyncio.IncompleteReadError):
        writer.close()
        return
    await join((reader, writer), there)


def to_socket(path):
    async def pass_on(reader, writer):
        await join((reader, writer), await asyncio.open_unix_connection(path))

    return pass_on


async def main(kind, *words):
    if kind == "unix":
        server = await asyncio.start_unix_server(proxy, words[0])
    else:
        server = await asyncio.start_server(to_socket(words[1]), "127.0.0.1", int(words[0]))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
