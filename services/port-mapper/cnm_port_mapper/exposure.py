"""Which bindings the internet may reach: what is worth a warning."""

from collections.abc import Iterable, Sequence

import msgspec

from cnm.messages.sandbox import PortBinding
from cnm.types import Address


def exposures(bindings: Iterable[PortBinding], own: Sequence[Address]) -> list[str]:
    """Warn of bindings on public addresses that everybody may connect to; ``own`` are the node's addresses."""
    public = [address for address in own if address.is_global]
    warnings = []
    for each in bindings:
        if each.host_port is None or each.allow is not msgspec.UNSET:
            continue
        at = public if each.host_ip.is_unspecified else [each.host_ip]
        reached = [address for address in at if address.is_global and address.version == each.host_ip.version]
        if reached:
            end = "" if each.host_port_end is msgspec.UNSET else f"-{each.host_port_end}"
            host = f"[{each.host_ip}]" if each.host_ip.version == 6 else str(each.host_ip)
            shown = f"{host}:{each.host_port}{end}/{each.protocol}"
            named = ", ".join(map(str, reached))
            warnings.append(f"{shown} is open to everybody: this node has the public address {named}")
    return warnings
