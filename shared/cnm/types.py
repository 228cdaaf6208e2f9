"""Values that every message and service shares, and how JSON writes them.

Addresses, pools and interface addresses travel as text and are ``ipaddress`` values everywhere else. msgspec
allows one custom type in a union, so each pair of families has one name here; at run time the name is an
abstract class that both families are registered with.
"""

import ipaddress
import re
from abc import ABC
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

if TYPE_CHECKING:
    Address = IPv4Address | IPv6Address
    Prefix = IPv4Network | IPv6Network
    Interface = IPv4Interface | IPv6Interface
else:

    class Address(ABC):
        """An IPv4 or IPv6 address: ``172.28.5.1``."""

    class Prefix(ABC):
        """An IPv4 or IPv6 prefix without host bits: ``172.28.0.0/16``."""

    class Interface(ABC):
        """An address with the length of its prefix: ``172.28.5.1/16``."""

    Address.register(IPv4Address)
    Address.register(IPv6Address)
    Prefix.register(IPv4Network)
    Prefix.register(IPv6Network)
    Interface.register(IPv4Interface)
    Interface.register(IPv6Interface)

END = r"$(?!\n)"
"""The end of a text in a pattern; a ``$`` alone lets a line feed pass in Python, unlike in a JSON schema."""

MAC_PATTERN = r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}" + END

Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}" + END, description="64 lower-case hexadecimal digits")]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*" + END, max_length=128, description="a name")]
Alias = Annotated[
    str,
    Meta(
        pattern=r"^(\*\.)?[a-zA-Z0-9][a-zA-Z0-9_.-]*" + END,
        max_length=128,
        description="a name; *.name means every name below it",
    ),
]
Key = Annotated[str, Meta(min_length=1, max_length=256, description="a full id, a name, or a unique id prefix")]
MacAddress = Annotated[str, Meta(pattern=MAC_PATTERN, description="a MAC address, colons between the bytes")]
InterfaceName = Annotated[
    str,
    Meta(
        pattern=r"^(?!\.{1,2}$)[!-$&-.0-9;-~]{1,15}"
        + END,  # dev_valid_name(), and no % that the kernel would fill in
        description="the name of a network interface: at most 15 printable ASCII characters, none of them / : or %",
    ),
]
Port = Annotated[int, Meta(ge=1, le=65535)]
HostPort = Annotated[int, Meta(ge=0, le=65535, description="0 lets CNM choose")]
Protocol = Literal["tcp", "udp", "sctp"]

SCHEMA_FORMATS: dict[type, dict[str, str]] = {
    Address: {"type": "string", "format": "ip-address"},  # type: ignore[dict-item]  # an ABC at run time
    Prefix: {"type": "string", "format": "ip-prefix"},  # type: ignore[dict-item]  # as above
    Interface: {"type": "string", "format": "ip-interface"},  # type: ignore[dict-item]  # as above
    IPv4Address: {"type": "string", "format": "ipv4"},
    IPv6Address: {"type": "string", "format": "ipv6"},
    IPv4Interface: {"type": "string", "format": "ipv4-interface"},
    IPv6Interface: {"type": "string", "format": "ipv6-interface"},
    IPv4Network: {"type": "string", "format": "ipv4-prefix"},
    IPv6Network: {"type": "string", "format": "ipv6-prefix"},
}


def canonical_mac(text: str) -> str:
    """Write a MAC address the one way that CNM shows it: lower case."""
    return text.lower()


def parse_address(text: str) -> Address:
    """Read an address without a prefix length.

    Raises:
        ValueError: the text is none; the message says so in a person's words.

    """
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None


def parse_prefix(text: str) -> Prefix:
    """Read a prefix; host bits are refused, and the message gives the prefix without them.

    Raises:
        ValueError: the text is no prefix, or has host bits set.

    """
    length = text.rpartition("/")[2]
    if "/" not in text or "%" in text or not (length.isascii() and length.isdigit()):  # ipaddress takes more
        raise ValueError(f"{text!r} is not a subnet in CIDR form, such as 172.28.0.0/16")
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a subnet in CIDR form, such as 172.28.0.0/16") from None
    if ipaddress.ip_interface(text).ip != loose.network_address:
        raise ValueError(f"{text} has host bits set, it should be {loose}")
    return loose


def without_host_bits(text: str) -> str | None:
    """Return what a text that is a prefix but for its host bits should be; None for any other."""
    try:
        parse_prefix(text)
    except ValueError:
        try:
            right = str(ipaddress.ip_network(text, strict=False))
            parse_prefix(right)
        except ValueError:
            return None
        return right if text.rpartition("/")[2] == right.rpartition("/")[2] else None
    return None


def parse_interface(text: str) -> Interface:
    """Read an address with its prefix length.

    Raises:
        ValueError: the text is none.

    """
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an address in CIDR form, such as 172.28.5.1/16") from None


_PARSERS: dict[Any, Any] = {
    Address: parse_address,
    IPv4Address: parse_address,
    IPv6Address: parse_address,
    Prefix: parse_prefix,
    IPv4Network: parse_prefix,
    IPv6Network: parse_prefix,
    Interface: parse_interface,
    IPv4Interface: parse_interface,
    IPv6Interface: parse_interface,
}


def dec_hook(kind: type, value: Any) -> Any:
    """Decode what msgspec does not know: IP values from text.

    Raises:
        ValueError: the text is none of that kind; msgspec adds the path to the message.

    """
    parser = _PARSERS.get(kind)
    if parser is None:
        raise NotImplementedError(f"no decoder for {kind}")
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")  # noqa: TRY004  # msgspec reports ValueError
    found = parser(value)
    if not isinstance(found, kind):
        raise ValueError(f"{value} is not of family {kind.__name__[:4]}")  # noqa: TRY004  # as above
    return found


def enc_hook(value: Any) -> Any:
    """Encode what msgspec does not know: IP values as text."""
    if isinstance(value, (IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface)):
        return str(value)
    raise NotImplementedError(f"no encoder for {type(value)}")


def node_token(node: str) -> str:
    """Write a node's name as one token of a NATS subject: whatever separates or matches tokens becomes ``_``."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", node)
