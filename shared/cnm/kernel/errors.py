"""What a kernel refuses.

OSError
└── KernelError     netlink: which step, its errno, the kernel's own explanation
    └── NftError    libnftables: its text, the errno found in it
"""

import os
from collections.abc import Collection


class KernelError(OSError):
    """A step that the kernel refused.

    ``index`` is the step's place in what was sent; ``applied`` holds the places of those that were carried
    out all the same (rtnetlink goes on after an error, an nfnetlink batch is all or nothing).
    """

    def __init__(
        self, number: int, *, step: str = "", reason: str = "", index: int = 0, applied: Collection[int] = ()
    ) -> None:
        super().__init__(number, os.strerror(number))
        self.step = step
        self.reason = reason
        self.index = index
        self.applied = tuple(applied)

    def __str__(self) -> str:
        parts = (self.step, self.reason, os.strerror(self.errno or 0))
        return ": ".join(part for part in parts if part)


class NftError(KernelError):
    """A transaction that libnftables or the kernel refused; nothing of it was applied."""

    def __str__(self) -> str:
        return self.reason or super().__str__()
