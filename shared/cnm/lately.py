"""What was noted within the last moments, so that what is heard of it is known to be our own doing."""

import time
from collections import OrderedDict
from collections.abc import Callable

WITHIN_S = 0.5


class Lately:
    """Remembers ids for a while; any of them at all makes it true."""

    def __init__(self, *, within_s: float = WITHIN_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._within_s = within_s
        self._clock = clock
        self._noted: OrderedDict[str, float] = OrderedDict()

    def note(self, *ids: str) -> None:
        """Note that something is done about these now."""
        now = self._clock()
        for each in ids:
            self._noted[each] = now
            self._noted.move_to_end(each)
        self._forget()

    def __contains__(self, identity: str) -> bool:
        """Tell whether something was done about this."""
        self._forget()
        return identity in self._noted

    def __bool__(self) -> bool:
        """Tell whether anything was done."""
        self._forget()
        return bool(self._noted)

    def _forget(self) -> None:
        limit = self._clock() - self._within_s
        while self._noted and next(iter(self._noted.values())) < limit:
            self._noted.popitem(last=False)
