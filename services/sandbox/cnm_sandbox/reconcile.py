"""From what a node's sandboxes are to what the slice says they should be."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import structlog

from cnm.drift import shortened
from cnm.errors import CnmError
from cnm.messages.drift import Difference
from cnm.messages.namespace import SandboxSpec
from cnm.messages.node import SandboxSlice
from cnm.touched import Touched
from cnm_sandbox.handlers import check
from cnm_sandbox.namespace import HOST
from cnm_sandbox.ports import Found, Node
from cnm_sandbox.rounds import Rounds

log = structlog.get_logger()


@dataclass(frozen=True)
class Repair:
    """Something that was not as it should be; ``steps`` is what was done about it, as text."""

    id: str
    steps: Sequence[str]


@dataclass(frozen=True)
class Converged:
    """What a comparison led to; ``failed`` holds which sandboxes (or ``strays``) could not be put right, and why."""

    repaired: Sequence[Repair] = ()
    failed: Sequence[tuple[str, str]] = ()

    def lines(self) -> tuple[str, ...]:
        """Write what was done, a line a step."""
        return tuple(f"{repair.id}: {step}" for repair in self.repaired for step in repair.steps)

    def differences(self, wanted: SandboxSlice, *, repaired: bool) -> list[Difference]:
        """Return the same, to be told to others."""
        names = {sandbox.sandbox_id: sandbox.name for sandbox in wanted.sandboxes}

        def difference(identity: str, value: str, reason: str | None = None) -> Difference:
            name = names.get(identity)
            return Difference(
                worker="", what="sandbox" if name else "stray sandbox",
                about=f"sandbox {name or identity}", id=identity if name else "",
                value=value, repaired=repaired and reason is None, reason=reason,
            )  # fmt: skip

        return [
            *(difference(each.id, step) for each in self.repaired for step in shortened(each.steps)),
            *(difference(identity, "cannot be mended", reason) for identity, reason in self.failed),
        ]


@dataclass(frozen=True)
class Strays:
    """What nobody owns: namespaces by path, directories by sandbox id."""

    namespaces: Sequence[str]
    directories: Sequence[str]


def strays(found: Found, wanted: SandboxSlice) -> Strays:
    """Say which of what we left belongs to no sandbox of the slice, and to none that is being changed."""
    namespaces = {sandbox.namespace for sandbox in wanted.sandboxes}
    owners = {sandbox.sandbox_id for sandbox in wanted.sandboxes} | set(wanted.busy)
    prefixes = {PurePath(path).name[:12] for path in namespaces} | {owner[:12] for owner in wanted.busy}
    return Strays(
        sorted(path for path in found.namespaces - namespaces if PurePath(path).name not in prefixes),
        sorted(found.directories - owners),
    )


async def converge(wanted: SandboxSlice, *, node: Node, touched: Touched, asked: int, rounds: Rounds) -> Converged:
    """Make every sandbox of the slice stand, and remove what no sandbox owns.

    What a command touched since the slice was ``asked`` for is left alone. One sandbox that cannot be put right
    does not keep the others from it. A slice that is ``unchanged`` says nothing, and nothing is done. The sandboxes
    that ``rounds`` chooses are looked at.
    """
    if wanted.unchanged:
        return Converged()
    repaired: list[Repair] = []
    failed: list[tuple[str, str]] = []
    busy = frozenset(wanted.busy)
    idle = [
        sandbox
        for sandbox in wanted.sandboxes
        if sandbox.sandbox_id not in busy and not touched.since(asked, sandbox.sandbox_id, sandbox.namespace)
    ]
    glances = await node.glance(idle)
    expected = {sandbox.sandbox_id: (sandbox, glances[sandbox.sandbox_id]) for sandbox in idle}
    for sandbox_id in rounds.turn(expected):
        sandbox = expected[sandbox_id][0]
        if touched.since(asked, sandbox.sandbox_id, sandbox.namespace):
            rounds.failed(sandbox_id)
            continue
        try:
            steps = await _converge_one(sandbox, node, touched, asked)
            rounds.own(sandbox_id, await node.namespace_id(sandbox.namespace))
        except (CnmError, OSError) as error:
            log.warning("sandbox.not_repaired", sandbox_id=sandbox.sandbox_id, error=str(error))
            failed.append((sandbox.sandbox_id, str(error)))
            rounds.failed(sandbox_id)
        else:
            if steps:
                repaired.append(Repair(sandbox.sandbox_id, steps))
    try:
        repaired.extend(await _sweep(wanted, node, touched, asked))
    except (OSError, ExceptionGroup) as error:
        log.warning("sandbox.strays_not_removed", error=str(error))
        failed.append(("strays", str(error)))
    return Converged(repaired, failed)


async def _converge_one(sandbox: SandboxSpec, node: Node, touched: Touched, asked: int) -> Sequence[str]:
    check(sandbox)
    steps = list(await node.ensure(sandbox))
    if touched.since(asked, sandbox.sandbox_id, sandbox.namespace):
        return steps
    if sandbox.namespace != HOST and not sandbox.pending and (sandbox.gateways or not sandbox.adopted):
        # an adopted namespace may lead out by itself until one of our networks does
        steps.extend(await node.route(sandbox.namespace, sandbox.gateways, patient=True))
    return steps


async def _sweep(wanted: SandboxSlice, node: Node, touched: Touched, asked: int) -> list[Repair]:
    found = strays(await node.list_ours(), wanted)
    namespaces = [path for path in found.namespaces if not touched.since(asked, path)]
    directories = [sandbox_id for sandbox_id in found.directories if not touched.since(asked, sandbox_id)]
    if not namespaces and not directories:
        return []
    await node.sweep(namespaces, directories)
    return [
        *(Repair(PurePath(path).name, (f"ip netns del {path}",)) for path in namespaces),
        *(Repair(sandbox_id, ("remove its files",)) for sandbox_id in directories),
    ]
