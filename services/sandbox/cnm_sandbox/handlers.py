"""One function a command, and which of them answers what."""

from collections.abc import Sequence
from functools import partial

from cnm.bus import Route
from cnm.errors import Invalid
from cnm.messages.message import Empty
from cnm.messages.namespace import (
    CountNamespace,
    EnsureSandbox,
    LookAtPort,
    NamespaceCounters,
    PortSight,
    RemoveSandbox,
    RouteSandbox,
    SandboxSpec,
)
from cnm.touched import Touched
from cnm_sandbox import resolv
from cnm_sandbox.namespace import HOST, sysctl_faults
from cnm_sandbox.ports import Node


def check(spec: SandboxSpec) -> None:
    """Refuse what no namespace could have.

    Raises:
        Invalid: a setting that is not of a network namespace, or a malformed option; it lists all of them.

    """
    faults = (
        *resolv.option_faults(spec.options),
        *sysctl_faults(spec.sysctls, host=spec.namespace == HOST),
    )
    if faults:
        raise Invalid.of(faults)


async def ensure_sandbox(command: EnsureSandbox, *, node: Node, touched: Touched) -> Empty:
    """Make a sandbox's namespace and files stand as told.

    Raises:
        Invalid: a setting or an option is malformed, or what it should adopt is not a namespace.
        Conflict: something else is where the namespace should be.
        Unsupported: the kernel lacks a setting.

    """
    check(command.sandbox)
    touched.touch(command.sandbox.sandbox_id, *_own(command.sandbox.namespace))
    await node.ensure(command.sandbox)
    return Empty()


async def route_sandbox(command: RouteSandbox, *, node: Node, touched: Touched) -> Empty:
    """Make the default routes exactly those told.

    Raises:
        NotFound: no such namespace, or no such interface in it.
        Invalid: a gateway cannot be reached over its interface.

    """
    touched.touch(*_own(command.namespace))
    await node.route(command.namespace, command.gateways)
    return Empty()


async def remove_sandbox(command: RemoveSandbox, *, node: Node, touched: Touched) -> Empty:
    """Remove a sandbox's files, and its namespace if we made it; what is gone is fine."""
    touched.touch(command.sandbox.sandbox_id, *_own(command.sandbox.namespace))
    await node.remove(command.sandbox)
    return Empty()


async def count_namespace(command: CountNamespace, *, node: Node) -> NamespaceCounters:
    """Read the counters of a namespace's interfaces.

    Raises:
        NotFound: no such namespace.

    """
    return await node.count(command.namespace)


async def look_at_port(command: LookAtPort, *, node: Node) -> PortSight:
    """Look who listens on a port of a namespace.

    Raises:
        NotFound: no such namespace.

    """
    return await node.look(command.namespace, command.protocol, command.port)


def _own(namespace: str) -> Sequence[str]:
    """Return a namespace to be noted as touched; the host's is everybody's and is not."""
    return () if namespace == HOST else (namespace,)


def routes(*, node: Node, touched: Touched) -> Sequence[Route]:
    """Say who answers what; commands about one namespace are answered one after another."""
    return (
        Route(
            command=EnsureSandbox,
            handler=partial(ensure_sandbox, node=node, touched=touched),
            order_by=lambda command: command.sandbox.namespace,
        ),
        Route(
            command=RouteSandbox,
            handler=partial(route_sandbox, node=node, touched=touched),
            order_by=lambda command: command.namespace,
        ),
        Route(
            command=RemoveSandbox,
            handler=partial(remove_sandbox, node=node, touched=touched),
            order_by=lambda command: command.sandbox.namespace,
        ),
        Route(command=CountNamespace, handler=partial(count_namespace, node=node)),
        Route(command=LookAtPort, handler=partial(look_at_port, node=node)),
    )
