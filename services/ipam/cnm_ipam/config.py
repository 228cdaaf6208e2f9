"""Settings of the ipam worker."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cnm.errors import Invalid
from cnm_ipam.predefined import ADDRESS_POOLS_VARIABLE, Predefined, parse_bases

REST_VARIABLE = "CNM_ADDRESS_REST_S"
LONGEST_REST_S = 7 * 24 * 3600
MACHINE_ID = Path("/etc/machine-id")


def _random_id() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """``rest_s`` is how long a released address is kept from automatic choice for other owners.

    ``proposed_installation`` is the id that an installation gets from its first worker.
    """

    rest_s: float = 10
    redis_connections: int = 32
    redis_timeout_s: float = 5
    predefined: Predefined = field(default_factory=Predefined)
    proposed_installation: str = field(default_factory=_random_id)


def from_environment(environment: Mapping[str, str], *, machine_id: str = "", node: str = "") -> Settings:
    """Read the settings.

    Raises:
        Invalid: a variable is malformed; every fault is listed.

    """
    pools = environment.get(ADDRESS_POOLS_VARIABLE, "").strip()
    rest = environment.get(REST_VARIABLE, "").strip()
    return Settings(
        predefined=Predefined(local=parse_bases(pools)) if pools else Predefined(),
        rest_s=_parse_rest(rest) if rest else 10,
        proposed_installation=installation_of(machine_id, node) if machine_id else _random_id(),
    )


def _parse_rest(text: str) -> float:
    try:
        rest_s = float(text)
    except ValueError:
        rest_s = -1
    if not 0 <= rest_s <= LONGEST_REST_S:
        raise Invalid.at(REST_VARIABLE, text, f"expected seconds from 0 to {LONGEST_REST_S}, got {text!r}")
    return rest_s


def installation_of(machine_id: str, node: str) -> str:
    """Return the id of an installation that begins on a host: the same whenever it begins there anew.

    A machine's id is confidential (machine-id(5)), so it is only hashed.
    """
    return sha256(f"cnm installation {machine_id} {node}".encode()).hexdigest()[:32]


def read_machine_id(path: Path = MACHINE_ID) -> str:
    """Return the id of this machine, empty when it has none."""
    try:
        found = path.read_text().strip()
    except OSError:
        return ""
    return "" if found == "uninitialized" else found
