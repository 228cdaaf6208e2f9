"""Which sandboxes a comparison looks at closely: those that something tells of, and the others in turn."""

from collections.abc import Hashable, Iterator, Mapping

from cnm.kernel.watch import Changes
from cnm.messages.namespace import SandboxSpec
from cnm.patrol import Patrol

Looked = tuple[SandboxSpec, Hashable]
"""A sandbox as it should be, and what a glance told of it."""


class Rounds:
    """Remembers which sandboxes were looked at, and whose each namespace is."""

    def __init__(self, patrol: Patrol[Looked]) -> None:
        self._patrol = patrol
        self._owners: dict[int, str] = {}

    def note(self, changes: Changes) -> None:
        """Suspect the sandboxes in whose namespaces something changed."""
        if changes.lost:
            self.suspect_all()
        self._patrol.suspect(*(self._owners[each] for each in changes.namespaces if each in self._owners))

    def suspect_all(self) -> None:
        """Suspect every sandbox."""
        self._patrol.suspect_all()

    def turn(self, wanted: Mapping[str, Looked]) -> Iterator[str]:
        """Yield the ids of those to look at now, by what is wanted and what a glance tells."""
        if len(self._owners) > 2 * len(wanted):
            self._owners = {number: owner for number, owner in self._owners.items() if owner in wanted}
        return self._patrol.turn(wanted)

    def failed(self, sandbox_id: str) -> None:
        """Have a sandbox looked at again, for this look told nothing."""
        self._patrol.suspect(sandbox_id)

    def own(self, sandbox_id: str, namespace_id: int | None) -> None:
        """Note whose a namespace is, by its id among the node's."""
        if namespace_id is not None:
            self._owners[namespace_id] = sandbox_id
