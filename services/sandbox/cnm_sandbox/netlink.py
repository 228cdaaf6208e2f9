"""Namespaces and their default routes in the kernel; every function blocks and may move its thread."""

import dataclasses
import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cnm.errors import CnmError, Conflict, Internal, Invalid, NotFound, Unsupported
from cnm.kernel import netns, sockdiag, sysctl
from cnm.kernel.errors import KernelError
from cnm.kernel.rtnl import LOOPBACK, Rtnl, SetLink
from cnm.messages.namespace import Gateway, InterfaceCounters, NamespaceCounters, PortSight, SandboxSpec
from cnm.types import Protocol
from cnm_sandbox import gateway
from cnm_sandbox.namespace import (
    ABSENT,
    LoopbackUp,
    MakeNamespace,
    Observed,
    SetSysctl,
    Step,
    sysctl_path,
)

IPV6_LOOPBACK = "::1"


def refuse_own(path: Path) -> None:
    """Refuse the namespace that we run in, however it is called: what is done to a sandbox would be done to the node.

    Raises:
        Invalid: it is ours.
        FileNotFoundError: there is no such path.

    """
    if os.path.samestat(path.stat(), os.stat(netns.CURRENT)):  # noqa: PTH116  # /proc/thread-self is no file to keep
        raise Invalid.at("netns", str(path), f"{path} is the node's own network namespace: use_default_sandbox")


def check_adopted(path: Path) -> None:
    """Refuse to adopt what is not a namespace of somebody else's.

    Raises:
        Invalid: it is relative, missing, no network namespace, or the node's own; the message names the path.

    """
    if not path.is_absolute():
        raise Invalid.at("netns", str(path), f"{path} is not an absolute path")
    try:
        if not netns.is_namespace(path):
            # a file that vanished in between reads as "not a namespace", which is as true
            reason = "is not a network namespace" if path.exists() else "does not exist"
            raise Invalid.at("netns", str(path), f"{path} {reason}")
        refuse_own(path)
    except OSError as error:
        raise Invalid.at("netns", str(path), f"{path}: {os.strerror(error.errno or errno.EIO)}") from None


def namespace_id(path: Path) -> int | None:
    """Return the id that a namespace has in the thread's own; None where it is gone, or cannot be had."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with Rtnl.open() as rtnl:
            return rtnl.namespace_id(fd)
    except KernelError:
        return None  # it is looked at in turn all the same
    finally:
        os.close(fd)


def adopt(spec: SandboxSpec, ours: Path) -> list[str]:
    """Have a sandbox's namespace where it should be; return what had to be done, as text.

    Once it is there it stays, whatever becomes of where it came from.

    Raises:
        Invalid: where it comes from is no network namespace of somebody else's.
        Conflict: another sandbox has it, among ``ours``; or something else is in the way.

    """
    path, source = Path(spec.namespace), Path(spec.source or spec.namespace)
    if source == path or not netns.is_namespace(path):
        check_adopted(source)
    if source == path or netns.is_namespace(path):
        refuse_own(path)
        return []
    wanted = source.stat()
    for other in ours.glob("*"):
        if netns.is_namespace(other) and os.path.samestat(other.stat(), wanted):
            raise Conflict(f"namespace {source} is that of sandbox {other.name}", holder=other.name)
    try:
        netns.adopt(source, path)
    except FileExistsError:
        raise Conflict(f"{path} is in the way of a namespace, and is none", path=str(path)) from None
    return [f"mount --bind {source} {path}"]


def abandon(path: Path) -> list[str]:
    """Have no namespace at a path; return what had to be done, as text."""
    if not netns.is_namespace(path):
        return []
    netns.remove(path)
    return [f"umount {path}"]


def count(path: Path) -> NamespaceCounters:
    """Read the counters of a namespace's interfaces but the loopback, by name.

    Raises:
        NotFound: no such namespace.

    """
    _check_there(path)
    with Rtnl.open(path) as rtnl:
        links = rtnl.links(statistics=True)
    return NamespaceCounters(
        interfaces=[
            InterfaceCounters(ifname=link.name, **dataclasses.asdict(counted))
            for link in sorted(links, key=lambda each: each.name)
            if link.index != LOOPBACK and (counted := link.statistics) is not None
        ]
    )


def _check_there(path: Path) -> None:
    if not netns.is_namespace(path):
        raise NotFound(f"there is no network namespace at {path}", path=str(path))


def look(path: Path | None, protocol: Protocol, port: int) -> PortSight:
    """Look who listens on a port of a namespace, None being our own, and which addresses it has.

    Raises:
        NotFound: no such namespace.

    """
    if path is None:
        return _look(protocol, port)
    _check_there(path)
    with netns.inside(path):
        return _look(protocol, port)


def _look(protocol: Protocol, port: int) -> PortSight:
    with Rtnl.open() as rtnl:
        addresses = [each.interface.ip for each in rtnl.addresses()]
    found = sockdiag.listening(protocol, port)
    holder = sockdiag.find_holder(protocol, None, port) if found else None
    return PortSight(addresses=addresses, listening=found, holder=None if holder is None else str(holder))


def observe(spec: SandboxSpec) -> Observed:
    """Look at a sandbox's namespace."""
    path = Path(spec.namespace)
    if not netns.is_namespace(path):
        return ABSENT
    refuse_own(path)
    with Rtnl.open(path) as rtnl:
        loopback = rtnl.link(LOOPBACK)
        addresses = rtnl.addresses(LOOPBACK)
    sysctls = {}
    for name in map(sysctl_path, spec.sysctls):
        with suppress(Unsupported):  # the plan writes it, and that is what is refused
            sysctls[name] = sysctl.read(name, path)
    return Observed(
        exists=True,
        loopback_up=loopback is not None and loopback.up,
        loopback_ipv6=any(str(address.interface.ip) == IPV6_LOOPBACK for address in addresses),
        sysctls=sysctls,
    )


def apply(path: Path, steps: Sequence[Step]) -> None:
    """Carry out a plan; a namespace that it made is removed again when a later step fails.

    Raises:
        Conflict: something that is not a namespace is at the path.
        Invalid: the kernel refuses a setting's value.
        Unsupported: the kernel lacks a setting, or does not let it be changed here.

    """
    made = bool(steps) and isinstance(steps[0], MakeNamespace)
    if made:
        make(path)
        steps = steps[1:]
    if not steps:
        return
    try:
        with netns.inside(path):
            for step in steps:
                _carry_out(step)
    except BaseException:
        if made:
            netns.remove(path)
        raise


def make(path: Path) -> None:
    """Make a namespace at a path.

    Raises:
        Conflict: something that is not a namespace is there.

    """
    try:
        netns.create(path)
    except FileExistsError:
        raise Conflict(f"{path} is in the way of a namespace, and is none", path=str(path)) from None


def _carry_out(step: Step) -> None:
    match step:
        case SetSysctl(name=name, value=value, optional=optional):
            try:
                _write(name, value)
            except Unsupported:
                if not optional:
                    raise
        case LoopbackUp():
            with Rtnl.open() as rtnl:
                rtnl.send(SetLink(LOOPBACK, up=True))
        case MakeNamespace(path=path):
            make(path)


def _write(name: str, value: str) -> None:
    try:
        sysctl.write(name, value)
    except KernelError as error:
        field = "sysctls." + name.translate(str.maketrans("./", "/."))
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Unsupported(f"{name} cannot be changed in a namespace of this kernel") from None
        if error.errno in (errno.EINVAL, errno.ERANGE):
            raise Invalid.at(field, value, f"the kernel refuses {value!r} for {name}") from None
        raise


def route(
    path: Path, gateways: Sequence[Gateway], *, patient: bool = False, look_only: bool = False
) -> tuple[gateway.Step, ...]:
    """Make the default routes of a namespace exactly these, and return what had to be done.

    ``patient`` leaves a family alone whose interface is not there yet; with ``look_only`` nothing is changed.

    Raises:
        NotFound: no such namespace, or no such interface in it.
        Invalid: a gateway cannot be reached over its interface, or the namespace is the node's own.

    """
    if not netns.is_namespace(path):
        if not gateways:
            return ()
        raise NotFound(f"there is no network namespace at {path}", path=str(path))
    refuse_own(path)
    with Rtnl.open(path) as rtnl:
        found = {each.ifname: rtnl.link(each.ifname) for each in gateways}
        hops, missing = gateway.find(gateways, {name: link.index for name, link in found.items() if link})
        if missing and not patient:
            raise NotFound(f"there is no interface {missing[0].ifname} in {path}", interface=missing[0].ifname)
        waiting = {each.address.version for each in missing}
        steps = gateway.plan(hops, rtnl.routes(), versions=[each for each in (4, 6) if each not in waiting])
        try:
            rtnl.send(*(() if look_only else steps))
        except KernelError as error:
            raise _explain(error, path) from error
    return steps


def _explain(error: KernelError, path: Path) -> CnmError:
    text = f"{path}: {error}"
    match error.errno:
        case errno.ENETUNREACH | errno.EHOSTUNREACH | errno.EINVAL:
            return Invalid.at("gateways", error.step, f"the gateway is out of its interface's reach: {text}")
        case errno.ENETDOWN | errno.ENODEV:
            return NotFound(f"the gateway's interface is down or gone: {text}")
        case errno.EACCES | errno.EAFNOSUPPORT | errno.EOPNOTSUPP:
            return Unsupported(f"the kernel refuses the route: {text}")
        case _:
            return Internal(text)
