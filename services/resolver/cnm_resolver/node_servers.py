"""The node's own name servers, read anew at every turn, so that a VPN that comes up is seen."""

from pathlib import Path

from cnm_resolver.forward import resolv_conf_servers
from cnm_resolver.zone import Server

RESOLV_CONF = Path("/etc/resolv.conf")


def node_servers(path: Path = RESOLV_CONF) -> tuple[Server, ...]:
    """Return the servers of the node's resolv.conf; without a readable one there are none."""
    try:
        return resolv_conf_servers(path.read_text(errors="replace"))
    except OSError:
        return ()
