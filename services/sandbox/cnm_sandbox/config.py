"""Settings of the sandbox worker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnm.errors import Invalid
from cnm.patrol import BUDGET_S
from cnm.settings import WorkerSettings
from cnm.types import Address, parse_address


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the node's files are, and its address when that was told.

    ``patrol_budget_s`` is what a comparison may take for looking at that of which nothing tells that it changed.
    """

    run_dir: Path = Path("/run/cnm")
    node_address: Address | None = None
    hosts: Path = Path("/etc/hosts")
    resolv_conf: Path = Path("/etc/resolv.conf")
    systemd_resolv_conf: Path = Path("/run/systemd/resolve/resolv.conf")
    patrol_budget_s: float = BUDGET_S

    @property
    def namespaces(self) -> Path:
        """Where namespaces are mounted."""
        return self.run_dir / "netns"

    @property
    def directories(self) -> Path:
        """Where each sandbox has a directory for its files."""
        return self.run_dir / "sandboxes"

    @classmethod
    def of(cls, worker: WorkerSettings) -> Self:
        """Take what concerns us from a worker's settings.

        Raises:
            Invalid: ``CNM_NODE_ADDRESS`` is no address.
        """
        told = worker.node_address
        try:
            return cls(run_dir=worker.run_dir, node_address=parse_address(told) if told else None)
        except ValueError as error:
            raise Invalid.at("CNM_NODE_ADDRESS", told, str(error)) from None
