"""Which sandboxes commands have touched of late, so that an older slice does not undo them."""

from collections import OrderedDict

from cnm_sandbox.namespace import HOST

REMEMBERED = 65_536


class Touched:
    """Remembers ids and namespaces in the order they were touched.

    A slice is asked for at a moment, ``now()``; whatever was touched since is newer than the slice says. What is
    forgotten counts as touched, so that a slice of long ago changes nothing.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._moments: OrderedDict[str, int] = OrderedDict()
        self._moment = 0
        self._forgotten = 0
        self._remembered = remembered

    def now(self) -> int:
        """Return the present moment."""
        return self._moment

    def mark(self, *keys: str) -> None:
        """Note that these are being touched; the host's namespace is everybody's and is not noted."""
        self._moment += 1
        for key in keys:
            if key != HOST:
                self._moments[key] = self._moment
                self._moments.move_to_end(key)
        while len(self._moments) > self._remembered:
            _, self._forgotten = self._moments.popitem(last=False)

    def since(self, moment: int, *keys: str) -> bool:
        """Tell whether any of these was touched after a moment."""
        return self._forgotten > moment or any(self._moments.get(key, 0) > moment for key in keys)
