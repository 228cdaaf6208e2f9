"""Settings of the ipam worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnm_ipam.predefined import ADDRESS_POOLS_VARIABLE, Predefined, parse_bases


@dataclass(frozen=True, kw_only=True)
class Settings:
    """``rest_s`` is how long a released address is kept from automatic choice for other owners."""

    rest_s: float = 10
    redis_connections: int = 32
    redis_timeout_s: float = 5
    predefined: Predefined = field(default_factory=Predefined)


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        Invalid: a variable is malformed; every fault is listed.

    """
    pools = environment.get(ADDRESS_POOLS_VARIABLE, "").strip()
    return Settings(predefined=Predefined(local=parse_bases(pools))) if pools else Settings()
