"""What the resolver tells of questions, servers and names."""

from cnm.metrics import (
    DNS_KEPT,
    DNS_KEPT_BYTES,
    DNS_NAMES,
    DNS_QUESTIONS,
    DNS_SANDBOXES,
    DNS_SERVER,
    DNS_SERVER_TIME,
    DNS_TIMES,
    DNS_ZONES,
    Sample,
    Source,
    first,
)
from cnm.tally import Counts, Distribution
from cnm_resolver.cache import Cache
from cnm_resolver.counters import BOUNDS_S, Counters
from cnm_resolver.handlers import CODES, TYPES
from cnm_resolver.names import Names
from cnm_resolver.zone import Server

OTHER = "other"
NO_REPLY = "none"
PORT = 53


def source(names: Names, cache: Cache, most: int) -> Source:
    """Return what is told: of at most so many external servers one by one."""

    async def read() -> list[Sample]:
        counters = names.listeners.counters
        return [
            *_questions(counters),
            *_servers(counters, most),
            DNS_NAMES(len(names.directory.endpoints())),
            DNS_ZONES(len(names.directory.networks())),
            DNS_SANDBOXES(len(names.listeners)),
            DNS_KEPT(len(cache)),
            DNS_KEPT_BYTES(cache.size),
        ]

    return Source("dns", read)


def _questions(counters: Counters) -> list[Sample]:
    """Return questions and times; whoever asks chooses the type of record, so that unusual ones are one."""
    counts = Counts()
    for (source, kind, code), times in counters.questions.items():
        outcome = NO_REPLY if code < 0 else CODES.get(code, OTHER)
        counts.add(source, TYPES.get(kind, OTHER), outcome, times=times)
    times_of = sorted(counters.times.items())
    return [
        *DNS_QUESTIONS.each(counts),
        *(
            DNS_TIMES(Distribution(BOUNDS_S, tuple(found), counters.seconds[source]), source)
            for source, found in times_of
        ),
    ]


def _servers(counters: Counters, most: int) -> list[Sample]:
    shown, left_out = first(sorted(counters.servers.items(), key=lambda pair: _label(pair[0])), most, "server")
    found = [left_out]
    for server, health in shown:
        label = _label(server)
        for outcome, count in (("answered", health.answered), ("failed", health.failed), ("silent", health.silent)):
            found.append(DNS_SERVER(count, label, outcome))
        if health.last_s is not None:
            found.append(DNS_SERVER_TIME(health.last_s, label))
    return found


def _label(server: Server) -> str:
    port = "" if server.port == PORT else f" port {server.port}"
    return f"{server.address}{port}{' (in the sandbox)' if server.inside else ''}"
