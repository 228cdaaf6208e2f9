"""Which networks and endpoints commands have touched of late, so that an older slice does not undo them."""


class Touched:
    """Remembers ids by the moment they were touched.

    A slice is asked for at a moment; whatever a command touched since is newer than the slice says.
    """

    def __init__(self) -> None:
        self._moments: dict[str, int] = {}
        self._moment = 0

    def now(self) -> int:
        """Return the present moment."""
        return self._moment

    def touch(self, *identities: str) -> None:
        """Note that these are being touched."""
        self._moment += 1
        self._moments.update(dict.fromkeys(identities, self._moment))

    def since(self, moment: int) -> frozenset[str]:
        """Return what was touched after a moment."""
        return frozenset(identity for identity, touched in self._moments.items() if touched > moment)

    def forget(self, moment: int) -> None:
        """Forget what was touched up to a moment, when no slice from before it can still come."""
        self._moments = {identity: touched for identity, touched in self._moments.items() if touched > moment}
