"""Which ids commands have touched of late, so that a slice that was asked for earlier does not undo them."""

from collections import OrderedDict

from cnm.lately import Lately

REMEMBERED = 65_536


class Touched:
    """Remembers ids by the moment they were last touched.

    A slice is asked for at a moment, ``now()``; whatever was touched since is newer than the slice says. What had to
    be forgotten counts as touched, so that a slice of long ago changes nothing. ``lately`` has those of the last
    moments.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._moments: OrderedDict[str, int] = OrderedDict()
        self._moment = 0
        self._forgotten = 0
        self._remembered = remembered
        self.lately = Lately()

    def now(self) -> int:
        """Return the present moment."""
        return self._moment

    def touch(self, *ids: str) -> None:
        """Note that these are being touched."""
        self._moment += 1
        self.lately.note(*ids)
        for each in ids:
            self._moments[each] = self._moment
            self._moments.move_to_end(each)
        while len(self._moments) > self._remembered:
            _, self._forgotten = self._moments.popitem(last=False)

    def since(self, moment: int, *ids: str) -> bool:
        """Tell whether any of these was touched after a moment."""
        return self._forgotten > moment or any(self._moments.get(each, 0) > moment for each in ids)

    def ids_since(self, moment: int) -> frozenset[str]:
        """Return what was touched after a moment and is remembered."""
        return frozenset(each for each, touched in self._moments.items() if touched > moment)

    def forget(self, moment: int) -> None:
        """Forget what was touched up to a moment, when no slice from before it can still come."""
        while self._moments and next(iter(self._moments.values())) <= moment:
            self._moments.popitem(last=False)
