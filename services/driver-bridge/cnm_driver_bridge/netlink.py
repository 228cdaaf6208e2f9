"""The node's links, addresses and settings: the adapter that carries out what `bridge` and `plug` plan.

Everything here blocks and is for the one netlink thread; each call is one command, whole, so that nothing comes
between its steps.
"""

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cnm.errors import CnmError, Conflict, Exhausted, Invalid, Unavailable, Unsupported
from cnm.kernel import netns, sysctl
from cnm.kernel.errors import KernelError
from cnm.kernel.rtnl import DeleteAddress, DeleteLink, Link, Rtnl, Step
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.messages.endpoint import StaticRoute
from cnm.types import Interface
from cnm_driver_bridge import bridge, plug
from cnm_driver_bridge.announce import Announcer, ReplaceNeighbour
from cnm_driver_bridge.bridge import BridgeFound, BridgeStep, Setting, marked
from cnm_driver_bridge.ports import Rules

PLAN_ROUNDS = 4
MACS_REMEMBERED = 65_536
LOCAL_PATIENCE_S = 0.2
LOCAL_LOOK_S = 0.0002


class Host:
    """The host's side of every endpoint; it remembers which bridges stand, so that plugging asks nothing."""

    def __init__(self, rtnl: Rtnl, rules: Rules, announcer: Announcer) -> None:
        self._rtnl = rtnl
        self._rules = rules
        self._announcer = announcer
        self._unwritable: set[str] = set()
        self._macs: OrderedDict[tuple[str, Interface], str] = OrderedDict()
        self._standing: dict[str, tuple[BridgeNetwork, int]] = {}

    def drops(self) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        """Return what was refused or dropped, packets and bytes, by the network's short id and the reason."""
        return self._rules.drops()

    def ensure(self, network: BridgeNetwork, gone: Sequence[Interface] = ()) -> list[str]:
        """Make a network's bridge and rules stand; return the steps that it took.

        Addresses that are ``gone`` from the network are taken from its bridge.

        Raises:
            Invalid: no bridge could be like that.
            Conflict: its name is a device's that is no bridge, or another network's.
            Unsupported: the kernel lacks a setting that it needs.

        """
        bridge.check(network)
        bridge.plan_bridge(network, self._look(network))  # refuse before anything is changed
        # Rules first: a bridge is never up without them.
        made = self._rules.ensure(network)
        try:
            return [*made, *self._ensure_link(network, gone)]
        except CnmError:
            standing = self._standing.get(network.network_id)
            if standing is not None:  # the network was there already, and stays as it was
                with suppress(CnmError):  # the first error is the one to tell
                    self._rules.ensure(standing[0])
            elif made:
                self._rules.remove(network.network_id)
            raise

    def ensure_link(self, network: BridgeNetwork) -> list[str]:
        """Make a network's bridge stand, its rules aside; return the steps that it took."""
        bridge.check(network)
        return self._ensure_link(network)

    def remove(self, network: BridgeNetwork) -> int | None:
        """Remove a network's rules; return the index of the bridge to delete, or None where there is none of ours."""
        self._standing.pop(network.network_id, None)
        self._rules.remove(network.network_id)
        link = self._rtnl.link(network.bridge) if bridge.NAME_PATTERN.fullmatch(network.bridge) else None
        if link is not None and marked(link) is None:
            self._take_addresses(network, link)
        return link.index if link is not None and marked(link) == network.network_id else None

    def _take_addresses(self, network: BridgeNetwork, link: Link) -> None:
        """Take the addresses from a user's bridge that we gave it."""
        given = (each for each in self._rtnl.addresses(link.index) if each.protocol == bridge.ADDRESS_PROTOCOL)
        steps = [
            DeleteAddress(link.index, each.interface) for each in given if each.interface in network.bridge_addresses
        ]
        self._rtnl.send(*steps)

    def plug(self, attachment: Attachment) -> tuple[str, list[str]]:
        """Plug an endpoint into its sandbox; return the host's interface, and the steps that it took.

        The network's bridge comes first, if this process does not know that it stands.

        Raises:
            Invalid: no namespace is at the path, or the kernel refuses a value.
            Conflict: the sandbox has an interface of that name.
            Exhausted: the bridge has no port left.

        """
        network = attachment.network
        sysctls = plug.sysctls(attachment)
        with _namespace(attachment.namespace) as fd:
            standing = self._standing.get(network.network_id)
            taken: list[str] = []
            if attachment.check_routes:
                self._check_routes(attachment, fd)
            if standing is None or standing[0] != network:
                taken += self.ensure(network)
            try:
                name = self._plug(attachment, fd, sysctls, taken)
            except KernelError as error:
                if self._stands(network):
                    raise _translated(error, attachment) from error
                self._standing.pop(network.network_id, None)
                taken += self.ensure(network)
                with translating(attachment):
                    name = self._plug(attachment, fd, sysctls, taken)
        return name, taken

    def _check_routes(self, attachment: Attachment, fd: int) -> None:
        """Refuse addresses that the namespace has a route to by itself; what is plugged already stays.

        Raises:
            Conflict: the message names the route.

        """
        if self._find(attachment.endpoint_id) is not None:
            return
        with Rtnl.open(fd) as rtnl:
            found = plug.overlapping(attachment, rtnl.routes())
        if found is not None:
            address, route = found
            message = f"{address.network} of network {attachment.network.name!r} overlaps route {route.destination}"
            raise Conflict(f"{message} of {attachment.namespace}", namespace=attachment.namespace)

    def mend_endpoint(self, attachment: Attachment) -> list[str]:
        """Plug an endpoint, or mend what is there; where its namespace is not there yet, leave it."""
        return self.plug(attachment)[1] if _has_namespace(attachment.namespace) else []

    def compare_rules(
        self, networks: Sequence[BridgeNetwork], attachments: Sequence[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        """Return what `mend_rules` would do."""
        return self._rules.compare(networks, attachments, keep)

    def compare_bridge(self, network: BridgeNetwork) -> list[str]:
        """Return what `ensure_link` would do, as far as it shows now."""
        return [str(step) for step in bridge.plan_bridge(network, self._look(network))]

    def compare_endpoint(self, attachment: Attachment) -> list[str]:
        """Return what `mend_endpoint` would do, as far as it shows now."""
        if not _has_namespace(attachment.namespace):
            return []
        link, there = self._find(attachment.endpoint_id), self._rtnl.link(attachment.network.bridge)
        with _namespace(attachment.namespace) as fd, Rtnl.open(fd) as rtnl:
            inside = _look_inside(rtnl, attachment)
        if link is None or inside is None or not _is_pair(link, inside.link):
            name = next(iter(plug.host_names(attachment.endpoint_id)))
            return [f"ip link add dev {name} type veth peer name {attachment.ifname} in {attachment.namespace}"]
        host = plug.plan_host(attachment.endpoint_id, attachment.network, link, bridge=there.index if there else 0)
        return [str(step) for step in (*host, *plug.plan_inside(attachment, inside))]

    def unplug(self, endpoint_id: str) -> int | None:
        """Close an endpoint's ports; return the index of the link to delete, or None where there is none."""
        self._rules.close_ports(endpoint_id)
        link = self._find(endpoint_id)
        return None if link is None else link.index

    def links(self) -> list[Link]:
        """Return every link of the host."""
        return self._rtnl.links()

    def count_links(self) -> list[Link]:
        """Return every link of the host, with its counters."""
        return self._rtnl.links(statistics=True)

    def mend_rules(
        self, networks: Sequence[BridgeNetwork], attachments: Sequence[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        """Make exactly the rules of these networks and endpoints stand, but leave alone those of the ids to keep."""
        known = {*keep, *(network.network_id for network in networks)}
        self._standing = {identity: found for identity, found in self._standing.items() if identity in known}
        return self._rules.converge(networks, attachments, keep)

    def _ensure_link(self, network: BridgeNetwork, gone: Sequence[Interface] = ()) -> list[str]:
        taken: list[str] = []
        applied: list[BridgeStep] = []
        try:
            for _ in range(PLAN_ROUNDS):
                found = self._look(network)
                steps = bridge.plan_bridge(network, found, gone)
                if not steps and found.link is not None:
                    if taken:
                        _await_local(self._rtnl, network.bridge_addresses)
                    self._standing[network.network_id] = (network, found.link.index)
                    return taken
                for step in steps:
                    self._carry_out(step)
                    applied.append(step)
                    taken.append(str(step))
            raise Unavailable(f"bridge {network.bridge} does not come to be: {', '.join(taken[-3:])}")
        except (CnmError, KernelError) as error:
            for step in reversed(applied):
                self._take_back(step)
            if isinstance(error, KernelError):
                raise _translated(error) from error
            raise

    def _look(self, network: BridgeNetwork) -> BridgeFound:
        link = self._rtnl.link(network.bridge)
        addresses = [] if link is None else self._rtnl.addresses(link.index)
        names = {setting.name for ours in (True, False) for setting in bridge.settings(network, ours=ours)}
        found = ((name, _read(name)) for name in names - self._unwritable)
        return BridgeFound(
            link=link,
            addresses=frozenset(address.interface for address in addresses),
            given=frozenset(each.interface for each in addresses if each.protocol == bridge.ADDRESS_PROTOCOL),
            settings={name: value for name, value in found if value is not None},
        )

    def _carry_out(self, step: BridgeStep) -> None:
        if not isinstance(step, Setting):
            self._rtnl.send(step)
            return
        version = bridge.opens_forwarding(step)
        if version is not None:
            self._rules.close_forwarding([version])  # what was not forwarded before us still is not
        try:
            sysctl.write(step.name, step.value)
        except Unsupported:
            if step.required:
                raise
            self._unwritable.add(step.name)  # of no use to plan it again

    def _take_back(self, step: BridgeStep) -> None:
        back = bridge.undo(step)
        if back is None:
            return
        try:
            self._carry_out(back)
            version = bridge.opens_forwarding(step) if isinstance(step, Setting) else None
            if version is not None:
                self._rules.reopen_forwarding([version])
        except (CnmError, KernelError):
            return  # the first error is the one to tell; a later pass mends the rest

    def _stands(self, network: BridgeNetwork) -> bool:
        standing = self._standing.get(network.network_id)
        link = self._rtnl.link(network.bridge)
        return standing is not None and link is not None and link.index == standing[1]

    def _plug(self, attachment: Attachment, fd: int, sysctls: dict[str, str], taken: list[str]) -> str:
        index = self._standing[attachment.network.network_id][1]
        for name in plug.host_names(attachment.endpoint_id):
            step = plug.create(attachment, name, bridge=index, namespace_fd=fd)
            try:
                made = self._rtnl.send(step)[0]
            except KernelError as error:
                if error.errno != errno.EEXIST:
                    raise
                there = self._clear(name)
                if there is None or marked(there) == attachment.endpoint_id:
                    return self._replug(attachment, fd, sysctls, taken)
                continue
            if made is None:
                raise Unavailable(f"the kernel made {name} without telling of it")
            taken.append(str(step))
            self._complete(attachment, made, index, fd, sysctls, taken)
            return name
        raise Exhausted(f"every name for the link of endpoint {attachment.endpoint_id} is taken")

    def _complete(
        self, attachment: Attachment, made: Link, index: int, fd: int, sysctls: dict[str, str], taken: list[str]
    ) -> None:
        """Finish a pair that was made this moment, or take it back."""
        host = plug.plan_host(attachment.endpoint_id, attachment.network, made, bridge=index)
        inside = plug.plan_inside(attachment, plug.newborn(attachment, made.peer))
        try:
            self._rtnl.send(*host)
            self._finish_inside(attachment, fd, sysctls, lambda rtnl: rtnl.send(*inside))
            _settle(self._rtnl, made.index)
            _settle(self._rtnl, index)
            opened = self._rules.open_ports(attachment)
        except (CnmError, KernelError):
            self._rtnl.send(DeleteLink(made.index))
            raise
        taken += (*map(str, (*host, *inside)), *opened)

    def _finish_inside(
        self, attachment: Attachment, fd: int, sysctls: dict[str, str], send: Callable[[Rtnl], object]
    ) -> None:
        with netns.inside(fd):
            if plug.needs_ipv6(attachment):
                sysctl.write(plug.ipv6_setting(attachment), "0")
            for name, value in sysctls.items():
                sysctl.write(name, value)
            with Rtnl.open() as rtnl:
                send(rtnl)
                _settle(rtnl, attachment.ifname)
                _await_local(rtnl, plug.wanted_addresses(attachment))
        self._tell_neighbours(attachment)

    def _tell_neighbours(self, attachment: Attachment) -> None:
        """Tell of addresses that another MAC had when this process last saw them."""
        network, mac = attachment.network, attachment.mac_address.lower()
        moved: list[Interface] = []  # or all of them, where the network says so
        for address in plug.wanted_addresses(attachment):
            key = (network.network_id, address)
            if network.announcements or (network.announcements is None and self._macs.get(key, mac) != mac):
                moved.append(address)
            self._macs[key] = mac
            self._macs.move_to_end(key)
        while len(self._macs) > MACS_REMEMBERED:
            self._macs.popitem(last=False)
        if moved:
            index = self._standing[network.network_id][1]
            self._rtnl.send(*(ReplaceNeighbour(index, address.ip, mac) for address in moved))
            self._announcer.announce(network.bridge, mac, moved)

    def announce(self, attachment: Attachment) -> None:
        """Tell all neighbours of an endpoint's addresses once more."""
        mac = attachment.mac_address.lower()
        self._announcer.announce(attachment.network.bridge, mac, plug.wanted_addresses(attachment))

    def _clear(self, name: str) -> Link | None:
        """Return the link of a name; one that a crash left half made is deleted first."""
        link = self._rtnl.link(name)
        if link is not None and link.group == plug.GROUP and not link.alias:
            self._rtnl.send(DeleteLink(link.index))
            return None
        return link

    def _find(self, endpoint_id: str) -> Link | None:
        for name in plug.host_names(endpoint_id):
            link = self._rtnl.link(name)
            if link is not None and marked(link) == endpoint_id:
                return link
        return None

    def _replug(self, attachment: Attachment, fd: int, sysctls: dict[str, str], taken: list[str]) -> str:
        """Mend what is there of an endpoint; what is not a pair with its sandbox's interface is made anew."""
        link = self._find(attachment.endpoint_id)
        index = self._standing[attachment.network.network_id][1]
        with Rtnl.open(fd) as rtnl:
            inside = _look_inside(rtnl, attachment)
            if link is not None and inside is not None and _is_pair(link, inside.link):
                host_steps = plug.plan_host(attachment.endpoint_id, attachment.network, link, bridge=index)
                inner_steps = plug.plan_inside(attachment, inside)
                self._rtnl.send(*host_steps)
                if inner_steps:
                    self._finish_inside(attachment, fd, sysctls, lambda inner: inner.send(*inner_steps))
                if host_steps or inner_steps:
                    _settle(self._rtnl, link.index)
                    _settle(self._rtnl, index)
                    _settle(rtnl, inside.link.index)
                taken += (*map(str, (*host_steps, *inner_steps)), *self._rules.open_ports(attachment))
                return link.name
        if link is None:
            if inside is None:  # what stood in the way was the rest of a crash, and is gone
                return self._plug(attachment, fd, sysctls, taken)
            message = f"{attachment.namespace} has an interface {attachment.ifname} already"
            raise Conflict(message, ifname=attachment.ifname, namespace=attachment.namespace)
        self._rtnl.send(DeleteLink(link.index))
        taken.append(str(DeleteLink(link.name)))
        return self._plug(attachment, fd, sysctls, taken)


def _settle(rtnl: Rtnl, link: int | str) -> None:
    """Let a link carry packets now, rather than when the kernel's link watch comes round to it.

    Until then a bridge's new port does not forward, and a bridge whose first port has come does not send: the first
    ARP request or its answer is lost, and the next is a second away. Since Linux 6.8 the question for a link has a
    change of its carrier carried out first (``linkwatch_sync_dev``).
    """
    rtnl.link(link)


def _await_local(rtnl: Rtnl, addresses: Iterable[Interface]) -> None:
    """Wait until packets to IPv6 addresses are taken: the kernel sees to that after it said that they are added.

    Until then the answer to the endpoint's first neighbour solicitation is dropped, and the next is a second away.
    """
    deadline = time.monotonic() + LOCAL_PATIENCE_S
    for address in addresses:
        while address.version == 6 and not rtnl.is_local(address.ip) and time.monotonic() < deadline:
            time.sleep(LOCAL_LOOK_S)


def _is_pair(link: Link, inside: Link) -> bool:
    return link.kind == inside.kind == "veth" and link.peer == inside.index and inside.peer == link.index


def _look_inside(rtnl: Rtnl, attachment: Attachment) -> plug.Inside | None:
    link = rtnl.link(attachment.ifname)
    if link is None:
        return None
    loopback = rtnl.link(plug.LOOPBACK)
    routes = [route for route in rtnl.routes() if route.index == link.index]
    defaults = (route for route in routes if route.destination.prefixlen == 0)
    return plug.Inside(
        link,
        loopback_up=loopback is not None and loopback.up,
        addresses=frozenset(address.interface for address in rtnl.addresses(link.index)),
        defaults=frozenset(route.gateway for route in defaults if route.gateway is not None),
        routes=frozenset(StaticRoute(destination=route.destination, gateway=route.gateway) for route in routes),
    )


def _read(name: str) -> str | None:
    try:
        return sysctl.read(name)
    except Unsupported:
        return None


def _has_namespace(path: str) -> bool:
    try:
        return netns.is_namespace(Path(path))
    except OSError:
        return False


@contextmanager
def _namespace(path: str) -> Iterator[int]:
    """Hold a namespace open for the block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if _has_namespace(path) else -1
    except OSError:
        fd = -1
    if fd < 0:
        raise Invalid.at("attachment.namespace", path, f"no network namespace is at {path}")
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def translating(attachment: Attachment | None = None) -> Iterator[None]:
    """Turn what the kernel refuses in the block into the errors that a caller knows."""
    try:
        yield
    except KernelError as error:
        raise _translated(error, attachment) from error


def _translated(error: KernelError, attachment: Attachment | None = None) -> CnmError:
    match error.errno:
        case errno.EEXIST | errno.EBUSY | errno.EADDRINUSE:
            return Conflict(str(error))
        case errno.EINVAL | errno.ERANGE | errno.EADDRNOTAVAIL | errno.ENETUNREACH | errno.EHOSTUNREACH:
            return Invalid(str(error))
        case errno.EXFULL if attachment is not None:
            return Exhausted(f"bridge {attachment.network.bridge} has no port left: {error}")
        case errno.EOPNOTSUPP | errno.EAFNOSUPPORT | errno.EPROTONOSUPPORT:
            return Unsupported(str(error))
        case _:
            return Unavailable(str(error))


def bury(rtnl: Rtnl, steps: Sequence[Step]) -> None:
    """Delete links as told; those that are gone already are fine.

    Raises:
        CnmError: the kernel refuses.

    """
    try:
        rtnl.send(*steps)
    except KernelError as error:
        # The kernel carried out the steps after this one all the same.
        if error.errno != errno.ENODEV:
            raise _translated(error) from error
