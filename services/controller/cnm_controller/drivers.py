"""The drivers of networks that this installation knows, and what each can do."""

from dataclasses import dataclass

from cnm.errors import Unsupported


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A driver of networks: whether it takes addresses, makes links on nodes, and can be named in a create.

    The subnets of an ``exclusive`` one overlap no other network's: its nodes would route both to one link.
    """

    name: str
    addresses: bool
    links: bool
    creatable: bool
    exclusive: bool = False


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver(name="bridge", addresses=True, links=True, creatable=True, exclusive=True),
        Driver(name="host", addresses=False, links=False, creatable=False),
        Driver(name="null", addresses=False, links=False, creatable=False),
    )
}
IPAM_DRIVERS = ("default", "null")


def driver_named(name: str) -> Driver:
    """Return a driver.

    Raises:
        Unsupported: this installation has none of that name; the message lists those it has.
    """
    found = DRIVERS.get(name)
    if found is None:
        raise Unsupported(f"no network driver {name!r} in this installation; there are {', '.join(sorted(DRIVERS))}")
    return found
