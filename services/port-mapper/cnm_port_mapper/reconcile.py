"""From what a node's ports are to what they should be: after a start, a lost message, somebody's flush."""

from dataclasses import dataclass

from cnm.errors import CnmError
from cnm.messages.node import PortSlice
from cnm_port_mapper.mapper import PortMapper
from cnm_port_mapper.rules import Step


@dataclass(frozen=True)
class Convergence:
    """What it took; ``problems`` holds, by sandbox, what could not be made so."""

    closed: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    repaired: tuple[Step, ...] = ()
    problems: tuple[tuple[str, CnmError], ...] = ()

    def lines(self) -> list[str]:
        """Tell of it in words."""
        return [
            *(f"closed the ports of sandbox {sandbox_id}" for sandbox_id in self.closed),
            *(f"published the ports of sandbox {sandbox_id}" for sandbox_id in self.published),
            *(str(step) for step in self.repaired),
            *(f"sandbox {sandbox_id}: {error}" for sandbox_id, error in self.problems),
        ]


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
