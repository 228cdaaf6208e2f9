"""Decides about configuration networks: they carry nothing, they hold settings that other networks are made from."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from cnm.errors import Fault, Forbidden, Invalid, NotFound
from cnm.messages.message import to_builtins
from cnm.messages.network import CreateNetwork, IpamRequest, NetworkDns
from cnm_controller.documents import NetworkBody, listed

DRIVERS = ("bridge", "null")
"""What ``create`` takes for a configuration network when nothing is said, and what ``get`` shows of one."""


def config_faults(command: CreateNetwork) -> Iterator[Fault]:
    """Yield what a configuration network, or one that takes its configuration from one, cannot be besides."""
    if command.config_only and command.config_from is not None:
        reason = f"a configuration network cannot take its configuration from {command.config_from!r}"
        yield Fault(field="config_from", value=command.config_from, reason=reason)
    if command.config_only:
        yield from _carrying_faults(command)
    if command.config_from is not None:
        for field, value in _taken_from_there(command):
            reason = f"{field} comes from configuration network {command.config_from!r}, leave it out"
            yield Fault(field=field, value=to_builtins(value), reason=reason)


def _carrying_faults(command: CreateNetwork) -> Iterator[Fault]:
    for field in ("internal", "attachable", "ingress"):
        if getattr(command, field):
            reason = f"a configuration network carries nothing, leave {field} out"
            yield Fault(field=field, value=True, reason=reason)
    if command.scope is not None:
        reason = "a configuration network is always local, leave scope out"
        yield Fault(field="scope", value=command.scope, reason=reason)
    if command.driver not in DRIVERS:
        reason = f"a configuration network has no driver, say {command.driver!r} for those made from it"
        yield Fault(field="driver", value=command.driver, reason=reason)


def _taken_from_there(command: CreateNetwork) -> Iterator[tuple[str, Any]]:
    """Yield the fields that a network with ``config_from`` has set itself."""
    plain = CreateNetwork(name=command.name)
    for field in ("enable_ipv4", "enable_ipv6", "labels", "options"):
        if getattr(command, field) != getattr(plain, field):
            yield field, getattr(command, field)
    for field in IpamRequest.__struct_fields__:
        if getattr(command.ipam, field) != getattr(plain.ipam, field):
            yield f"ipam.{field}", getattr(command.ipam, field)
    if command.dns != NetworkDns():
        yield "dns", command.dns


def configured(command: CreateNetwork, config: NetworkBody) -> CreateNetwork:
    """Return a checked request with all that the configuration network holds for it.

    Raises:
        NotFound: the network is none that holds a configuration; libnetwork looks among those only.
    """
    if not config.config_only:
        raise NotFound(f"no configuration network {command.config_from!r}: network {config.name!r} carries endpoints")
    return msgspec.structs.replace(
        command,
        config_from=None,
        enable_ipv4=config.enable_ipv4,
        enable_ipv6=config.enable_ipv6,
        ipam=IpamRequest(
            driver=config.ipam_driver,
            address_space=config.address_space,
            options=dict(config.ipam_options),
            pools=config.wanted,
        ),
        dns=config.dns,
        options=dict(config.options),
        labels=config.labels,
    )


def from_configuration(error: Invalid, config: NetworkBody) -> Invalid:
    """Say of faults in what a configuration network holds where they come from."""
    source = f"from configuration network {config.name!r}"
    faults = (Fault(**each) for each in error.details["fields"])
    return Invalid.of(
        [Fault(field=each.field, value=each.value, reason=f"{each.reason} ({source})") for each in faults]
    )


def refuse_endpoints(network: NetworkBody) -> None:
    """Refuse to put an endpoint on a configuration network.

    Raises:
        Forbidden: it is one.
    """
    if network.config_only:
        raise Forbidden(f"network {network.name!r} only holds a configuration, no endpoint can be on it")


def refuse_in_use(config: NetworkBody, users: Sequence[NetworkBody]) -> None:
    """Refuse to delete a configuration network that others were made from.

    Raises:
        Forbidden: the message lists them.
    """
    if users:
        raise Forbidden(f"configuration network {config.name!r} is in use by networks {listed(users)}")
