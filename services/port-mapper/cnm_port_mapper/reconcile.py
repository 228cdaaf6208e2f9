"""From what a node's ports are to what they should be: after a start, a lost message, somebody's flush."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnm.drift import SHOWN
from cnm.errors import CnmError
from cnm.messages.drift import Difference
from cnm.messages.node import PortSlice
from cnm_port_mapper.mapper import PortMapper
from cnm_port_mapper.rules import Remake, Step

NODE = ("the node's firewall", "")
"""How messages call what is nobody's but the node's, and the id that stands for it."""


@dataclass(frozen=True)
class Convergence:
    """What it took; ``problems`` holds, by sandbox, what could not be made so."""

    closed: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    repaired: tuple[Step | Remake, ...] = ()
    problems: tuple[tuple[str, CnmError], ...] = ()

    def lines(self) -> list[str]:
        """Tell of it in words."""
        return [
            *(f"closed the ports of sandbox {sandbox_id}" for sandbox_id in self.closed),
            *(f"published the ports of sandbox {sandbox_id}" for sandbox_id in self.published),
            *(str(step) for step in self.repaired),
            *(f"sandbox {sandbox_id}: {error}" for sandbox_id, error in self.problems),
        ]

    def differences(self, slice: PortSlice) -> list[Difference]:
        """Return what was mended and what could not be, to be told to others.

        Ports that are bound are not among it: a process that starts binds them all.
        """
        names = {command.sandbox_id: command.label for command in slice.published}

        def difference(about: str, identity: str, value: str, reason: str | None = None) -> Difference:
            return Difference(
                worker="", what="ports", about=about, id=identity, value=value, repaired=reason is None, reason=reason
            )

        return [
            *(difference(f"sandbox {each[:12]}", each, "its ports are closed") for each in self.closed),
            *(difference(*told) for told in _told(self.repaired, names)),
            *(
                difference(names.get(each, f"sandbox {each[:12]}"), each, "ports cannot be published", error.message)
                for each, error in self.problems
            ),
        ]


async def compare(mapper: PortMapper, slice: PortSlice, *, since: int) -> list[Difference]:
    """Return what ``converge`` would do; nothing is changed."""
    wanted = {command.sandbox_id: command for command in slice.published}
    names = {sandbox_id: command.label for sandbox_id, command in wanted.items()}

    def difference(about: str, identity: str, value: str) -> Difference:
        return Difference(worker="", what="ports", about=about, id=identity, value=value)

    def ours(sandbox_id: str) -> bool:
        return sandbox_id not in slice.busy and not mapper.commanded_since(since, sandbox_id)

    stray = [each for each in mapper.sandboxes() if each not in wanted and ours(each)]
    missing = [each for each, command in wanted.items() if ours(each) and not mapper.stands(command)]
    return [
        *(difference(f"sandbox {each[:12]}", each, "its ports are open and should not be") for each in stray),
        *(difference(names[each], each, "its ports are not published as they should be") for each in missing),
        *(difference(*told) for told in _told(await mapper.compare(), names)),
    ]


def _told(steps: Sequence[Step | Remake], names: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield steps as they are told: whose, by name and id, and what; of very many the first."""
    for step in steps[:SHOWN]:
        yield *_whose(step, names), str(step)
    if len(steps) > SHOWN:
        yield *NODE, f"and {len(steps) - SHOWN} more"


def _whose(step: Step | Remake, names: Mapping[str, str]) -> tuple[str, str]:
    if isinstance(step, Remake):
        return NODE
    owner = step.translation.owner
    return names.get(owner, f"sandbox {owner[:12]}" if owner else "nobody"), owner


async def converge(mapper: PortMapper, slice: PortSlice, *, since: int) -> Convergence:
    """Make a node's ports as a slice tells.

    Sandboxes that are busy, or were commanded after the moment ``since``, keep what they have: the slice may be
    older than that. What the kernel lost of theirs is put back all the same.
    """
    spared = frozenset(slice.busy)
    wanted = {command.sandbox_id: command for command in slice.published}
    closed: list[str] = []
    published: list[str] = []
    problems: list[tuple[str, CnmError]] = []

    def ours(sandbox_id: str) -> bool:
        return sandbox_id not in spared and not mapper.commanded_since(since, sandbox_id)

    for sandbox_id in mapper.sandboxes():
        if sandbox_id in wanted or not ours(sandbox_id):
            continue
        try:
            await mapper.drop(sandbox_id)
        except CnmError as error:
            problems.append((sandbox_id, error))
        else:
            closed.append(sandbox_id)
    for sandbox_id, command in wanted.items():
        if mapper.stands(command) or not ours(sandbox_id):
            continue
        try:
            await mapper.ensure(command)
        except CnmError as error:
            problems.append((sandbox_id, error))
        else:
            published.append(sandbox_id)
    return Convergence(tuple(closed), tuple(published), await mapper.repair(), tuple(problems))
