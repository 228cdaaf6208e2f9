"""Settings of the gateway: where it listens, who may name it how, and how much it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from cnm.errors import Invalid
from cnm.settings import listening_address

ADDRESS_VARIABLE = "CNM_GATEWAY_ADDRESS"
HOSTS_VARIABLE = "CNM_GATEWAY_HOSTS"
DEFAULT_ADDRESS = "127.0.0.1:8780"
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
"""What a browser on this machine calls it; no other site can have these names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is kept, for how many, and for how long."""

    clients: int = 64
    """Browsers that follow at a time."""
    requests: int = 128
    """Requests under way at a time, those of the browsers that follow among them."""
    messages: int = 2000
    message_bytes: int = 8 << 20
    """So much of what was told is kept: a browser that was away for longer gets the whole state anew."""
    shown_events: int = 100
    """So many past events a page begins with."""
    write_s: float = 10.0
    """A browser that takes nothing for so long is dropped."""
    heartbeat_s: float = 4.0
    nodes_period_s: float = 5.0
    lists_period_s: float = 60.0
    """How often nodes, whose silence no event tells, and all lists are asked again while somebody looks."""
    traces: int = 50


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to listen, and the names that a request may call it by."""

    host: str
    port: int
    names: frozenset[str]


def place(environment: Mapping[str, str]) -> Place:
    """Read where the gateway listens: on a loopback address, or on any other for those who use names we know.

    Raises:
        Invalid: a variable is malformed, or names are missing.
    """
    text = environment.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    host, port = listening_address(ADDRESS_VARIABLE, text)
    names = frozenset(filter(None, (name_of(each) for each in (environment.get(HOSTS_VARIABLE) or "").split(","))))
    if not names and not _is_loopback(host):
        reason = (
            f"{host} is no loopback address, and there is no password: {HOSTS_VARIABLE} must name the hosts that "
            "browsers may call it by, like cnm.example,192.0.2.7"
        )
        raise Invalid.at(HOSTS_VARIABLE, environment.get(HOSTS_VARIABLE) or None, reason)
    return Place(host=host, port=port, names=names | LOOPBACK)


def name_of(text: str) -> str:
    """Return the name or address of a ``Host`` header, without its port and brackets, in small letters."""
    text = text.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text if text.count(":") > 1 else text.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
