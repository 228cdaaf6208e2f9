"""How a verb asks: one connection for the length of the command, several objects one after the other."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from cnm.errors import CnmError
from cnm_cli.client import Body, Client, connect
from cnm_cli.output import print_json, print_table
from cnm_cli.runtime import find_nats_url
from cnm_cli.settings import from_environment

T = TypeVar("T")

SHORT = 12
"""So many digits of an id a table shows."""


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect to the installation that the environment names, and return what the work does.

    Raises:
        CnmError: it cannot be reached, or it refused.
    """

    async def connected() -> T:
        async with connect(find_nats_url(from_environment(os.environ))) as client:
            return await work(client)

    return asyncio.run(connected())


def ask(verb: str, body: Mapping[str, Any] | None = None) -> Body:
    """Ask one thing: ``ask("network.get", {"network": "web"})``.

    Raises:
        CnmError: it was refused.
    """

    async def work(client: Client) -> Body:
        return await client.ask(f"cnm.v1.{verb}", body)

    return with_client(work)


def for_each(keys: Sequence[str], work: Callable[[Client, str], Awaitable[None]]) -> int:
    """Do the work for every key, whatever fails; each failure is a line on stderr. Returns the exit status."""

    async def all_of_them(client: Client) -> int:
        status = 0
        for key in keys:
            try:
                await work(client, key)
            except CnmError as error:
                complain(error)
                status = 1
        return status

    return with_client(all_of_them)


def show(verb: str, field: str, keys: Sequence[str], *, as_json: bool) -> int:
    """Show the objects that a ``get`` finds: their fields, or the very bodies (a list when several are asked for)."""
    bodies: list[Body] = []

    async def get(client: Client, key: str) -> None:
        bodies.append(await client.ask(f"cnm.v1.{verb}", {field: key}))

    status = for_each(keys, get)
    print_objects(bodies, as_json=as_json, as_list=len(keys) > 1)
    return status


def print_objects(bodies: Sequence[Body], *, as_json: bool, as_list: bool) -> None:
    """Print objects in full."""
    if as_json and (as_list or bodies):
        print_json(list(bodies) if as_list else bodies[0])
        return
    for number, body in enumerate(bodies):
        if number:
            print()
        print_table(("field", "value"), flatten(body))


def flatten(body: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Write an object as one row a value: ``("ipam.pools[0].subnet", "172.28.0.0/16")``."""
    rows: list[tuple[str, object]] = []
    for name, value in body.items():
        rows.extend((f"{name}{path}", leaf) for path, leaf in _leaves(value))
    return rows


def _leaves(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from ((f".{name}{path}", leaf) for path, leaf in _leaves(inner))
    elif isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        for number, inner in enumerate(value):
            yield from ((f"[{number}]{path}", leaf) for path, leaf in _leaves(inner))
    elif isinstance(value, list):
        yield "", ", ".join(map(str, value))
    elif isinstance(value, dict):
        yield "", None
    else:
        yield "", str(value).lower() if isinstance(value, bool) else value


def warn(body: Mapping[str, Any]) -> None:
    """Print a reply's warnings: it worked, but."""
    for warning in body.get("warnings", ()):
        print(f"cnm: warning: {' '.join(str(warning).split())}", file=sys.stderr)


def complain(error: CnmError) -> None:
    """Print a refusal on its line."""
    print(f"cnm: {' '.join(error.message.split())}", file=sys.stderr)


def short(id: str | None) -> str | None:
    """Cut an id the way tables show it."""
    return id[:SHORT] if id else None


def address(interface: str | None) -> str | None:
    """Take the prefix length from an address."""
    return interface.partition("/")[0] if interface else None
