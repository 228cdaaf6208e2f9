"""What a sandbox's namespace should be, and the steps from what it is.

IPv6 is off in a new namespace: nothing is flooded to sandboxes that have no use for it, and an interface's driver
turns it on for the interface it brings. The loopback has ``::1`` while the sandbox is on an IPv6 network.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cnm.errors import Fault
from cnm.messages.namespace import SandboxSpec

HOST = "host"

_PART = re.compile(r"(?!\.\.?$)[^/\s\x00]+")


@dataclass(frozen=True)
class Observed:
    """A namespace as it is.

    ``loopback_ipv6`` is whether its loopback has ``::1``; ``sysctls`` holds what the wanted ones are, by path.
    """

    exists: bool
    loopback_up: bool = False
    loopback_ipv6: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)


ABSENT = Observed(exists=False)


@dataclass(frozen=True)
class MakeNamespace:
    """Make a namespace, its loopback down."""

    path: Path

    def __str__(self) -> str:
        return f"ip netns add {self.path}"


@dataclass(frozen=True)
class SetSysctl:
    """Change a setting inside; one that is ``optional`` may be absent from the kernel."""

    name: str
    value: str
    optional: bool = False

    def __str__(self) -> str:
        return f"sysctl -w {self.name}={self.value}"


@dataclass(frozen=True)
class LoopbackUp:
    """Set the loopback up."""

    def __str__(self) -> str:
        return "ip link set dev lo up"


Step = MakeNamespace | SetSysctl | LoopbackUp


def plan(spec: SandboxSpec, observed: Observed) -> tuple[Step, ...]:
    """Return the steps that make a namespace stand as told.

    The kernel copies ``all`` to ``default`` and to every interface there is, so that one write, the most dear of
    all steps, turns IPv6 off. An adopted namespace's IPv6 is its maker's, except that a loopback gets ``::1``
    when it is needed.
    """
    steps: list[Step] = []
    loopback_ipv6 = observed.loopback_ipv6
    if not observed.exists:
        steps.append(MakeNamespace(Path(spec.namespace)))
        scope = "default" if spec.enable_ipv6 else "all"
        steps.append(SetSysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1", optional=not spec.enable_ipv6))
        loopback_ipv6 = spec.enable_ipv6
    if spec.enable_ipv6 != loopback_ipv6 and (spec.enable_ipv6 or not spec.adopted):
        steps.append(SetSysctl("net/ipv6/conf/lo/disable_ipv6", "0" if spec.enable_ipv6 else "1"))
    for name, value in spec.sysctls.items():
        path = sysctl_path(name)
        if observed.sysctls.get(path, "").split() != value.split():
            steps.append(SetSysctl(path, value))
    if not observed.loopback_up:
        steps.append(LoopbackUp())
    return tuple(steps)


def sysctl_path(name: str) -> str:
    """Write a name with slashes; as in sysctl(8), its first separator tells whether it has dots or slashes."""
    if name.partition("/")[0].count("."):
        return name.translate(str.maketrans("./", "/."))
    return name


def sysctl_faults(sysctls: Mapping[str, str], *, host: bool) -> tuple[Fault, ...]:
    """Say which settings may not be made: those that are not of a network namespace, and any of the node's own."""
    return tuple(
        Fault(field=f"sysctls.{name}", value=value, reason=reason)
        for name, value in sysctls.items()
        if (reason := _refusal(name, value, host=host))
    )


def _refusal(name: str, value: str, *, host: bool) -> str:
    first, *rest = sysctl_path(name).split("/")
    if first != "net" or len(rest) < 2 or not all(map(_PART.fullmatch, rest)):
        return f"{name!r} is not a setting of a network namespace, whose names begin with net."
    if host:
        return f"{name} would change the node itself, whose namespace this sandbox shares"
    if not value.strip() or "\0" in value or "\n" in value:
        return f"{value!r} is not a value for {name}"
    return ""
