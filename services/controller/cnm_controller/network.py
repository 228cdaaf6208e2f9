"""Decides about networks: what may be created, and what is predefined."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from cnm.errors import Fault, Forbidden, Invalid, Unsupported
from cnm.messages.network import CreateNetwork, NetworkDns, PoolRequest
from cnm.pool_faults import network_faults, request_faults
from cnm_controller.configuration import config_faults, configured, from_configuration
from cnm_controller.documents import NetworkBody
from cnm_controller.drivers import Driver, driver_named
from cnm_controller.options import MTU, as_text, contradictions, parse_bool, parse_bridge

SCOPES = ("local", "global", "swarm")
DEFAULT_SPACES = {"local": "LocalDefault", "global": "GlobalDefault", "swarm": "GlobalDefault"}
IPV6_LEAST_MTU = 1280
PREDEFINED = ("none", "host", "bridge")
_LABEL = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
DOMAIN = re.compile(rf"(?=.{{1,254}}$){_LABEL}(?:\.{_LABEL})*\.?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def predefined() -> tuple[NetworkBody, ...]:
    """Return the networks that every installation has; the bridge gets its pool with its first endpoint."""
    return (
        NetworkBody(
            id=_fixed_id("bridge"),
            name="bridge",
            driver="bridge",
            scope="local",
            created=_EPOCH,
            predefined=True,
            wanted=[PoolRequest()],
            options={
                "com.docker.network.bridge.name": "cnm0",
                "com.docker.network.bridge.default_bridge": "true",
            },
        ),
        NetworkBody(id=_fixed_id("host"), name="host", driver="host", scope="local", created=_EPOCH, predefined=True),
        NetworkBody(id=_fixed_id("none"), name="none", driver="null", scope="local", created=_EPOCH, predefined=True),
    )


def _fixed_id(name: str) -> str:
    return hashlib.sha256(f"cnm predefined network {name}".encode()).hexdigest()


def decide_create(command: CreateNetwork, *, id: str, now: datetime) -> NetworkBody:
    """Check a request and return the network it asks for, its pools still to be had.

    Whether there is an IPAM driver of that name is not known here.

    Raises:
        Forbidden: the name is predefined.
        Unsupported: the driver, scope or an option is one that this installation cannot serve.
        Invalid: anything else is wrong; ``details["fields"]`` lists all of it.
    """
    if command.name in PREDEFINED:
        raise Forbidden(f"network {command.name!r} is predefined and cannot be created")
    if not command.config_only and not driver_named(command.driver).creatable:
        raise Forbidden(f"driver {command.driver!r} has only its predefined network")
    check_create(command)
    options = as_text(command.options)
    if not command.config_only:
        _refuse_unserved(command)
    scope = command.scope or "local"
    return NetworkBody(
        id=id,
        name=command.name,
        driver="null" if command.config_only else command.driver,
        scope=scope,
        created=now,
        internal=command.internal,
        attachable=command.attachable,
        ingress=command.ingress,
        enable_ipv4=command.enable_ipv4,
        enable_ipv6=command.enable_ipv6,
        ipam_driver=command.ipam.driver,
        ipam_options=as_text(command.ipam.options),
        address_space=command.ipam.address_space or DEFAULT_SPACES[scope],
        wanted=command.ipam.pools if command.config_only else _wanted(command),
        config_only=command.config_only,
        dns=command.dns,
        options=options,
        labels=command.labels,
    )


def check_create(command: CreateNetwork) -> None:
    """Refuse a request whose fields contradict one another.

    Raises:
        Unsupported: there is no such driver.
        Invalid: ``details["fields"]`` lists all that is wrong.
    """
    faults = [*_scope_faults(command), *config_faults(command), *dns_faults(command.dns)]
    if command.config_only:  # its options and IPAM driver are for those made from it, of whatever driver they are
        faults += _ipam_faults(command, driver_named("null"))
    else:
        said = as_text(command.options)
        options = parse_bridge(said, faults)
        faults += mtu_faults(options.mtu, enable_ipv6=command.enable_ipv6)
        faults += contradictions(
            said, internal=command.internal, enable_ipv4=command.enable_ipv4, enable_ipv6=command.enable_ipv6
        )
        faults += _ipam_faults(command, driver_named(command.driver))
    if faults:
        raise Invalid.of(faults)


def mtu_faults(mtu: int | None, *, enable_ipv6: bool) -> Iterator[Fault]:
    """Yield the fault of an MTU that IPv6 does not work with (RFC 8200, section 5): the kernel takes IPv6 away."""
    if mtu is not None and enable_ipv6 and mtu < IPV6_LEAST_MTU:
        reason = f"{mtu} is less than the {IPV6_LEAST_MTU} bytes that IPv6 needs"
        yield Fault(field=f"options.{MTU}", value=str(mtu), reason=reason)


def decide_from(command: CreateNetwork, config: NetworkBody, *, id: str, now: datetime) -> NetworkBody:
    """Return the network that a checked request asks for with what its configuration network holds.

    Raises:
        NotFound: that one holds no configuration.
        Unsupported, Invalid: the configuration is at fault, by itself or together with the request.
    """
    request = configured(command, config)
    try:
        network = decide_create(request, id=id, now=now)
    except Invalid as error:
        raise from_configuration(error, config) from None
    return msgspec.structs.replace(network, config_from=config.name, config_id=config.id)


def _refuse_unserved(command: CreateNetwork) -> None:
    if command.scope not in (None, "local"):
        raise Unsupported(f"scope {command.scope!r} needs a multi-host driver; driver {command.driver!r} is local")
    if command.ingress:
        raise Unsupported("ingress: driver 'bridge' cannot serve an ingress network")


def _scope_faults(command: CreateNetwork) -> Iterator[Fault]:
    if command.scope is not None and command.scope not in SCOPES:
        reason = f"{command.scope!r} is none of {', '.join(SCOPES)}"
        yield Fault(field="scope", value=command.scope, reason=reason)
    if not command.enable_ipv4 and not command.enable_ipv6:
        reason = "with enable_ipv6 false too, the network would have no addresses"
        yield Fault(field="enable_ipv4", value=False, reason=reason)


def _ipam_faults(command: CreateNetwork, driver: Driver) -> Iterator[Fault]:
    if command.ipam.driver == "null" and driver.addresses:
        reason = f"driver {driver.name!r} needs addresses, and IPAM driver 'null' has none: the IPv4 pool is empty"
        yield Fault(field="ipam.driver", value="null", reason=reason)
    requests = _wanted(command)
    if command.ipam.driver == "default":
        space = command.ipam.address_space or DEFAULT_SPACES.get(command.scope or "local", "LocalDefault")
        yield from network_faults(space, requests, as_text(command.ipam.options))
    else:
        for index, request in enumerate(requests):
            yield from request_faults(request, f"ipam.pools[{index}]")
    first: dict[int, int] = {}
    for index, version in enumerate(versions(requests, enabled(command.enable_ipv4, command.enable_ipv6))):
        where, subnet = f"ipam.pools[{index}].subnet", requests[index].subnet
        shown = str(subnet) if subnet is not None else None
        if not (command.enable_ipv4 if version == 4 else command.enable_ipv6):
            reason = f"an IPv{version} pool needs enable_ipv{version}"
            yield Fault(field=where, value=shown, reason=reason)
        if version in first and driver.exclusive:
            earlier = f"ipam.pools[{first[version]}]"
            reason = f"driver {driver.name!r} takes one IPv{version} subnet, {earlier} is one already"
            yield Fault(field=where, value=shown, reason=reason)
        first.setdefault(version, index)


def _said_version(pool: PoolRequest) -> int | None:
    """Return the IP version that a pool's fields say, or None when they say none."""
    for value in (pool.subnet, pool.range, pool.gateway, *pool.aux_addresses.values()):
        if value is not None:
            return value.version
    return None


def enabled(ipv4: bool, ipv6: bool) -> list[int]:
    """Return the IP versions that a network has."""
    return [version for version, on in ((4, ipv4), (6, ipv6)) if on]


def versions(requests: Sequence[PoolRequest], families: Sequence[int]) -> list[int]:
    """Return the IP version of each pool; those that say none are of those families that no other is of."""
    said = [_said_version(request) for request in requests]
    still_open = [version for version in families if version not in said]
    default = families[0] if families else 4
    return [version or (still_open.pop(0) if still_open else default) for version in said]


def _wanted(command: CreateNetwork) -> list[PoolRequest]:
    """Return the pools asked for, and one for each enabled family that has none."""
    requests = command.ipam.pools
    families = enabled(command.enable_ipv4, command.enable_ipv6)
    said = versions(requests, families)
    return [*requests, *(PoolRequest() for version in families if version not in said)]


def wanted_versions(network: NetworkBody) -> list[int]:
    """Return the IP version of each wanted pool, in order."""
    return versions(network.wanted, enabled(network.enable_ipv4, network.enable_ipv6))


def dns_faults(dns: NetworkDns) -> list[Fault]:
    """Say what of a network's DNS settings cannot be."""
    faults = []
    for domain, servers in dns.domains.items():
        field = f"dns.domains.{domain}"
        if not DOMAIN.fullmatch(domain):
            faults.append(Fault(field=field, value=domain, reason=f"{domain!r} is no domain name"))
        if not servers:
            faults.append(Fault(field=field, value=[], reason=f"domain {domain!r} needs at least one server"))
        faults += [
            Fault(field=field, value=str(server), reason=f"{server} is no address of a server")
            for server in servers
            if server.is_multicast or server.is_unspecified
        ]
    return faults


def matches(network: NetworkBody, filters: dict[str, list[str | bool]], *, used: bool) -> bool:
    """Say whether a network passes all filters; of each filter any value. One that nothing uses is dangling."""
    tests: dict[str, Callable[[str | bool], bool]] = {
        "name": lambda value: str(value) in network.name,
        "id": lambda value: network.id.startswith(str(value)),
        "driver": lambda value: value == network.driver,
        "scope": lambda value: value == network.scope,
        "label": lambda value: has_label(network.labels, str(value)),
        "dangling": lambda value: (not used and not network.predefined) == parse_bool(str(value)),
    }
    return all(any(tests[name](value) for value in values) for name, values in filters.items())


def has_label(labels: dict[str, str], wanted: str) -> bool:
    """Say whether labels hold ``key`` or ``key=value``."""
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)


def check_filters(filters: dict[str, list[str | bool]], known: tuple[str, ...]) -> None:
    """Refuse filters that a list does not know.

    Raises:
        Invalid: naming each of them.
    """
    faults = [
        Fault(
            field=f"filters.{name}",
            value=msgspec.to_builtins(filters[name]),
            reason=f"unknown filter {name!r}, there are {', '.join(known)}",
        )
        for name in filters
        if name not in known
    ]
    faults += [
        Fault(field=f"filters.{name}", value=values, reason=f"expected {kind}, got {value!r}")
        for name, values in filters.items()
        if name in known
        for value in values
        if (kind := _unfit_filter(name, value)) is not None
    ]
    if faults:
        raise Invalid.of(faults)


def _unfit_filter(name: str, value: str | bool) -> str | None:
    """Return what a filter's value should be, if it is not."""
    if name == "dangling":
        return None if isinstance(value, bool) or parse_bool(value) is not None else "true or false"
    return "text" if isinstance(value, bool) else None
