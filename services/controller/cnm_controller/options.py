"""Driver options, parsed once, at the edge; the keys are Docker's own (inventory 25.2, modern 2)."""

from collections.abc import Mapping

import msgspec

from cnm.errors import Fault
from cnm.types import Address, parse_address

BRIDGE_NAME = "com.docker.network.bridge.name"
MTU = "com.docker.network.driver.mtu"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING_IPV4 = "com.docker.network.bridge.host_binding_ipv4"
INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
IFACE_PREFIX = "com.docker.network.container_iface_prefix"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
GATEWAY_MODES = (
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
)
NOT_SERVED = (
    "com.docker.network.host_ipv4",
    "com.docker.network.host_ipv6",
    "com.docker.network.bridge.trusted_host_interfaces",
    "com.docker.network.advertise_addr_nmsgs",
    "com.docker.network.advertise_addr_ms",
)
ENDPOINT_IFNAME = "com.docker.network.endpoint.ifname"
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"

MTU_LIMITS = (68, 65535)
MAX_IFNAME = 15

_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


class BridgeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a bridge network, typed."""

    bridge: str | None = None
    mtu: int | None = None
    icc: bool = True
    masquerade: bool = True
    host_binding: Address | None = None
    inhibit_ipv4: bool = False
    iface_prefix: str = "eth"


def as_text(options: Mapping[str, str | int | bool]) -> dict[str, str]:
    """Write option values the way that Docker shows them: as text."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


def parse_bridge(options: Mapping[str, str], faults: list[Fault]) -> BridgeOptions:
    """Type a bridge's options; whatever is wrong with them is added to ``faults``."""
    found: dict[str, object] = {}

    def wrong(name: str, reason: str) -> None:
        faults.append(Fault(field=f"options.{name}", value=options[name], reason=reason))

    for name, text in options.items():
        if name == BRIDGE_NAME:
            if _is_ifname(text):
                found["bridge"] = text
            else:
                wrong(name, f"{text!r} is no name for a link: 1 to {MAX_IFNAME} ASCII characters, none of them / : %")
        elif name == MTU:
            if text.isascii() and text.isdigit() and (text == "0" or MTU_LIMITS[0] <= int(text) <= MTU_LIMITS[1]):
                found["mtu"] = int(text) or None
            else:
                wrong(name, f"{text!r} is no MTU: {MTU_LIMITS[0]} to {MTU_LIMITS[1]}")
        elif name in (ICC, MASQUERADE, INHIBIT_IPV4, DEFAULT_BRIDGE):
            value = parse_bool(text)
            if value is None:
                wrong(name, f"{text!r} is neither true nor false")
            elif name != DEFAULT_BRIDGE:
                found[{ICC: "icc", MASQUERADE: "masquerade", INHIBIT_IPV4: "inhibit_ipv4"}[name]] = value
        elif name == HOST_BINDING_IPV4:
            try:
                found["host_binding"] = address = parse_address(text)
                if address.version != 4:
                    wrong(name, f"{text} is not an IPv4 address")
            except ValueError as error:
                wrong(name, str(error))
        elif name == IFACE_PREFIX:
            if _is_ifname(text) and len(text) <= MAX_IFNAME - 3:
                found["iface_prefix"] = text
            else:
                wrong(name, f"{text!r} is no prefix for interface names: 1 to {MAX_IFNAME - 3} characters")
        elif name in GATEWAY_MODES:
            if text not in ("", "nat", "nat-unprotected", "routed", "isolated"):
                wrong(name, f"{text!r} is none of nat, nat-unprotected, routed, isolated")
        elif name not in NOT_SERVED:
            wrong(name, f"unknown option {name!r} of driver bridge")
    return BridgeOptions(**found)  # type: ignore[arg-type]  # each value was typed above


def not_served(options: Mapping[str, str]) -> str | None:
    """Return the first option that is known but that this driver cannot serve, with its value."""
    for name, text in options.items():
        if name in NOT_SERVED or (name in GATEWAY_MODES and text not in ("", "nat")):
            return f"{name}={text}"
    return None


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
