"""Driver options, parsed once, at the edge; the keys are Docker's own (inventory 25.2, modern 2)."""

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

import msgspec

from cnm.errors import Fault
from cnm.messages.bridge import GatewayMode
from cnm.types import Address, parse_address

BRIDGE_NAME = "com.docker.network.bridge.name"
MTU = "com.docker.network.driver.mtu"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING_IPV4 = "com.docker.network.bridge.host_binding_ipv4"
INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
IFACE_PREFIX = "com.docker.network.container_iface_prefix"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
TRUSTED = "com.docker.network.bridge.trusted_host_interfaces"
GATEWAY_MODE = {
    "com.docker.network.bridge.gateway_mode_ipv4": 4,
    "com.docker.network.bridge.gateway_mode_ipv6": 6,
}
HOST_ADDRESS = {"com.docker.network.host_ipv4": 4, "com.docker.network.host_ipv6": 6}
ANNOUNCEMENTS = "com.docker.network.advertise_addr_nmsgs"
ANNOUNCEMENT_MS = "com.docker.network.advertise_addr_ms"
DEFAULT_GATEWAY = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}
"""Auxiliary addresses that endpoints take for their next hop, instead of the bridge's own (inventory 25.2)."""

MODES: tuple[GatewayMode, ...] = ("nat", "nat-unprotected", "routed", "isolated")
ENDPOINT_IFNAME = "com.docker.network.endpoint.ifname"
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"

MTU_LIMITS = (68, 65535)
MAX_IFNAME = 15

_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


class BridgeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a bridge network, typed; addresses that its endpoints are seen as outside are ``snat_*``."""

    bridge: str | None = None
    mtu: int | None = None
    icc: bool = True
    masquerade: bool = True
    host_binding: Address | None = None
    inhibit_ipv4: bool = False
    iface_prefix: str = "eth"
    ipv4_mode: GatewayMode = "nat"
    ipv6_mode: GatewayMode = "nat"
    snat_ipv4: IPv4Address | None = None
    snat_ipv6: IPv6Address | None = None
    trusted: list[str] = []
    announcements: int | None = None
    announcement_ms: int = 1000

    def is_routed(self, version: int) -> bool:
        """Say whether a family is reached at the endpoints' own addresses, without translation."""
        return self.mode(version) == "routed"

    def mode(self, version: int) -> GatewayMode:
        """Return how the network is reached from outside by a family."""
        return self.ipv4_mode if version == 4 else self.ipv6_mode


def as_text(options: Mapping[str, str | int | bool]) -> dict[str, str]:
    """Write option values the way that Docker shows them: as text."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


Wrong = Callable[[str, str], None]
"""Notes what is wrong with an option, by its name."""


def parse_bridge(options: Mapping[str, str], faults: list[Fault]) -> BridgeOptions:
    """Type a bridge's options; whatever is wrong with them is added to ``faults``."""
    found: dict[str, object] = {}

    def wrong(name: str, reason: str) -> None:
        faults.append(Fault(field=f"options.{name}", value=options[name], reason=reason))

    for name, text in options.items():
        parse = _PARSERS.get(name)
        if parse is None:
            wrong(name, f"unknown option {name!r} of driver bridge")
        else:
            field, typed = parse
            value = typed(name, text, wrong)
            if value is not None and field:
                found[field] = value
    return BridgeOptions(**found)  # type: ignore[arg-type]  # each value was typed above


def contradictions(
    options: Mapping[str, str], *, internal: bool, enable_ipv4: bool, enable_ipv6: bool
) -> Iterator[Fault]:
    """Yield what options of a bridge network cannot be together, or with what else the network is (modern 2)."""
    typed = parse_bridge(options, [])

    def fault(name: str, reason: str) -> Fault:
        return Fault(field=f"options.{name}", value=options[name], reason=reason)

    on = {4: enable_ipv4, 6: enable_ipv6}
    for name, version in GATEWAY_MODE.items():
        if options.get(name) and not on[version]:
            yield fault(name, f"IPv{version} is off: set enable_ipv{version}, or leave it out")
        elif options.get(name) == "isolated" and not internal:
            yield fault(
                name, "gateway mode 'isolated' is for internal networks: set internal, or choose another mode"
            )
    for name, version in HOST_ADDRESS.items():
        if name not in options:
            continue
        if not on[version]:
            yield fault(name, f"IPv{version} is off: set enable_ipv{version}, or leave it out")
        elif internal:
            yield fault(name, "an internal network is not seen from outside, leave it out")
        elif not typed.mode(version).startswith("nat"):
            yield fault(name, f"gateway mode {typed.mode(version)!r} does not translate addresses, leave it out")
        elif not typed.masquerade:
            yield fault(name, f"{MASQUERADE} is false, so that no address is translated")
    if TRUSTED in options and internal:
        yield fault(TRUSTED, "an internal network is not reached from outside, leave it out")


def _ifname(name: str, text: str, wrong: Wrong) -> str | None:
    if _is_ifname(text):
        return text
    wrong(name, f"{text!r} is no name for a link: 1 to {MAX_IFNAME} ASCII characters, none of them / : %")
    return None


def _mtu(name: str, text: str, wrong: Wrong) -> int | None:
    if text.isascii() and text.isdigit() and (text == "0" or MTU_LIMITS[0] <= int(text) <= MTU_LIMITS[1]):
        return int(text) or None
    wrong(name, f"{text!r} is no MTU: {MTU_LIMITS[0]} to {MTU_LIMITS[1]}")
    return None


def _truth(name: str, text: str, wrong: Wrong) -> bool | None:
    value = parse_bool(text)
    if value is None:
        wrong(name, f"{text!r} is neither true nor false")
    return value


def _address(version: int) -> Callable[[str, str, Wrong], Address | None]:
    def parse(name: str, text: str, wrong: Wrong) -> Address | None:
        try:
            address = parse_address(text)
        except ValueError as error:
            wrong(name, str(error))
            return None
        if address.version == version:
            return address
        wrong(name, f"{text} is not an IPv{version} address")
        return None

    return parse


def _host_address(version: int) -> Callable[[str, str, Wrong], Address | None]:
    def parse(name: str, text: str, wrong: Wrong) -> Address | None:
        address = _address(version)(name, text, wrong)
        if address is None or not (address.is_unspecified or address.is_multicast or address.is_loopback):
            return address
        wrong(name, f"{text} is no address that packets can come from")
        return None

    return parse


def _prefix(name: str, text: str, wrong: Wrong) -> str | None:
    if _is_ifname(text) and len(text) <= MAX_IFNAME - 3:
        return text
    wrong(name, f"{text!r} is no prefix for interface names: 1 to {MAX_IFNAME - 3} characters")
    return None


def _mode(name: str, text: str, wrong: Wrong) -> str | None:
    if text in MODES:
        return text
    if text:
        wrong(name, f"{text!r} is none of {', '.join(MODES)}")
    return None


def _links(name: str, text: str, wrong: Wrong) -> list[str] | None:
    links = text.split(":") if text else []
    for link in links:
        if not _is_ifname(link):
            wrong(name, f"{link!r} of {text!r} is no name for a link; names are separated by ':'")
    return list(dict.fromkeys(links)) if all(map(_is_ifname, links)) else None


def _number(lowest: int, highest: int, unit: str) -> Callable[[str, str, Wrong], int | None]:
    def parse(name: str, text: str, wrong: Wrong) -> int | None:
        if text.isascii() and text.isdigit() and lowest <= int(text) <= highest:
            return int(text)
        wrong(name, f"{text!r} is no number of {unit} from {lowest} to {highest}")
        return None

    return parse


_PARSERS: Mapping[str, tuple[str, Callable[[str, str, Wrong], object]]] = {
    BRIDGE_NAME: ("bridge", _ifname),
    MTU: ("mtu", _mtu),
    ICC: ("icc", _truth),
    MASQUERADE: ("masquerade", _truth),
    INHIBIT_IPV4: ("inhibit_ipv4", _truth),
    DEFAULT_BRIDGE: ("", _truth),
    HOST_BINDING_IPV4: ("host_binding", _address(4)),
    IFACE_PREFIX: ("iface_prefix", _prefix),
    TRUSTED: ("trusted", _links),
    ANNOUNCEMENTS: ("announcements", _number(0, 3, "announcements")),
    ANNOUNCEMENT_MS: ("announcement_ms", _number(100, 2000, "milliseconds")),
    **{name: (f"ipv{version}_mode", _mode) for name, version in GATEWAY_MODE.items()},
    **{name: (f"snat_ipv{version}", _host_address(version)) for name, version in HOST_ADDRESS.items()},
}


def parse_bool(text: str) -> bool | None:
    """Read a truth value as Go's strconv.ParseBool does; None when it is none."""
    return True if text in _TRUE else False if text in _FALSE else None


def _is_ifname(text: str) -> bool:
    return (
        0 < len(text) <= MAX_IFNAME
        and text not in (".", "..")
        and text.isascii()
        and text.isprintable()
        and not any(char in "/:% " for char in text)
    )
